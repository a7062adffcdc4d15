"""Few outputs: dot products of windows with filters as they lie in memory.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         a few output positions, such as one step of a stream: to pack filters would take
            longer than to use them once.  And a few filters on any number of positions, such as
            the last layer of a decoder, where most lanes of a panel would be empty.
Layout      vectors run over the sum, filters stay as they are

                window  [x x x x x x x x] [x x x x ...      filter  [w w w w w w w w] [w w w w ...

            For few positions windows are copied one behind the other; for few filters they are
            read where they lie, in the blocks of loops.py, and a panel is a single filter.  One
            filter stays in registers, and each vector of x serves all positions that meet it.
Registers   few positions: 4 filters x 3 positions = 12 accumulators + 3 of windows + 1 of a filter,
            or x 2; each pass over the positions reads the filters again.  Few filters: see TILES;
            one filter: see SLIDING.
Order       every lane sums each LANES-th product, the rest of a window joins the first lanes, then
            halves are added until one is left: not the order of the other variants.
Bound       memory: every weight is read once.  Rows that come from there are asked for by tiles
            before, 0.6 to 0.9 of the time, spread over the sum, lest they wait for each other.
"""

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import SUSPECT
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.padding import meets_padding
from mlxconv.kernels.schedule import (
    Layout,
    Schedule,
    Step,
    Tile,
    itemsize_of,
    lanes_of,
    schedule_of,
)
from mlxconv.kernels.window import gathers
from mlxconv.simd.shuffles import add_halves, sum_lanes
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import fma, load, load_n, prefetch, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

FILTERS = 4  # of few positions: with two of these 8 sums hide a latency of 4 cycles on two units
MOST_POSITIONS = 8  # of one image: with more the order of summation may not depend on the batch
WINDOWS = 1 << 16  # elements of all windows together: 256 KB stay in L2
# registers of the machine -> positions for 1, 2, ... filters, each a sum of its own; windows are
# operands, and each load of theirs feeds as many multiply-adds as there are filters
TILES = {
    16: (12, 6, 4, 2),  # 12 + 1, 12 + 2 + 1, 12 + 3 + 1, 8 + 4 + 1 of 16
    32: (14, 10, 8, 6, 5, 4, 3, 2, 2, 2),  # 14 + 1, 20 + 2 + 1, ..., 20 + 10 + 1 of 32
}
# registers -> positions, and vectors of a filter, where each vector of x serves several of them
SLIDING = {
    16: (8, 6),  # 8 + 6 + 1
    32: (14, 14),  # 14 + 14 + 1: with 16 channels 27 loads of x feed 196 multiply-adds
}
FEW_ROWS = 6  # leave two of eight ways of a set of L1 to filters and outputs
ASKED_BYTES = 256  # of rows that are asked for; processors foresee narrower ones, and single taps
COST = 2  # of a FLOP, in those of a tile: weights come from L3 or from further away


@lru_cache
def micro_kernel(MR, NF, vec, BESIDE=0, STEP=1, BLOCK=0, ASKS=0, TILES_AHEAD=0):
    """The inner loops around a tile of MR positions x NF filters; whether outputs of neighbouring
    positions may lie BESIDE each other, so that a vector holds those of many.  Where these are STEP
    vectors apart, BLOCK vectors of a single filter serve them from registers.  What the tile reads
    anew that is so many AHEAD is asked for, ASKS vectors with each of the sum."""
    LANES = vec.lanes
    SUMS = min(LANES, 1 << (NF - 1).bit_length())  # of a position, that become one vector
    SINGLE, WHOLE = SUMS.bit_length() - 1, LANES.bit_length() - 1

    @kernel
    def dot_tile(x, runs, panel, y, positions, filters, mode):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s] * panel[o][rows[r] + s], for
        m < positions and o < filters = NF; runs are whole vectors, positions >= MR."""
        acc = registers(MR, NF)
        w = registers(max(NF, BLOCK))
        t = registers(LANES)
        for i in range(0, positions, MR):
            l = min(i, positions - MR)
            for m in static_range(MR):
                for f in static_range(NF):
                    acc[m, f] = zero(vec)
            ahead = x.at + (l + TILES_AHEAD * MR - 1) * x.step + runs.length
            if TILES_AHEAD and runs.count > 0:
                ahead += runs.table[2 * runs.count - 2]
            for r in range(runs.count):
                x_r = x.at + l * x.step + runs.table[2 * r]
                w_r = panel.at + runs.table[2 * r + 1]
                asked = ASKS * runs.table[2 * r + 1]  # before this run, of MR rows
                slid = 0
                if BLOCK and x.step == STEP * LANES:
                    slid = runs.length // (BLOCK * LANES) * (BLOCK * LANES)
                    for s in range(0, slid, BLOCK * LANES):
                        if TILES_AHEAD and asked + ASKS * s < MR * x.step:
                            for i in static_range(BLOCK * ASKS):
                                prefetch(vec, x.a, ahead + asked + ASKS * s + i * LANES)
                        for k in static_range(BLOCK):
                            w[k] = load(vec, panel.a, w_r + s + k * LANES)
                        for j in static_range((MR - 1) * STEP + BLOCK):
                            x_j = load(vec, x.a, x_r + s + j * LANES)
                            for k in static_range(BLOCK):
                                if (j - k) % STEP == 0 and 0 <= j - k < MR * STEP:
                                    acc[(j - k) // STEP, 0] = fma(
                                        x_j, w[k], acc[(j - k) // STEP, 0]
                                    )
                for s in range(slid, runs.length, LANES):
                    if TILES_AHEAD and asked + ASKS * s < MR * x.step:
                        for i in static_range(ASKS):
                            prefetch(vec, x.a, ahead + asked + ASKS * s + i * LANES)
                    for f in static_range(NF):
                        w[f] = load(vec, panel.a, w_r + f * panel.step + s)
                    for m in static_range(MR):
                        x_ms = load(vec, x.a, x_r + m * x.step + s)
                        for f in static_range(NF):
                            acc[m, f] = fma(x_ms, w[f], acc[m, f])
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
                        store_n(t[0], y.a, y.at + (l + m) * y.step + f, NF - f)

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
            f"than {len(tiles())} filters, or channels that do not fill vectors of {lanes_of(p)}"
        )
    if p.N * positions * math.prod(p.K) * (p.C // p.groups) > WINDOWS:
        return f"all windows together have more than {WINDOWS} elements"
    return ""


def tiles() -> tuple[Tile, ...]:
    """Those of this machine, for 1, 2, ... filters."""
    return tuple(Tile((MR, i + 1), 0.5) for i, MR in enumerate(TILES[processor.registers()]))


def meets_few_filters(p: "Problem") -> bool:
    """Whether there are few filters, on more than a few positions.  Channels fill vectors, since
    else the lane of a product would depend on how taps lie in memory."""
    return (
        0 < p.O // p.groups <= len(tiles())
        and (p.C // p.groups) % lanes_of(p) == 0
        and math.prod(p.output_L) >= MOST_POSITIONS
    )


def _tile(p: "Problem", filters: int, slides: bool) -> Tile:
    """The one for so many filters, with fewer rows where these would crowd a set of L1, in which a
    line of theirs has to stay for two vectors: 1024 channels, one filter take half the time."""
    tile, step = tiles()[filters - 1], p.stride[-1] * p.C * itemsize_of(p)
    if slides:
        return tile._replace(shape=(SLIDING[processor.registers()][0], filters))
    crowded = processor.filled(step, tile.shape[0]) >= 1
    few = min(tile.shape[0], FEW_ROWS)
    return tile._replace(shape=(few, filters)) if crowded else tile


def _slides(p: "Problem", filters: int) -> tuple[int, int]:
    """The vectors between neighbouring positions, and those of a single filter that serve them from
    registers, as many as leave the fewest over: if each vector of x feeds two of them or more."""
    step, length = (n * p.C // lanes_of(p) for n in (p.stride[-1], p.K[-1]))
    choices = range(min(SLIDING[processor.registers()][1], length), max(1, 2 * step - 1), -1)
    if filters > 1 or p.groups > 1 or p.kernel_dilation[-1] > 1 or not choices:
        return 1, 0
    return step, min(choices, key=lambda block: length % block)


def schedule(p: "Problem") -> Schedule:
    """Tiles for few filters; for few positions, one job for every few filters of a group."""
    if meets_few_filters(p):
        filters = p.O // p.groups
        step, block = _slides(p, filters)
        tile = _tile(p, filters, block > 0)
        asks = -(-tile.shape[0] * p.stride[-1] // math.prod(p.K))
        options = {"BESIDE": int(p.groups == 1), "STEP": step, "BLOCK": block, "ASKS": asks}
        foreseen = p.C * itemsize_of(p) < ASKED_BYTES or p.K[-1] < max(2, p.stride[-1])
        ahead = {} if foreseen else {"TILES_AHEAD": 2}
        layout = Layout(in_vectors=True, by_filter=True, ahead=ahead)
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
