"""Direct convolution by register tiles: MR output positions x NV vectors of filters.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         any problem; best with many filters per group.
Layout      a tile reads MR windows, `row` elements apart, and one panel of NR filters

                window of l+0   x x x x x x x x ...        panel  w w .. w   <- NR filters
                window of l+1       x x x x x x x x ...           w w .. w
                ...                                               : :    :   one row per element

Registers   MR*NV accumulators + NV of a panel row + 1 broadcast: see TILES.
Memory      lines of an output that no cache holds are asked for a tile ahead: the stores would
            wait for each, 1.2 to 1.5x the time where windows are short.  They are written past the
            caches where these hold none of it, see outputs.py; rows that do not fill them are kept
            until they do, 1.2 to 1.5x, or else written by tiles of few rows, 1.1 to 1.4x: each row
            is a stream of its own.  Of an input that comes from memory each step of a sum asks for
            a line of what the next tile reads, 0.5 to 0.95 of the time, and tiles of narrow groups
            for what later groups read.
Order       every output is one chain of multiply-adds over runs in order and elements in order,
            whatever the tile, the block or the number of threads.
References  G. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008;
            E. Georganas et al., Anatomy of High-Performance Deep Learning Convolutions, 2018.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.arrays import BITS, CACHE_LINE_BYTES
from mlxconv.kernels import blocking
from mlxconv.kernels.outputs import far_outputs
from mlxconv.kernels.schedule import Layout, Schedule, Tile, itemsize_of, lanes_of, schedule_of
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import broadcast, fma, load, prefetch, store, store_n, stream, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# (registers of the machine, multiply-adds that start in a cycle) -> tiles.  Those that hide the
# latency are as fast as larger ones, and waste less: with one a cycle of seven sums, with two of
# twelve, if of two vectors, lest loads be the bound.  Where rows crowd a set of L1, others win.
TILES = {
    (16, 2): (
        Tile((6, 2), 0.9),  # 12 + 2 + 1 = 15 of 16; 8 loads feed 12 FMA
        Tile((10, 1), 0.7),  # 10 + 1 + 1 = 12 of 16, more would spill; 11 loads feed 10 FMA
    ),
    (32, 2): (
        Tile((6, 2), 0.95),  # 12 + 2 + 1 of 32: as many chains as hide the latency
        Tile((7, 2), 0.95),  # 14 + 2 + 1; fits images of 7 x 7
        Tile((8, 2), 0.95),  # 16 + 2 + 1; fits powers of two
        Tile((10, 2), 0.95),  # 20 + 2 + 1
        Tile((14, 2), 0.93),  # 28 + 2 + 1; 16 loads feed 28 FMA
        Tile((8, 3), 0.94),  # 24 + 3 + 1; 11 loads feed 24 FMA
        Tile((5, 4), 0.935),  # 20 + 4 + 1; 9 loads feed 20 FMA
        Tile((20, 1), 0.88),  # 20 + 1 + 1; 21 loads feed 20 FMA
        Tile((10, 1), 0.84),  # 10 + 1 + 1; 11 loads feed 10 FMA
        Tile((7, 1), 0.77),  # 7 + 1 + 1: seven chains for the eight that hide the latency
    ),
    (32, 1): (
        Tile((14, 1), 0.95),  # 14 + 1 + 1 of 32
        Tile((10, 2), 0.92),  # 20 + 2 + 1; fits images of 7 x 7
        Tile((8, 2), 0.92),  # 16 + 2 + 1
        Tile((7, 1), 0.95),  # 7 + 1 + 1: as many chains as hide the latency; fits short lines
        Tile((14, 1), 0.75, share=2),  # two multiply-adds of halves start in a cycle
        Tile((7, 1), 0.72, share=2),  # seven chains for the eight that would hide their latency
    ),
}

TILE_CYCLES = 8  # of a tile beside its multiply-adds and what all tiles take for an output
TAIL_CYCLES = 400  # to begin the positions of a line that phases leave over
# of the time of tiles that write within the caches what is far
WITHIN = 1.6  # lines of memory that others would write past them
APART = 0.015  # more for each row of a tile that shares lines with others: a stream of its own
KEPT_SUMS = 32  # multiply-adds of an output; more take so long that writing is hidden
# Tiles that do not ask ahead: LLVM computes two steps at once, loads before it asks, and spills.
LATE = ((10, 2),)
WAITING = 1.25  # of the time of others, where an input comes from memory


def tiles() -> tuple[Tile, ...]:
    """Those of this machine; one of them is a single vector wide."""
    return TILES[processor.registers(), processor.fma_per_cycle()]


@lru_cache
def micro_kernel(MR, NV, vec, STREAMS=0, GROUPS_AHEAD=0, TILES_AHEAD=0):
    """The three inner loops, around a register tile of MR positions x NV vectors; see outputs.py
    for STREAMS.  What the group or the tile reads that is so many AHEAD, its last tap, is asked
    for: of a group at once, of a tile line by line."""
    LANES, NR = vec.lanes, NV * vec.lanes
    TILES_AHEAD = 0 if (MR, NV) in LATE else TILES_AHEAD
    are_far = far_outputs(NR, STREAMS, vec)

    @kernel
    def tile(x, runs, panel, y, positions, filters, rows_first):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s] * panel[rows[r] + s][o],
        for m < positions and o < filters; x, panel and y are Rows, positions >= MR."""
        acc = registers(MR, NV)
        w = registers(NV)
        outer, outer_step = (positions, MR) if rows_first else (filters, NR)
        inner, inner_step = (filters, NR) if rows_first else (positions, MR)
        streams, fetches = are_far(y, filters)
        for i in range(0, outer, outer_step):  # third loop: panels, or else tiles
            for j in range(0, inner, inner_step):  # second loop: tiles, the last one overlapping
                l, o = (min(i, positions - MR), j) if rows_first else (min(j, positions - MR), i)
                panel_o = panel.at + o // NR * panel.step
                at = y.at + l * y.step + o
                ahead = x.at + (l + TILES_AHEAD * MR) * x.step
                if (GROUPS_AHEAD or TILES_AHEAD) and runs.count > 0:
                    ahead += runs.table[2 * runs.count - 2] + GROUPS_AHEAD * runs.length
                if GROUPS_AHEAD:
                    for m in static_range(MR):
                        prefetch(vec, x.a, ahead + m * x.step)
                if fetches:
                    next_at = y.at + min(l + MR, positions - MR) * y.step + o
                    for m in static_range(MR):
                        for v in static_range(NV):
                            prefetch(vec, y.a, next_at + m * y.step + v * LANES)
                for m in static_range(MR):
                    for v in static_range(NV):
                        acc[m, v] = zero(vec)
                for r in range(runs.count):  # first loop: contiguous pieces of the window
                    x_r = x.at + l * x.step + runs.table[2 * r]
                    w_r = panel_o + runs.table[2 * r + 1] * NR
                    for s in range(runs.length):  # one rank-1 update of the tile
                        for v in static_range(NV):
                            w[v] = load(vec, panel.a, w_r + s * NR + v * LANES)
                        for m in static_range(MR):
                            x_ms = broadcast(vec, x.a, x_r + m * x.step + s)
                            for v in static_range(NV):
                                acc[m, v] = fma(x_ms, w[v], acc[m, v])
                        if TILES_AHEAD:
                            prefetch(vec, x.a, ahead + (runs.table[2 * r + 1] + s) * LANES)
                if STREAMS and streams:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            stream(acc[m, v], y.a, at + m * y.step + v * LANES)
                elif o + NR <= filters:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            store(acc[m, v], y.a, at + m * y.step + v * LANES)
                else:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            left = filters - o - v * LANES
                            store_n(acc[m, v], y.a, at + m * y.step + v * LANES, left)

    return tile


def refuses(p: "Problem") -> str:
    """Nothing: tiles of any extent meet any problem."""
    return ""


def schedule(p: "Problem") -> Schedule:
    """The tile, and the phases, that take least time for an output."""
    tile, narrow, phases, _ = min(_choices(p), key=lambda choice: choice[-1])
    keeps, ahead = _keeps_rows(p, tile), tuple(blocking.AHEAD)
    layout = Layout(phases=phases, narrow=narrow, may_stream=True, keeps_rows=keeps, ahead=ahead)
    return schedule_of(p, micro_kernel, tile, layout)


def _choices(p: "Problem") -> Iterator[tuple[Tile, Tile | None, int, float]]:
    """(tile, that for filters it leaves over, phases, multiply-adds at full speed in whose time
    they do those of one position)."""
    filters, taps, stride, lanes = max(1, p.O // p.groups), p.K[-1], p.stride[-1], lanes_of(p)
    packs = blocking.pack_flop(1) / 2 * processor.cores() / _positions(p)  # each worker does
    for tile in tiles():
        MR, NR, most = tile.shape[0], _filters(tile, lanes), 1
        if p.groups == p.kernel_dilation[-1] == 1 and taps > 1 and filters < NR:
            most = max(1, min(NR // filters, p.output_L[-1] // MR))
        for phases in sorted({most, most // 2 or 1, 1}):
            narrow = _narrow(filters * phases, tile, lanes, _row_bytes(p, phases))
            reach = (taps + (phases - 1) * stride) / taps
            sums = MR * tile.shape[1] / tile.share * max(1, reach * taps * (p.C // p.groups))
            cycles = sums / processor.fma_per_cycle()
            rows = max(MR, narrow.shape[0]) if narrow else MR
            took = reach * (1 / phases + packs) * (1 + TILE_CYCLES / cycles)
            parts = list(_taken(filters * phases, tile, narrow, lanes))
            copies = _gathered(p) / sum(taken for _, taken in parts)
            took *= sum(
                taken * _slowdown(p, part.shape[0], rows, phases, TAIL_CYCLES / cycles, copies)
                for part, taken in parts
            )
            took *= _idle(p, rows, -(-filters * phases // NR))
            took *= WAITING if tile.shape in LATE and _moved(p) >= processor.read_bytes() else 1
            yield tile, narrow, phases, took * _writing(p, tile, rows)


def _idle(p: "Problem", rows: int, panels: int) -> float:
    """How much longer it takes where there are fewer jobs than cores: blocks of a line are of two
    tiles at least, each of so many rows."""
    W = p.output_L[-1]
    tiles = _positions(p) // rows if rows > W else _positions(p) // W * (-(-W // rows) // 2 or 1)
    return max(1.0, blocking.sharing(p.flop) / (p.groups * panels * max(1, tiles)))


def _writing(p: "Problem", tile: Tile, rows: int) -> float:
    """How much longer it takes to write outputs that no cache holds, where not past the caches."""
    row_bytes, NR = p.O * itemsize_of(p), _filters(tile, lanes_of(p))
    if not _is_far(p) or _keeps_rows(p, tile) or row_bytes < 2 * CACHE_LINE_BYTES:
        return 1.0
    if row_bytes % CACHE_LINE_BYTES:
        return 1 + rows * APART
    return WITHIN if p.O // p.groups % NR else 1.0


def _is_far(p: "Problem") -> bool:
    """Whether no cache holds the outputs."""
    return blocking.are_far(_moved(p))


def _moved(p: "Problem") -> int:
    """Bytes of input and output."""
    return (math.prod(p.input_shape) + math.prod(p.output_shape)) * itemsize_of(p)


def _keeps_rows(p: "Problem", tile: Tile) -> bool:
    """Whether rows of such outputs, which take some lines of memory and fill none, are kept until
    they do: where sums are short, and those of two tiles almost fit into L1."""
    row_bytes, long = p.O * itemsize_of(p), math.prod(p.K) * p.C > KEPT_SUMS
    if not _is_far(p) or p.groups > 1 or p.dtype in BITS or long:
        return False
    fit = tile.shape[0] * row_bytes <= processor.caches().L1_bytes * 5 // 8
    return fit and 6 * lanes_of(p) <= p.O and row_bytes % CACHE_LINE_BYTES > 0


def _positions(p: "Problem") -> int:
    """Of the output, all told."""
    return max(1, p.N * math.prod(p.output_L))


def _filters(tile: Tile, lanes: int) -> int:
    """NR, where a register has so many lanes."""
    return tile.shape[1] * lanes // tile.share


def _row_bytes(p: "Problem", phases: int) -> int:
    """From one row of a tile to the next."""
    return p.stride[-1] * phases * p.C * itemsize_of(p)


def _taken(
    filters: int, tile: Tile, narrow: Tile | None, lanes: int
) -> Iterator[tuple[Tile, float]]:
    """The tiles that compute so many filters, and the lanes of each, weighted by its speed."""
    NR = _filters(tile, lanes)
    yield tile, (filters // NR if narrow else -(-filters // NR)) * NR / tile.efficiency
    if narrow:
        yield narrow, _filters(narrow, lanes) / narrow.efficiency


def _narrow(filters: int, tile: Tile, lanes: int, row_bytes: int) -> Tile | None:
    """The tile for filters that `tile` leaves over, if one takes less time: one of no more rows if
    there is, as all blocks are enough for both, else one whose rows do not crowd a set of L1."""
    NR, MR = _filters(tile, lanes), tile.shape[0]
    left = filters % NR if filters > NR else 0
    fitting = [
        t
        for t in tiles()
        if 0 < left <= _filters(t, lanes) < NR
        if t.shape[0] <= MR or processor.filled(row_bytes, t.shape[0]) <= 1
    ]
    fitting = [t for t in fitting if t.shape[0] <= MR] or fitting
    best = min(fitting, key=lambda t: _filters(t, lanes) / t.efficiency, default=tile)
    return best if _filters(best, lanes) / best.efficiency < NR / tile.efficiency else None


def _gathered(p: "Problem") -> float:
    """The multiply-adds in whose time an element of a window is copied."""
    return blocking.gather_flop(p.K[-1], p.kernel_dilation[-1], p.C // p.groups) / 2


def _slowdown(p: "Problem", MR: int, least: int, phases: int, tail: float, copies: float) -> float:
    """How much longer tiles of MR rows take than their lanes say: where the last one of a line is
    cut short, where positions that are left over by the phases take a tile and as long as so many
    to begin, and where more rows share a set of L1 than it has ways.  Lines of fewer rows than the
    `least` of a block are copied, one behind the other, which takes `copies` times as long."""
    W = p.output_L[-1]
    rows, left = W // phases, W % phases
    if rows < least:
        positions = _positions(p)
        return -(-max(positions, least) // MR) * MR / positions * (1 + copies)
    crowded = blocking.crowding(_row_bytes(p, phases), MR)
    tiles = -(-rows // MR) + (left > 0) * (1 + tail)
    return tiles * MR * phases / W * min(crowded, 1 + copies)
