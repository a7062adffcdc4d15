"""Depthwise convolution: one input channel per group, vectors over channels.

Computes    y[n, l, o] = sum over taps k of x[n, l*stride - padding + k*dilation, o // multiplier]
            * w[o, k], with one to three spatial axes.
For         problems with one input channel per group and few filters on each; there is no sum
            over channels, so K taps of a vector of channels are all a position needs.
Layout      a tile reads MR windows of NR neighbouring channels, and a panel of NR filters

                x  [c c c ... c]  row l         panel  [w w w ... w]  tap 0     <- NR channels
                   [c c c ... c]  row l+1              [w w w ... w]  tap 1

            Where taps are as far apart as positions, TAPS rows of the panel are kept in registers
            and every row of x is loaded once for all of them:

                row l+j  meets  tap 0 of position l+j, tap 1 of l+j-1, tap 2 of l+j-2, ...

Registers   MR accumulators + TAPS rows of a panel + 1 row of x
Order       every output is one chain of multiply-adds over taps in order.
Bound       memory for few taps: at K = 4 a position moves 8 bytes per channel for 8 FLOP.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.schedule import Schedule, Tile, schedule_of
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import fma, load, store, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# registers of the machine -> the tile of few taps and that of LONG lines of taps or more, each MR
# positions x 1 vector, MR // 2 taps at a time
TILES = {
    16: (
        Tile((7, 1), 0.7),  # 7 + 3 + 1 of 16: fits lines of 7, 14, 28, ... and 3 taps
        Tile((8, 1), 0.8),  # 8 + 4 + 1: as many chains as hide the latency of an FMA
    ),
    32: (
        Tile((7, 1), 0.7),
        Tile((12, 1), 0.8),  # 12 + 6 + 1 of 32: 23 loads feed 72 FMA
    ),
}
LONG = 16  # from here FMA bound a tile, 12 % in favour of the second; below it loads and stores do


@lru_cache
def micro_kernel(MR, NV, vec):
    """The three inner loops, around a tile of MR positions x one vector of channels."""
    LANES, TAPS, ROWS = vec.lanes, MR // 2, MR + MR // 2 - 1

    @kernel
    def depthwise_tile(x, runs, panel, y, positions, filters, overlaps):
        """y[m][o] = sum over runs r, taps s of x[m][runs[r] + s*step + o] * panel[rows[r] + s][o],
        for m < positions and o < filters; x, panel and y are Rows, positions >= MR."""
        acc = registers(MR)
        w = registers(TAPS)
        blocked = runs.length // TAPS * TAPS if runs.step == x.step else 0
        for i in range(0, positions, MR):  # third loop: rows as a whole, as they lie in memory
            l = min(i, positions - MR)
            for p in range(0, filters, LANES):  # second loop: panels, the last one overlapping
                o = min(p, filters - LANES) if overlaps else p
                for m in static_range(MR):
                    acc[m] = zero(vec)
                for r in range(runs.count):  # first loop: taps
                    x_r = x.at + l * x.step + runs.table[2 * r] + o
                    w_r = panel.at + p // LANES * panel.step + runs.table[2 * r + 1] * LANES
                    for s in range(0, blocked, TAPS):
                        for t in static_range(TAPS):
                            w[t] = load(vec, panel.a, w_r + (s + t) * LANES)
                        for j in static_range(ROWS):
                            x_j = load(vec, x.a, x_r + (s + j) * x.step)
                            for t in static_range(TAPS):
                                if 0 <= j - t < MR:
                                    acc[j - t] = fma(x_j, w[t], acc[j - t])
                    for s in range(blocked, runs.length):
                        w_s = load(vec, panel.a, w_r + s * LANES)
                        for m in static_range(MR):
                            x_m = load(vec, x.a, x_r + m * x.step + s * runs.step)
                            acc[m] = fma(x_m, w_s, acc[m])
                at = y.at + l * y.step + o
                if o + LANES <= filters:
                    for m in static_range(MR):
                        store(acc[m], y.a, at + m * y.step)
                else:
                    for m in static_range(MR):
                        store_n(acc[m], y.a, at + m * y.step, filters - o)

    return depthwise_tile


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    if p.groups != p.C:
        return f"each filter sums over {p.C // p.groups} channels, not one"
    return ""


def schedule(p: "Problem") -> Schedule:
    """A tile by the taps along a line, its vectors run over groups."""
    few, many = TILES[processor.registers()]
    tile = many if p.K[-1] >= LONG else few
    return schedule_of(p, micro_kernel, tile.shape, depthwise=True)
