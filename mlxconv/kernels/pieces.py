"""Filters that no cache holds: panels are met piece by piece, while the next piece is fetched.

A panel that comes from memory is waited for by the first tile that meets it; if it is packed in the
call, so are the filters.  Here a piece of a panel is met by all positions of a block as soon as it
is there, and meanwhile each tile asks for some rows of the one after it:

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
    def look_ahead(data, unit, row):
        """Have tiles ask for what is met of panel `unit` from this row on, in as many parts as it
        has filters: the panel itself if it is packed, or its filters, as they lie in most calls."""
        g = data.geometry[0]
        if data.panels.size > 0:
            first = (unit * g.K[0] * g.K[1] * g.K[2] * g.C + row) * g.NR
            data.runs[NEXT_] = data.panels.ctypes.data + first * BYTES
            data.runs[STEP] = g.piece * BYTES
        else:
            o = unit // g.panels * g.O + unit % g.panels * g.NR
            data.runs[NEXT_] = data.w.ctypes.data + (g.w_offset + o * g.w_filter + row) * BYTES
            data.runs[STEP] = g.w_filter * BYTES

    return look_ahead


@lru_cache
def sums_pieces(elements):
    """sum_pieces for these types of input and output."""
    call_tile, call_pack = tile_call(elements), pack_call(elements)
    vec, OUTPUTS_, SUSPECT_ = vec_of(elements.dtype, processor.vector_bytes()), OUTPUTS, SUSPECT
    clear, is_finite = clears(vec), finite(vec)
    look_ahead = looks_ahead(np.dtype(elements.dtype).itemsize)
    copy_run, as_output = converts_runs(unchanged), np.dtype(elements.arrays()["y"]).type

    @kernel
    def piece_of(data, panels, unit, row, size, NR):
        """Where in `panels` these rows of panel `unit` lie: packed with all others, or now."""
        g = data.geometry[0]
        if data.panels.size > 0:
            return unit * g.K[0] * g.K[1] * g.K[2] * g.C * g.NR + row * NR
        call_pack(g.pack, data, unit, row, row + size, panels.a, panels.at)
        return panels.at

    @kernel
    def write_sums(sums, MR, y, positions, filters):
        """y[m][o] = sums; those of the last tile lie behind the others, although it meets some
        windows of the one before."""
        rows = max(positions, MR)
        again = -rows % MR
        for m in range(positions):
            row = m if m < rows - MR + again else m + again
            copy_run(sums.a, sums.at + row * sums.step, y.a, y.at + m * y.step, filters)

    @kernel
    def sum_pieces(data, x, runs, panels, block):
        """y[m][o] for the positions and filters of `block`, whose windows are these of `x`."""
        g, kept = data.geometry[0], data.scratch.view(as_output)
        unit, rows = block.g0 * g.panels, max(block.rows, g.rows)
        size, to = (rows + g.rows) * g.NR, block.to + block.g0 * g.O
        at = g.block_at - block.p0 * size
        clear(data.scratch, g.block_at, (block.p1 - block.p0) * size)
        for r in range(runs.count):
            for s in range(0, runs.length, g.piece):
                length, row = min(g.piece, runs.length - s), runs.table[2 * r + 1] + s
                piece = Runs(runs.table, 1, length, 1, g.C)  # of which tiles add the first run
                x_s = Rows(x.a, x.at + runs.table[2 * r] - runs.table[0] + s, x.step)
                after = row + length
                for p in range(block.p0, block.p1):
                    if p + 1 < block.p1 or after == g.K[0] * g.K[1] * g.K[2] * g.C:
                        look_ahead(data, unit + p + 1, row if p + 1 < block.p1 else 0)
                    else:
                        look_ahead(data, unit + block.p0, after)
                    is_narrow = g.narrow_NR > 0 and g.O - p * g.NR < g.NR
                    tile, NR = (g.narrow, g.narrow_NR) if is_narrow else (g.tile, g.NR)
                    first = piece_of(data, panels, unit + p, row, length, NR)
                    panel = Rows(panels.a, first - runs.table[1] * NR, 0)
                    call_tile(tile, x_s, piece, panel, Rows(kept, at + p * size, NR), rows, NR, 0)
        for p in range(block.p0, block.p1):
            filters = min(g.NR, g.O - p * g.NR)
            is_narrow = g.narrow_NR > 0 and filters < g.NR
            MR, NR = (g.narrow_MR, g.narrow_NR) if is_narrow else (g.MR, g.NR)
            y = Rows(data.y, to + p * g.NR, g.y_step[2])
            write_sums(Rows(kept, at + p * size, NR), MR, y, block.rows, filters)
            if g.checks == OUTPUTS_ and not is_finite(y.a, y.at, block.rows, y.step, filters):
                data.counters[SUSPECT_] = 1

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
