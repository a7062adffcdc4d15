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
            a line of what the next tile reads, 0.5 to 0.95 of the time, until that is done: the
            branch also keeps LLVM from computing two steps at once, for which 10x2 spilled and took
            twice as long.  Tiles of narrow groups ask for what later groups read, those that meet
            filters in pieces for the next.
Places      are stepped from tile to tile: to compute each took up to 1.1x, where windows are short.
Order       every output is one chain of multiply-adds over runs in order and elements in order,
            whatever the tile, the block or the number of threads.
References  G. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008;
            E. Georganas et al., Anatomy of High-Performance Deep Learning Convolutions, 2018.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.geometry import NEXT, NEXT_STEP
from mlxconv.kernels.outputs import far_outputs
from mlxconv.kernels.schedule import Layout, Schedule, Tile, schedule_of
from mlxconv.kernels.tiling import fastest
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import (
    broadcast,
    fma,
    load,
    prefetch,
    prefetch_at,
    store,
    store_n,
    stream,
    zero,
)

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# (registers of the machine, multiply-adds that start in a cycle) -> tiles.  Those that hide the
# latency are as fast as larger ones, and waste less: with one a cycle of seven sums, with two of
# twelve, if of two vectors, lest loads be the bound.  Where rows crowd a set of L1, others win.
TILES = {
    (16, 2): (
        Tile((6, 2), 0.95),  # 12 + 2 + 1 = 15 of 16; 8 loads feed 12 FMA
        Tile((5, 2), 0.93),  # 10 + 2 + 1
        Tile((4, 2), 0.95),  # 8 + 2 + 1: as many chains as hide the latency
        Tile((4, 3), 0.96),  # 12 + 3 + 1; 7 loads feed 12 FMA
        Tile((8, 1), 0.77),  # 8 + 1 + 1; 9 loads feed 8 FMA; LLVM makes larger ones spill
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

AHEAD = {"GROUPS_AHEAD": 2, "TILES_AHEAD": 1}  # the next group would come too late


def tiles() -> tuple[Tile, ...]:
    """Those of this machine; one of them is a single vector wide."""
    return TILES[processor.registers(), processor.fma_per_cycle()]


@lru_cache
def micro_kernel(MR, NV, vec, STREAMS=0, GROUPS_AHEAD=0, TILES_AHEAD=0, PIECES_AHEAD=0):
    """The three inner loops, around a register tile of MR positions x NV vectors; see outputs.py
    for STREAMS.  What the group or the tile reads that is so many AHEAD, its last tap, is asked
    for: of a group at once, of a tile line by line.  With PIECES_AHEAD it adds to what y holds,
    tile behind tile, and each tile asks for so many rows of the next piece, see pieces.py.

    The first loop steps from element to element by what LLVM cannot know to be 1.  A loop over a
    range it unrolls for some processors, which spills some tiles and gains the others nothing: as
    it is, 6 x 2 takes 0.87 to 0.9 of the time with windows of three elements."""
    LANES, NR, BYTES = vec.lanes, NV * vec.lanes, vec.dtype.itemsize
    NEXT_, NEXT_STEP_, LAST = NEXT, NEXT_STEP, max(0, NR - PIECES_AHEAD)
    are_far = far_outputs(NR, STREAMS, vec)

    @kernel
    def tile(x, runs, panel, y, positions, filters, rows_first):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s] * panel[rows[r] + s][o],
        for m < positions and o < filters; x, panel and y are Rows, positions >= MR."""
        acc = registers(MR, NV)
        w = registers(NV)
        outer, outer_step = (positions, MR) if rows_first else (filters, NR)
        inner, inner_step = (filters, NR) if rows_first else (positions, MR)
        x_step, y_step = (0, NR) if rows_first else (MR * x.step, MR * y.step)
        panel_step = panel.step if rows_first else 0
        streams, fetches = are_far(y, filters)
        for i in range(0, outer, outer_step):  # third loop: panels, or else tiles
            l, o = (min(i, positions - MR), 0) if rows_first else (0, i)
            x_l, at = x.at + l * x.step, y.at + l * y.step + o
            panel_o = panel.at + o // NR * panel.step
            for j in range(0, inner, inner_step):  # second loop: tiles, the last one overlapping
                if j > positions - MR and not rows_first:
                    x_l -= (j - (positions - MR)) * x.step
                    if not PIECES_AHEAD:
                        at -= (j - (positions - MR)) * y.step
                ahead = x_l + TILES_AHEAD * MR * x.step
                if (GROUPS_AHEAD or TILES_AHEAD) and runs.count > 0:
                    ahead += runs.table[2 * runs.count - 2] + GROUPS_AHEAD * runs.length
                if GROUPS_AHEAD:
                    for m in static_range(MR):
                        prefetch(vec, x.a, ahead + m * x.step)
                if fetches:
                    for m in static_range(MR, 2 * MR):
                        for v in static_range(NV):
                            prefetch(vec, y.a, at + m * y.step + v * LANES)
                if PIECES_AHEAD:
                    part = min(j // MR * PIECES_AHEAD, LAST)
                    next_step = runs.table[NEXT_STEP_]
                    next_at = runs.table[NEXT_] + part * next_step
                for m in static_range(MR):
                    for v in static_range(NV):
                        if PIECES_AHEAD:
                            acc[m, v] = load(vec, y.a, at + m * y.step + v * LANES)
                        else:
                            acc[m, v] = zero(vec)
                for r in range(runs.count):  # first loop: contiguous pieces of the window
                    x_r, w_r = x_l + runs.table[2 * r], panel_o + runs.table[2 * r + 1] * NR
                    asked = runs.table[2 * r + 1] * LANES  # before this element, of MR rows
                    end = x_r + runs.length * runs.step
                    while x_r < end:  # one rank-1 update of the tile
                        for n in static_range(PIECES_AHEAD):
                            prefetch_at(next_at + n * next_step)
                        for v in static_range(NV):
                            w[v] = load(vec, panel.a, w_r + v * LANES)
                        for m in static_range(MR):
                            x_ms = broadcast(vec, x.a, x_r + m * x.step)
                            for v in static_range(NV):
                                acc[m, v] = fma(x_ms, w[v], acc[m, v])
                        if TILES_AHEAD and asked < MR * x.step:
                            prefetch(vec, x.a, ahead + asked)
                        x_r, w_r, asked = x_r + runs.step, w_r + NR, asked + LANES
                        if PIECES_AHEAD:
                            next_at += BYTES
                left = filters - (j if rows_first else i)
                if STREAMS and streams:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            stream(acc[m, v], y.a, at + m * y.step + v * LANES)
                elif left >= NR:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            store(acc[m, v], y.a, at + m * y.step + v * LANES)
                else:
                    for m in static_range(MR):
                        for v in static_range(NV):
                            store_n(acc[m, v], y.a, at + m * y.step + v * LANES, left - v * LANES)
                x_l, at, panel_o = x_l + x_step, at + y_step, panel_o + panel_step

    return tile


def refuses(p: "Problem") -> str:
    """Nothing: tiles of any extent meet any problem."""
    return ""


def schedule(p: "Problem", may_phase: bool = True) -> Schedule:
    """The tile, and the phases if it may have several, that take least time for an output."""
    best = fastest(p, tiles(), may_phase)
    layout = Layout(
        phases=best.phases,
        narrow=best.narrow,
        takes_pieces=True,
        may_stream=True,
        keeps_rows=best.keeps_rows,
        ahead=AHEAD,
    )
    return schedule_of(p, micro_kernel, best.tile, layout)
