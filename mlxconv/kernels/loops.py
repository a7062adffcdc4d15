"""The loops around a micro-kernel: jobs, blocks of positions, panels of filters, tiles.

One range kernel serves every variant that is a register tile: the tile is called by address, and
its extents are run-time numbers, so a new tile compiles nothing but itself.

    fourth loop     jobs: a block of positions of one line, of one group    input stays in L2
    third loop      panels of NR filters                                    panel stays in L2
    second loop     tiles of MR positions                                   windows stay in L1
    first loop      runs and their elements: the micro-kernel               sums in registers

Numbered from the inside as in the papers on BLIS (F. Van Zee and R. van de Geijn, BLIS: A Framework
for Rapidly Instantiating BLAS Functionality, 2015).
"""

from functools import lru_cache

import numba
import numpy as np
from numba import types

from mlxconv.kernels.geometry import locate, output_of
from mlxconv.kernels.window import Rows, Runs, inputs, list_runs, rows_from, taps_of, windows
from mlxconv.simd.address import caller
from mlxconv.simd.static import kernel


@lru_cache
def tile_call(dtype):
    """The word that runs a micro-kernel: call(address, x, runs, panel, y, filters)."""
    writable = Rows(np.empty(1, dtype), 0, 0)
    read_only = np.empty(1, dtype)
    read_only.flags.writeable = False
    x, y = numba.typeof(Rows(read_only, 0, 0)), numba.typeof(writable)
    runs = numba.typeof(Runs(np.empty(1, np.int64), 0, 0))
    return caller(f"tile_{dtype}", x, runs, y, y, types.intp)


@lru_cache
def blocks(elements):
    """The range kernel over blocks, for these types of input and output."""
    ROUNDS, narrow = elements.rounds, elements.narrow
    open_window, input_of = windows(elements), inputs(elements)
    call_tile = tile_call(elements.dtype)

    @kernel(inline="always")
    def compute(data, tile, positions, x, runs, panel, y, filters):
        """y = tile(x, runs, panel), rounded to the type of the output on the way if need be."""
        if ROUNDS:
            at, width = data.geometry[0].tile_at, panel.step
            call_tile(tile, x, runs, panel, Rows(data.scratch, at, width), filters)
            for m in range(positions):
                for o in range(filters):
                    y.a[y.at + m * y.step + o] = narrow(data.scratch[at + m * width + o])
        else:
            call_tile(tile, x, runs, panel, y, filters)

    @kernel
    def tiles(data, block, w, x, panel, y, filters):
        """Second loop around the micro-kernel: tiles of MR positions, the last one overlapping."""
        g = data.geometry[0]
        runs = list_runs(data.runs, g, w, w.taps.k0, w.taps.k1)
        for l in range(block.l0, block.l1, g.MR):
            m = min(l, block.l1 - g.MR) - block.l0
            compute(data, g.tile, g.MR, rows_from(x, m), runs, panel, rows_from(y, m), filters)

    @kernel
    def positions(data, block, w, x, panel, y, filters):
        """The same position by position, each with those taps only that meet the input: for lines
        shorter than a tile, and for weights that padding, as a zero, would turn into NaN."""
        g = data.geometry[0]
        for m in range(block.l1 - block.l0):
            k0, k1 = taps_of(g, block.l0 + m, block.l0 + m + 1)
            runs = list_runs(data.runs, g, w, k0, k1)
            compute(data, g.single, 1, rows_from(x, m), runs, panel, rows_from(y, m), filters)

    @kernel
    def blocks(data, lo, hi):
        """y[n, l, o] for the blocks of jobs [lo, hi)."""
        g = data.geometry[0]
        panel_size = g.K[0] * g.K[1] * g.K[2] * g.C * g.NR
        for job in range(lo, hi):  # fourth loop: blocks of positions
            block = locate(g, job)
            w = open_window(data, block)
            source = input_of(data, w)
            for p in range(block.p0, block.p1):  # third loop: panels of NR filters
                unit = block.group * g.panels + p
                x = Rows(source, w.first + p * g.panel_channels, w.row)
                y = Rows(data.y, output_of(g, block, block.group * g.O + p * g.NR), g.out_row)
                panel = Rows(data.panels, unit * panel_size, g.NR)
                filters = min(g.NR, g.O - p * g.NR)
                if block.l1 - block.l0 >= g.MR and (w.in_place or data.finite[unit]):
                    tiles(data, block, w, x, panel, y, filters)
                else:
                    positions(data, block, w, x, panel, y, filters)

    return blocks
