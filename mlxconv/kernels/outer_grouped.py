"""Gradients by the filters of narrow groups: vectors over the filters of several groups.

Computes    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - padding + k*dilation, first
            channel of the group of o + c], with one to three spatial axes.
Layout      a row of x is put into the lanes of the filters that it meets, as grouped.py does, and
            of depthwise problems it is those lanes; where taps are as far apart as positions, a
            row that is loaded once meets ROWS rows of dy in registers, as it belongs to other taps
            of theirs

                x row l+j  meets  tap 0 of position l+j, tap 1 of l+j-1, tap 2 of l+j-2, ...

Registers   SETS x TAPS sums + ROWS rows of dy + 1 row of x: 11 of 16.
Order       SETS chains of multiply-adds for every weight, over its positions in order within a
            piece of the batch; chains are added, then pieces in their order, and how many there are
            depends on the problem alone.
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels import grouped
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.layouts import across_groups, geometry_of, in_parts
from mlxconv.kernels.outer import Work, over_blocks, range_kernel
from mlxconv.kernels.schedule import Schedule
from mlxconv.simd.shuffles import broadcast_each
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import fma, load, load_n, store_n

if TYPE_CHECKING:
    from mlxconv.problem import Problem

TAPS, SETS, ROWS = 3, 2, 4  # six chains hide most of the latency; 10 loads feed 12 FMA
POSITIONS = 256  # of a line of a block, at the most
CHANNELS = 64  # of a part, at the least
JOBS = 16  # at the least, if there is work for so many
APART = 8  # multiply-adds in the time of one whose rows of x meet a single tap
JOB_FLOP = 1e5  # of a piece, at the least: to add it up afterwards costs as well


@lru_cache
def micro_kernel(GROUP, CHANNELS, vec):
    """The loops around a tile of TAPS taps of one vector of filters, GROUP of each group, which has
    CHANNELS, or any number if that is 0."""
    NR, TAPS_, SETS_, ROWS_ = vec.lanes // GROUP * GROUP, TAPS, SETS, ROWS
    TURNS = grouped.turns(GROUP, CHANNELS)

    @kernel
    def add_taps(a, to, apart, x, c, runs, x_r, dy, d_o, positions):
        """The sums at `to` of one line of taps, for channels c ... c + TURNS of each group."""
        acc = registers(SETS_, TAPS_)
        d = registers(ROWS_)
        C = CHANNELS or runs.channels
        blocked = runs.length // TAPS_ * TAPS_ if runs.step == x.step else 0
        whole = positions // ROWS_ * ROWS_
        for u in static_range(TURNS):
            for s in range(0, blocked, TAPS_):
                for i in static_range(SETS_):
                    for t in static_range(TAPS_):
                        at = to + ((s + t) * C + c + u) * NR + i * apart
                        acc[i, t] = load(vec, a, at)
                for m in range(0, whole, ROWS_):
                    for i in static_range(ROWS_):
                        d[i] = load_n(vec, dy.a, d_o + (m + i) * dy.step, NR)
                    for j in static_range(ROWS_ + TAPS_ - 1):
                        x_j = broadcast_each(
                            vec, x.a, x_r + c + (m + s + j) * x.step, C, GROUP, u, TURNS
                        )
                        for t in static_range(TAPS_):
                            for i in static_range(ROWS_):
                                if i == j - t:
                                    acc[i % SETS_, t] = fma(d[i], x_j, acc[i % SETS_, t])
                for m in range(whole, positions):
                    d_m = load_n(vec, dy.a, d_o + m * dy.step, NR)
                    for t in static_range(TAPS_):
                        x_t = broadcast_each(
                            vec, x.a, x_r + c + (m + s + t) * x.step, C, GROUP, u, TURNS
                        )
                        acc[0, t] = fma(d_m, x_t, acc[0, t])
                for i in static_range(SETS_):
                    for t in static_range(TAPS_):
                        at = to + ((s + t) * C + c + u) * NR + i * apart
                        store_n(acc[i, t], a, at, NR)
            for s in range(blocked, runs.length):
                for i in static_range(SETS_):
                    acc[i, 0] = load(vec, a, to + (s * C + c + u) * NR + i * apart)
                x_s = x_r + c + s * runs.step
                for m in range(0, positions - SETS_ + 1, SETS_):
                    for i in static_range(SETS_):
                        d[i] = load_n(vec, dy.a, d_o + (m + i) * dy.step, NR)
                        x_i = broadcast_each(vec, x.a, x_s + (m + i) * x.step, C, GROUP, u, TURNS)
                        acc[i, 0] = fma(d[i], x_i, acc[i, 0])
                for m in range(positions // SETS_ * SETS_, positions):
                    d_m = load_n(vec, dy.a, d_o + m * dy.step, NR)
                    x_m = broadcast_each(vec, x.a, x_s + m * x.step, C, GROUP, u, TURNS)
                    acc[0, 0] = fma(d_m, x_m, acc[0, 0])
                for i in static_range(SETS_):
                    store_n(acc[i, 0], a, to + (s * C + c + u) * NR + i * apart, NR)

    @kernel
    def add_lines(x, line, runs, dy, dy_line, sums, block, filters):
        """sums[set][p][rows[r] + s*C + c][o] += sum over the positions of `block` of dy[o] *
        x[runs[r] + s*step + c of the group of o], for each vector p of filters, the last one
        overlapping."""
        apart, C = -(-filters // NR) * sums.step, CHANNELS or runs.channels
        for j in range(block.lines):
            for p in range(0, filters, NR):
                o = max(0, min(p, filters - NR))
                x_o, d_o = x.at + j * line + o // GROUP * C, dy.at + j * dy_line + o
                for r in range(runs.count):
                    x_r = x_o + runs.table[2 * r]
                    to = sums.at + p // NR * sums.step + runs.table[2 * r + 1] * NR
                    for c in range(0, C, TURNS):
                        add_taps(sums.a, to, apart, x, c, runs, x_r, dy, d_o, block.rows)

    return add_lines


@lru_cache
def sum_writers(NR):
    """write_sums for vectors of so many filters."""
    SETS_ = SETS

    @kernel
    def write_sums(data, sums, unit, first, filters, columns):
        """The sums of one job as they lie in the filters; whether there is no NaN among them."""
        to = (unit * data.geometry[0].O + first) * columns
        a, apart, known = sums.a, -(-filters // NR) * sums.step, True
        for p in range(0, filters, NR):
            o = max(0, min(p, filters - NR))
            for i in range(min(NR, filters - o)):
                for column in range(columns):
                    at = sums.at + p // NR * sums.step + column * NR + i
                    total = a[at]
                    for s in range(1, SETS_):
                        total += a[at + s * apart]
                    data.y[to + (o + i) * columns + column] = total
                    known &= total == total
        return known

    return write_sums


def refuses(p: "Problem") -> str:
    """Why these sums cannot be formed so; empty if they can."""
    return "there is one group" if p.groups == 1 else grouped.refuses(p)


def schedule(p: "Problem", mode: int = 0) -> Schedule:
    """Sums over pieces of the positions, as those of `outer`, whose other modes are not for it."""
    assert mode == 0
    elements = Elements(p.dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    filters = p.O // p.groups
    NR = vec.lanes // filters * filters
    g = across_groups(geometry_of(p), NR)
    g["NR"], g["panels"] = NR, -(-p.O // NR)
    if g["stays"][0] and p.O % NR == 0:
        most = max(1, min(JOBS, p.O // CHANNELS))
        in_parts(g, max(n for n in range(1, most + 1) if p.O % (n * NR) == 0))
    g["group_blocks"], parts = 1, int(g["groups"][0])
    pieces = min(-(-JOBS // parts), int(p.flop / parts / JOB_FLOP))
    add = micro_kernel(filters, grouped.known_channels(p), vec)
    kernel = range_kernel(elements, 1, vec, SETS, add, sum_writers(NR))
    g["pitch"] = copied = vec.lanes if g["O"][0] < NR else 0
    width = int(g["panels"][0]) * NR
    flop = p.flop * (2 if p.stride[-1] == p.kernel_dilation[-1] else APART)
    work = Work(flop, pieces, POSITIONS, math.inf, copied, SETS * width)
    return replace(over_blocks(p, g, kernel, work), tile=f"{TAPS}x1 {vec.name}")
