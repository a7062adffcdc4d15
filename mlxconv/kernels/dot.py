"""Few outputs: dot products of windows with filters as they lie in memory.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         a few output positions, such as one step of a stream: to pack filters would take
            longer than to use them once.  And a few filters on any number of positions, such as
            the last layer of a decoder, where most lanes of a panel would be empty.
Layout      vectors run over the sum, filters stay as they are

                window  [x x x x x x x x] [x x x x ...      filter  [w w w w w w w w] [w w w w ...

            For few positions windows are copied one behind the other; for few filters they are
            read where they lie, in the blocks of loops.py, and a panel is a single filter.  Taps of
            one filter stay in registers, and each vector of x serves all positions that meet it.
Registers   few positions: 4 filters x 3 positions = 12 accumulators + 3 of windows + 1 of a filter,
            or x 2; each pass over the positions reads the filters again.  Few filters: see TILES,
            all at a time or some; one filter: see SLIDING.
Order       few positions: every lane sums each LANES-th product.  Few filters: each LANES-th
            channel of a tap, tap by tap, or of one filter channels by channels; then halves are
            added until one is left: not the order of the other variants.
Bound       few positions: memory, as every weight is read once.  Few filters: multiply-adds; rows
            that come from memory are asked for by tiles before, 0.3 to 0.9 of the time, spread over
            the sum, lest they wait for each other.
"""

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.dot_tiling import (
    MOST_FILTERS,
    MOST_POSITIONS,
    best_tile,
    is_ragged,
    meets_few_filters,
    stay,
    taps_inside,
    tiles_ahead,
)
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import SUSPECT
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.padding import meets_padding
from mlxconv.kernels.schedule import Layout, Schedule, Step, schedule_of
from mlxconv.kernels.window import gathers
from mlxconv.simd.shuffles import add_halves, sum_lanes
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import fma, load, load_n, prefetch, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

FILTERS = 4  # of few positions: with two of these 8 sums hide a latency of 4 cycles on two units
WINDOWS = 1 << 16  # elements of all windows together: 256 KB stay in L2
COST = 2  # of a FLOP, in those of a tile: weights come from L3 or from further away


@kernel(inline="always")
def take(vec, a, i, n, rest):
    """A vector of a[i], ..., or its first n elements if they are the `rest` of some."""
    return load_n(vec, a, i, n) if rest else load(vec, a, i)


@lru_cache
def micro_kernel(
    MR, NF, vec, RAGGED=0, PASSES=0, BESIDE=0, TAPS=0, STRIDE=1, ASKS=0, TILES_AHEAD=0
):
    """The inner loops around a tile of MR positions x NF filters, all of a group unless there are
    PASSES; whether the last vector of a tap is RAGGED: its channels do not fill it; whether outputs
    of neighbouring positions may lie BESIDE each other, so that a vector holds those of many.  With
    TAPS a vector of channels meets all taps before the next does; so many of a single filter serve
    its positions from registers, where these are STRIDE taps apart.  What the tile reads anew that
    is so many AHEAD is asked for, ASKS vectors with each of the sum."""
    LANES = vec.lanes
    SUMS = min(LANES, 1 << (NF - 1).bit_length())  # of a position, that become one vector
    SINGLE, WHOLE = SUMS.bit_length() - 1, LANES.bit_length() - 1

    @kernel
    def dot_tile(x, runs, panel, y, positions, filters, mode):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s] * panel[o][rows[r] + s], for
        m < positions and o < filters; runs are whole taps, positions >= MR, filters >= NF."""
        acc = registers(MR, NF)
        w = registers(max(NF, TAPS))
        t = registers(LANES)
        channels, whole = runs.channels, runs.channels - runs.channels % LANES
        slid = 0  # elements of a run whose taps serve several positions
        if TAPS > 1 and x.step == STRIDE * channels:
            slid = runs.length // (TAPS * channels) * (TAPS * channels)
        for i in range(0, positions, MR):
            l = min(i, positions - MR)
            ahead = x.at + (l + TILES_AHEAD * MR - 1) * x.step + runs.length
            if TILES_AHEAD and runs.count > 0:
                ahead += runs.table[2 * runs.count - 2]
            behind = ahead + MR * x.step
            for p in range(0, filters if PASSES else NF, NF):  # the last pass overlaps
                o = min(p, filters - NF) if PASSES else 0
                for m in static_range(MR):
                    for f in static_range(NF):
                        acc[m, f] = zero(vec)
                for REST in static_range(RAGGED + 1):  # whole vectors of channels, then others
                    first, last = 0, (whole if TAPS else min(whole, LANES) if RAGGED else LANES)
                    if REST:
                        first, last = whole, channels
                    for c in range(first, last, LANES):
                        for r in range(runs.count):
                            x_r = x.at + l * x.step + runs.table[2 * r] + c
                            w_r = panel.at + o * panel.step + runs.table[2 * r + 1] + c
                            if TAPS > 1:
                                for s in range(0, slid, TAPS * channels):
                                    if TILES_AHEAD and ahead < behind:
                                        for i in static_range(TAPS * ASKS):
                                            prefetch(vec, x.a, ahead + i * LANES)
                                        ahead += TAPS * ASKS * LANES
                                    for k in static_range(TAPS):
                                        at = w_r + s + k * channels
                                        w[k] = take(vec, panel.a, at, channels - c, REST)
                                    for j in static_range((MR - 1) * STRIDE + TAPS):
                                        at = x_r + s + j * channels
                                        x_j = take(vec, x.a, at, channels - c, REST)
                                        for k in static_range(TAPS):
                                            if (j - k) % STRIDE == 0 and 0 <= j - k < MR * STRIDE:
                                                acc[(j - k) // STRIDE, 0] = fma(
                                                    x_j, w[k], acc[(j - k) // STRIDE, 0]
                                                )
                            s, end = slid, whole
                            while s < runs.length:
                                if TILES_AHEAD and ahead < behind:
                                    for i in static_range(ASKS):
                                        prefetch(vec, x.a, ahead + i * LANES)
                                    ahead += ASKS * LANES
                                for f in static_range(NF):
                                    at = w_r + f * panel.step + s
                                    w[f] = take(vec, panel.a, at, channels - c, REST)
                                for m in static_range(MR):
                                    x_ms = take(vec, x.a, x_r + m * x.step + s, channels - c, REST)
                                    for f in static_range(NF):
                                        acc[m, f] = fma(x_ms, w[f], acc[m, f])
                                s += channels if TAPS or REST else LANES
                                if RAGGED and not (TAPS or REST) and s >= end:
                                    s, end = s + channels - whole, end + channels
                if BESIDE and y.step == NF:  # 15 additions make 16 sums of 16 lanes, one by one 64
                    for i in static_range(0, MR * NF, LANES):
                        for j in static_range(LANES):
                            t[j] = acc[min(i + j, MR * NF - 1) // NF, min(i + j, MR * NF - 1) % NF]
                        for k in static_range(WHOLE):  # two vectors to one, of twice as many sums
                            for j in static_range(0, LANES, 2 << k):
                                t[j] = add_halves(t[j], t[j + (1 << k)], 1 << k)
                        store_n(t[0], y.a, y.at + l * NF + i, MR * NF - i)
                else:
                    for m in static_range(MR):
                        for f in static_range(0, NF, SUMS):
                            for j in static_range(SUMS):
                                t[j] = acc[m, min(f + j, NF - 1)]
                            for k in static_range(SINGLE):
                                for j in static_range(0, SUMS, 2 << k):
                                    t[j] = add_halves(t[j], t[j + (1 << k)], 1 << k)
                            for k in static_range(SINGLE, WHOLE):  # until each sum is one lane
                                t[0] = add_halves(t[0], t[0], 1 << k)
                            store_n(t[0], y.a, y.at + (l + m) * y.step + o + f, NF - f)

    return dot_tile


@lru_cache
def dots(elements, vec, NP):
    """The tile of NP positions x FILTERS, for these types of input and output."""
    LANES, FILTERS_, narrow = vec.lanes, FILTERS, elements.narrow

    @kernel
    def dots(data, m, o, last, positions, S):
        """y[m + j, o + i] = windows[m + j] . filters[o + i], j < NP, i < FILTERS, as far as there
        are any; how many are NaN."""
        g, scratch, w = data.geometry[0], data.scratch, data.w
        suspect = 0
        acc = registers(FILTERS_, NP, fill=zero(vec))
        x = registers(NP)
        row = registers(FILTERS_)
        for i in static_range(FILTERS_):
            row[i] = min(o + i, last) * S
        for s in range(0, S, LANES):
            if s + LANES <= S:
                for j in static_range(NP):
                    x[j] = load(vec, scratch, min(m + j, positions - 1) * S + s)
                for i in static_range(FILTERS_):
                    w_is = load(vec, w, row[i] + s)
                    for j in static_range(NP):
                        acc[i, j] = fma(x[j], w_is, acc[i, j])
            else:
                for j in static_range(NP):
                    x[j] = load_n(vec, scratch, min(m + j, positions - 1) * S + s, S - s)
                for i in static_range(FILTERS_):
                    w_is = load_n(vec, w, row[i] + s, S - s)
                    for j in static_range(NP):
                        acc[i, j] = fma(x[j], w_is, acc[i, j])
        for i in static_range(FILTERS_):
            for j in static_range(NP):
                total = sum_lanes(acc[i, j])
                suspect += total != total
                to = min(m + j, positions - 1) * g.y_step[2] + min(o + i, last)
                data.y[to] = narrow(total)
        return suspect

    return dots


@lru_cache
def range_kernel(elements, vec):
    """The kernel over blocks of filters of a group, for these types of input and output."""
    gather, FILTERS_ = gathers(elements, vec), FILTERS
    two, three = dots(elements, vec, 2), dots(elements, vec, 3)

    @kernel
    def dot(data, lo, hi):
        """y[n, l, o] of all positions for blocks of filters [lo, hi), counted over groups; three
        positions at a time, unless that leaves one over."""
        g = data.geometry[0]
        S = g.K[0] * g.K[1] * g.K[2] * g.C
        positions = g.N * g.out[0] * g.out[1] * g.out[2]
        gathered, suspect = -1, 0
        for job in range(lo, hi):
            group, b = job // g.blocks, job % g.blocks
            if group != gathered:
                gather(data, group, 0, positions, S)
                gathered = group
            o0, last = group * g.O, (group + 1) * g.O - 1
            for o in range(o0 + b * g.NR, o0 + min((b + 1) * g.NR, g.O), FILTERS_):
                m = 0
                while m < positions:
                    if positions - m == 3 or positions - m > 4:
                        suspect += three(data, m, o, last, positions, S)
                        m += 3
                    else:
                        suspect += two(data, m, o, last, positions, S)
                        m += 2
        if suspect:
            data.counters[SUSPECT] = 1

    return dot


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    if meets_few_filters(p):
        return ""
    positions = math.prod(p.output_L)
    if positions >= MOST_POSITIONS:
        return (
            f"there are {positions} output positions, not less than {MOST_POSITIONS}, and more "
            f"than {MOST_FILTERS} filters, or channels that leave lanes of vectors empty"
        )
    if p.N * positions * math.prod(p.K) * (p.C // p.groups) > WINDOWS:
        return f"all windows together have more than {WINDOWS} elements"
    return ""


def schedule(p: "Problem") -> Schedule:
    """Tiles for few filters; for few positions, one job for every few filters of a group."""
    if meets_few_filters(p):
        tile, ahead = best_tile(p), tiles_ahead(p)
        options = {
            "RAGGED": int(is_ragged(p)),
            "PASSES": int(tile.shape[1] < p.O // p.groups),
            "BESIDE": int(tile.shape[1] == p.O),
            "TAPS": taps_inside(p),
            "STRIDE": p.stride[-1],
            "ASKS": -(-tile.shape[0] * p.stride[-1] // math.prod(p.K)),
        }
        asked = {"TILES_AHEAD": ahead} if ahead else {}
        layout = Layout(in_vectors=True, by_filter=stay(p), ahead=asked)
        return schedule_of(p, partial(micro_kernel, **options), tile, layout)
    elements = Elements(p.input_dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    g, filters = geometry_of(p), p.O // p.groups
    g["NR"] = FILTERS * max(1, min(8, filters // (8 * FILTERS * processor.cores())))
    g["blocks"], g["MR"], g["rows"] = -(-filters // int(g["NR"][0])), 1, 1
    positions = p.N * math.prod(p.output_L)
    jobs = p.groups * int(g["blocks"][0])
    step = Step(range_kernel(elements, vec), jobs, COST * p.flop)
    tile = f"{2 if positions in (1, 2, 4) else 3}x{FILTERS} filters {vec.name}"
    split = (("groups", p.groups), ("blocks of filters", int(g["blocks"][0])))
    suspects = meets_padding(p)
    windows = positions * math.prod(p.K) * p.C // p.groups
    return Schedule(elements, g, (step,), tile, scratch=windows, split=split, suspects=suspects)
