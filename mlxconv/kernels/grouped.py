"""Narrow groups: a vector holds filters of several groups, or of one that is as wide.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation,
            first channel of the group of o + c] * w[o, k, c], with one to three spatial axes.
For         groups of up to a vector of filters, which would leave lanes of a panel of their own
            empty; wider ones share more of a row of x in the tiles of direct.py.
Layout      a panel holds the filters of as many groups as fit into a vector, and each channel of a
            row of x is put into the lanes of those that it meets:

                x           [a b c d | e f g h]     two groups of four channels, four filters each
                channel 0   [a a a a | e e e e]     panel  [w w w w | w w w w]  tap 0, channel 0
                channel 1   [b b b b | f f f f]            [w w w w | w w w w]  tap 0, channel 1

            As many channels as filters are loaded once and repeated in registers; otherwise
            one channel of all groups is loaded.  Where taps are as far apart as positions, a block
            of TAPS rows of the panel is kept in registers and each row of x serves them all; the
            last block of a line has the REST:

                row l+j  meets  tap 0 of position l+j, tap 1 of l+j-1, tap 2 of l+j-2, ...

Registers   MR accumulators + TAPS rows of a panel + 1 row of x
Memory      what later channels read is loaded while earlier ones are stored: addresses of the two
            must not look alike, see recycling.py.  Of an input that comes from memory, tiles ask
            for what the next one reads, 0.3 to 0.95 of the time: MR rows are too many streams for
            the processor to foresee.  Not where the rows of both would crowd a set of L1.
Order       every output is one chain of multiply-adds over lines of taps, blocks of TAPS taps,
            channels and taps in order; blocks are counted from the first tap of a line, whether
            or not it meets the input, lest the order depend on where a position lies.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from mlxconv import processor
from mlxconv.kernels import blocking
from mlxconv.kernels.geometry import OVERLAPS, SLIDES
from mlxconv.kernels.outputs import far_outputs
from mlxconv.kernels.padding import line_of, met, whole_windows
from mlxconv.kernels.schedule import Layout, Schedule, Tile, itemsize_of, lanes_of, schedule_of
from mlxconv.kernels.tiling import positions_of, window_of
from mlxconv.simd.shuffles import MOST_LOADS, broadcast_each
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import fma, load, prefetch, store, store_n, stream, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# (registers of the machine, multiply-adds that start in a cycle) -> tiles of MR positions x 1
# vector: for short lines and far rows, for rows of several channels, and for those of one
TILES = {
    (16, 2): (
        Tile((6, 1), 0.65),  # 6 + 7 + 1 of 16
        Tile((10, 1), 0.75),  # 10 + 5 + 1: 19 loads feed the 50 FMA of 5 taps; fewer for more taps
        Tile((8, 1), 0.8),  # 8 + 7 + 1: as many chains as hide the latency of an FMA
    ),
    (32, 2): (
        Tile((7, 1), 0.7),  # 7 + 9 + 1 of 32; fits lines of 7, 14, 28, ...
        Tile((10, 1), 0.75),  # 10 + 9 + 1 and a row that is shuffled
        Tile((14, 1), 0.85),  # 14 + 9 + 1: 31 loads feed the 126 FMA of 9 taps
    ),
    (32, 1): (
        Tile((7, 1), 0.7),  # 7 + 9 + 1 of 32: as many chains as hide the latency
        Tile((7, 1), 0.7),
        Tile((14, 1), 0.85),  # 14 + 9 + 1: 31 loads feed the 126 FMA of 9 taps
    ),
}
TAPS = {16: 7, 32: 9}  # that a tile takes at a time, at the most
# taps of a line of one channel from which FMA bound the last tile, and not loads and stores
LONG = {16: 16, 32: 1}
# taps of groups that fill a vector where LLVM loads all rows of a larger tile at once, and spills
AT_ONCE = {16: (2, 3), 32: ()}
MANY_TAPS = 7  # of a line, from which several filters of one channel have half types widened once
CROWDED = 1.5  # of the ways of a set of L1, which tiles of fewer rows do not fill as often


@lru_cache
def micro_kernel(GROUP, CHANNELS, STRIDE, TAPS, REST, MR, NV, vec, STREAMS=0, TILES_AHEAD=0):
    """The inner loops around a tile of MR positions x one vector of filters, GROUP of each group,
    which has CHANNELS, or any number if that is 0.  Where they slide, positions are STRIDE taps
    apart, and a line has blocks of TAPS taps and one of REST.  The last taps of the tile that is so
    many AHEAD are asked for."""
    LANES, NR = vec.lanes, vec.lanes // GROUP * GROUP
    TURNS, OVERLAPS_, SLIDES_ = turns(GROUP, CHANNELS), OVERLAPS, SLIDES
    are_far = far_outputs(NR, STREAMS, vec)

    @kernel
    def grouped_tile(x, runs, panel, y, positions, filters, mode):
        """y[m][o] = sum over runs r, taps s, channels c of x[m][runs[r] + s*step + c of the group
        of o] * panel[rows[r] + s*C + c][o], for m < positions and o < filters; x, panel and y are
        Rows, positions >= MR."""
        acc = registers(MR)
        w = registers(max(TAPS, TURNS))
        C, step = CHANNELS or runs.channels, runs.step
        slid = runs.length if mode & SLIDES_ else 0
        streams, fetches = are_far(y, filters)
        for i in range(0, positions, MR):  # third loop: rows as a whole, as they lie in memory
            l = min(i, positions - MR)
            for p in range(0, filters, NR):  # second loop: panels, the last one overlapping
                o = min(p, filters - NR) if mode & OVERLAPS_ else p
                at = y.at + l * y.step + o
                if fetches:
                    next_at = y.at + min(l + MR, positions - MR) * y.step + o
                    for m in static_range(MR):
                        prefetch(vec, y.a, next_at + m * y.step)
                if TILES_AHEAD and runs.count > 0:
                    ahead = x.at + (l + TILES_AHEAD * MR) * x.step + o // GROUP * C
                    ahead += runs.table[2 * runs.count - 2] + (runs.length - 1) * step
                    for i in range(0, NR // GROUP * C, LANES):
                        for m in static_range(MR):
                            prefetch(vec, x.a, ahead + m * x.step + i)
                for m in static_range(MR):
                    acc[m] = zero(vec)
                for r in range(runs.count):  # first loop: taps of a line and channels
                    x_r = x.at + l * x.step + runs.table[2 * r] + o // GROUP * C
                    w_r = panel.at + p // NR * panel.step + runs.table[2 * r + 1] * NR
                    for T in static_range(TAPS, max(0, REST - 1), REST - TAPS):  # TAPS, then REST
                        for s in range(slid - slid % TAPS if T == REST else 0, slid - T + 1, T):
                            for c in range(0, C, TURNS):
                                for t in static_range(TURNS):
                                    for k in static_range(T):
                                        w[k] = load(vec, panel.a, w_r + ((s + k) * C + c + t) * NR)
                                    for j in static_range((MR - 1) * STRIDE + T):
                                        x_j = broadcast_each(
                                            vec, x.a, x_r + c + (s + j) * step, C, GROUP, t, TURNS
                                        )
                                        for k in static_range(T):
                                            if (j - k) % STRIDE == 0 and 0 <= j - k < MR * STRIDE:
                                                acc[(j - k) // STRIDE] = fma(
                                                    x_j, w[k], acc[(j - k) // STRIDE]
                                                )
                    for s in range(slid, runs.length):
                        for c in range(0, C, TURNS):
                            for t in static_range(TURNS):
                                w[t] = load(vec, panel.a, w_r + (s * C + c + t) * NR)
                            for m in static_range(MR):
                                x_m = x_r + c + m * x.step + s * step
                                for t in static_range(TURNS):
                                    x_t = broadcast_each(vec, x.a, x_m, C, GROUP, t, TURNS)
                                    acc[m] = fma(x_t, w[t], acc[m])
                if STREAMS and streams:
                    for m in static_range(MR):
                        stream(acc[m], y.a, at + m * y.step)
                elif o + LANES <= filters:  # what lies behind NR, the next panel writes
                    for m in static_range(MR):
                        store(acc[m], y.a, at + m * y.step)
                else:
                    for m in static_range(MR):
                        store_n(acc[m], y.a, at + m * y.step, min(NR, filters - o))

    return grouped_tile


# beside multiply-adds; fitted to 57 problems, within a tenth
SPREAD_CYCLES = 0.2, 0.57, 0.85  # to bring a channel of a row to all lanes of one, two, more groups
TILE_CYCLES = 16  # of a tile
LINE_CYCLES = 600  # to begin a vector of filters in a line
PACK_CYCLES = 0.56  # of a weight
COPY_CYCLES = 1.2  # of an element, where groups are fewer than a vector has room for


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    lanes, filters = lanes_of(p), p.O // p.groups
    if not 0 < filters <= lanes:
        return f"groups of {filters} filters do not fit into vectors of {lanes}"
    return ""


def cost(p: "Problem") -> float:
    """Multiply-adds at full speed in whose time it computes a position, as tiling.Choice.cost."""
    filters, channels, lanes = p.O // p.groups, p.C // p.groups, lanes_of(p)
    stride, together = _taps_apart(p), lanes // filters
    tile, W = _tile(p, stride), max(1, p.output_L[-1])
    MR, vectors, outer = tile.shape[0], -(-p.groups // together), math.prod(p.K[:-1])
    taps, rest = taps_of(p.K[-1]) if stride and MR <= W else (1, 0)
    rows = p.K[-1] // taps * ((MR - 1) * stride + taps) + (rest > 0) * ((MR - 1) * stride + rest)
    spreading = SPREAD_CYCLES[min(together, p.groups, len(SPREAD_CYCLES)) - 1]
    cycles = p.K[-1] * MR / processor.fma_per_cycle() + rows * spreading
    cycles = cycles * outer * channels * met(line_of(p)) + TILE_CYCLES
    window = window_of(p)
    packing = blocking.sharing(p.flop) * PACK_CYCLES * window * lanes / positions_of(p)
    copying = COPY_CYCLES * p.stride[-1] * p.C if p.groups < together else 0
    cycles = cycles * -(-W // MR) / W + LINE_CYCLES / W + packing + copying
    return cycles * vectors / p.groups * lanes * processor.fma_per_cycle() / window


def schedule(p: "Problem") -> Schedule:
    """Vectors run over filters of all groups."""
    return over_groups(p, partial(micro_kernel, p.O // p.groups, known_channels(p)))


def known_channels(p: "Problem") -> int:
    """The channels of a group, if those of all groups of a vector lie in two others, or in a few
    more, which take less time than to load each: one that crosses a cache line counts twice."""
    channels, lanes = p.C // p.groups, lanes_of(p)
    parts = lanes // (p.O // p.groups)
    loads = -(-((parts - 1) * channels + 1) // lanes)
    few = loads <= 2 or (loads <= MOST_LOADS and 2 * loads < parts)
    return channels if parts > 1 and few else 0


def turns(GROUP: int, CHANNELS: int) -> int:
    """The channels of each group that one load brings."""
    return GROUP if CHANNELS == GROUP else 1


def over_groups(p: "Problem", kernel_of: Callable[..., Any]) -> Schedule:
    """The schedule with a tile for so many taps along a line.  Rows serve several taps where
    neighbouring positions meet the same ones, and lie in lines no shorter than a tile, since
    windows of shorter ones are copied one by one."""
    stride = _taps_apart(p)
    tile = _tile(p, stride)
    while lanes_of(p) // tile.share >= 2 * p.O and tile.share < processor.vector_bytes() // 16:
        tile = tile._replace(share=2 * tile.share)
    taps, rest = taps_of(p.K[-1]) if stride and p.output_L[-1] >= tile.shape[0] else (1, 0)
    edge = partial(kernel_of, 1, 1, 0) if p.groups == p.C else None
    crowded = processor.filled(p.C * itemsize_of(p), 2 * tile.shape[0]) > 1
    once = p.groups == p.C < p.O and p.K[-1] >= MANY_TAPS  # 0.6 to 0.9 of the time of each load
    layout = Layout(
        over_groups=p.O // p.groups,
        in_vectors=not once,
        tap_block=taps,
        edge=edge,
        may_stream=True,
        ahead={} if crowded else {"TILES_AHEAD": 1},
    )
    return schedule_of(p, partial(kernel_of, stride if taps > 1 else 1, taps, rest), tile, layout)


def _taps_apart(p: "Problem") -> int:
    """How many taps neighbouring positions are apart, where rows of x serve several of them; else
    0.  Groups that fill a vector load and spread each channel of every row: of those that serve
    one or two taps there are more than multiply-adds would read."""
    stride, rest = divmod(p.stride[-1], p.kernel_dilation[-1])
    most = 1 if p.O // p.groups == lanes_of(p) else 2
    return stride if rest == 0 and stride <= most else 0


def tiles() -> tuple[Tile, ...]:
    """Those of this machine."""
    return TILES[processor.registers(), processor.fma_per_cycle()]


def of_several_channels(taps: int) -> Tile:
    """The tile for rows of several channels, of as many as so many taps leave registers for."""
    tile = tiles()[1]
    return tile._replace(shape=(min(tile.shape[0], processor.registers() - 1 - taps), 1))


def _tile(p: "Problem", stride: int) -> Tile:
    """The tile that takes least time for a line: the first where each multiply-add loads its
    operand, where a line, or what of it needs no padding, is shorter than the other, and where the
    rows of that one crowd a set of L1, and not just by a few: then the first has to read its own
    again as often."""
    (few, _, many), taps = tiles(), taps_of(p.K[-1])[0]
    many = many if p.groups == p.C else of_several_channels(taps)
    W, rows = p.output_L[-1], (many.shape[0] - 1) * stride + taps
    whole = whole_windows(line_of(p))
    W = whole if whole >= few.shape[0] else W
    crowded = processor.filled(p.C * p.kernel_dilation[-1] * itemsize_of(p), rows) >= CROWDED
    slides = stride == 1
    if p.groups == p.C:
        slides = stride > 0 and p.K[-1] >= LONG[processor.registers()]
    elif p.O // p.groups == lanes_of(p):
        slides = slides and p.K[-1] not in AT_ONCE[processor.registers()]
    if crowded or not slides or many.shape[0] > W:
        return few
    return min((few, many), key=lambda t: -(-W // t.shape[0]) * t.shape[0] / t.efficiency)


def taps_of(K: int) -> tuple[int, int]:
    """The taps of a line of K that rows of x serve at a time, and those of the last block: as few
    blocks as registers allow, of as equal sizes as may be.  A block takes as long as a tap to
    begin, and one of a single tap as long as three."""
    blocks = -(-K // TAPS[processor.registers()])
    taps = -(-K // blocks)
    return taps, K % taps
