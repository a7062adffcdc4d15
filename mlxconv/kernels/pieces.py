"""Filters from afar: panels are met piece by piece, while the next piece is fetched.

A panel that comes from memory, or is too long for L2, is waited for by the first tile that meets
it; if it is packed in the call, so are the filters.  Here a piece of a panel is met by all
positions of a block as soon as it is there, and meanwhile each tile asks for some rows of the one
after it:

    for pieces of the window        a piece of the input stays in L2
        for panels                  pack this piece, unless it is
            for tiles               sums += its part; ask for rows of the next

Sums wait in scratch between pieces, panel by panel.  This is the loop over the reduction that
GotoBLAS has outside of its blocks, with the reads of the packing spread over the tiles.  Every
output is the same chain of multiply-adds as without pieces.
"""

from functools import lru_cache

import numpy as np

from mlxconv import processor
from mlxconv.kernels.copies import clears
from mlxconv.kernels.elements import converts_runs, unchanged
from mlxconv.kernels.geometry import NEXT, NEXT_STEP, OUTPUTS, SUSPECT, pack_call
from mlxconv.kernels.loops import tile_call
from mlxconv.kernels.packing import finite
from mlxconv.kernels.window import Rows, Runs, inputs, list_runs, strip_views, windows
from mlxconv.simd.static import kernel
from mlxconv.simd.vector import vec_of


@lru_cache
def looks_ahead(itemsize):
    """look_ahead for weights of so many bytes."""
    NEXT_, STEP, BYTES = NEXT, NEXT_STEP, itemsize

    @kernel
    def look_ahead(data, block, p, row, after):
        """Have tiles ask for what follows rows [row, after) of panel `p`: the same rows of the next
        panel, or the next of the first; when the block is done, those a block behind it begins
        with.  That is as many parts as a panel has filters: of the panel itself if it is packed, or
        its filters, as they lie in most calls."""
        g = data.geometry[0]
        rows = g.K[0] * g.K[1] * g.K[2] * g.C
        if p + 1 < block.p1:
            p += 1
        elif after < rows:
            p, row = block.p0, after
        else:
            p, row = block.p1, 0
        if data.panels.size > 0:
            first = ((block.g0 * g.panels + p) * rows + row) * g.NR
            data.runs[NEXT_] = data.panels.ctypes.data + first * BYTES
            data.runs[STEP] = g.piece * BYTES
        else:
            first = g.w_offset + (block.g0 * g.O + p * g.NR) * g.w_filter + row
            data.runs[NEXT_] = data.w.ctypes.data + first * BYTES
            data.runs[STEP] = g.w_filter * BYTES

    return look_ahead


@kernel
def tile_of(g, p):
    """The micro-kernel for panel `p` of a group, its positions, and its filters."""
    if g.narrow_NR > 0 and g.O - p * g.NR < g.NR:
        return g.narrow, g.narrow_MR, g.narrow_NR
    return g.tile, g.MR, g.NR


@lru_cache
def adds_pieces(elements):
    """add_piece for these types of input and output."""
    call_tile, call_pack = tile_call(elements), pack_call(elements)
    look_ahead = looks_ahead(np.dtype(elements.dtype).itemsize)

    @kernel
    def add_piece(data, x, runs, row, panels, sums, block):
        """sums[p][m][o] += what rows of the panels of `block`, from `row` on, add to its positions:
        those that the first of `runs` meets, which is as long as the piece."""
        g = data.geometry[0]
        positions = max(block.rows, g.rows)
        for p in range(block.p0, block.p1):
            unit, (tile, _, NR) = block.g0 * g.panels + p, tile_of(g, p)
            look_ahead(data, block, p, row, row + runs.length)
            first = panels.at
            if data.panels.size > 0:  # all were packed before
                first = unit * g.K[0] * g.K[1] * g.K[2] * g.C * g.NR + row * NR
            else:
                call_pack(g.pack, data, unit, row, row + runs.length, panels.a, first)
            panel = Rows(panels.a, first - runs.table[1] * NR, 0)
            y = Rows(sums.a, sums.at + (p - block.p0) * sums.step, NR)
            call_tile(tile, x, runs, panel, y, positions, NR, 0)

    return add_piece


@lru_cache
def sums_pieces(elements):
    """sum_pieces for these types of input and output."""
    add_piece, OUTPUTS_, SUSPECT_ = adds_pieces(elements), OUTPUTS, SUSPECT
    vec = vec_of(elements.dtype, processor.vector_bytes())
    clear, is_finite = clears(vec), finite(vec)
    copy_run, as_output = converts_runs(unchanged), np.dtype(elements.arrays()["y"]).type

    @kernel
    def write_sums(data, sums, MR, y, positions, filters):
        """y[m][o] = sums[m][o]; those of the last tile lie behind the others, although it meets
        some windows of the one before."""
        g = data.geometry[0]
        rows = max(positions, g.rows)
        again = -rows % MR
        for m in range(positions):
            row = m if m < rows - MR + again else m + again
            copy_run(sums.a, sums.at + row * sums.step, y.a, y.at + m * y.step, filters)
        if g.checks == OUTPUTS_ and not is_finite(y.a, y.at, positions, y.step, filters):
            data.counters[SUSPECT_] = 1

    @kernel
    def sum_pieces(data, x, runs, panels, block):
        """y[m][o] for the positions and panels of `block`, whose windows are these of `x`."""
        g, kept = data.geometry[0], data.scratch.view(as_output)
        sums = Rows(kept, g.block_at, (max(block.rows, g.rows) + g.rows) * g.NR)
        clear(data.scratch, sums.at, (block.p1 - block.p0) * sums.step)
        for r in range(runs.count):
            first = x.at + runs.table[2 * r] - runs.table[0]  # which the tile adds
            for s in range(0, runs.length, g.piece):
                piece = Runs(runs.table, 1, min(g.piece, runs.length - s), 1, g.C)
                row, x_s = runs.table[2 * r + 1] + s, Rows(x.a, first + s, x.step)
                add_piece(data, x_s, piece, row, panels, sums, block)
        for p in range(block.p0, block.p1):
            _, MR, NR = tile_of(g, p)
            y = Rows(data.y, block.to + block.g0 * g.O + p * g.NR, g.y_step[2])
            own = Rows(kept, sums.at + (p - block.p0) * sums.step, NR)
            write_sums(data, own, MR, y, block.rows, min(g.NR, g.O - p * g.NR))

    return sum_pieces


@lru_cache
def runs_pieces(elements):
    """The same as loops.runs_block, for one line of one group."""
    open_window, input_of = windows(elements), inputs(elements)
    sum_pieces = sums_pieces(elements)

    @kernel
    def run(data, panels, block):
        """y[n, h, l, o] for the positions and panels of `block`."""
        g = data.geometry[0]
        w = open_window(data, block, block.g0)
        x = Rows(input_of(data, w), w.first, w.row)
        sum_pieces(data, x, list_runs(data.runs, g, w), panels, block)

    return run


@lru_cache
def runs_gathered(elements):
    """The same for windows that are copied, one behind the other."""
    sum_pieces, strip_of = sums_pieces(elements), strip_views(elements)

    @kernel
    def run(data, panels, block):
        """y[position, o] for the positions and panels of `block`."""
        g = data.geometry[0]
        runs = Runs(data.runs, 1, g.K[0] * g.K[1] * g.K[2] * g.C, 1, g.C)
        sum_pieces(data, Rows(strip_of(data), 0, g.pitch), runs, panels, block)

    return run
