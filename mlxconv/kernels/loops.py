"""The loops around a micro-kernel: jobs, blocks of positions, panels of filters, tiles.

Two range kernels serve every variant that is a register tile.  The micro-kernel is called by
address, once per block, and its extents are run-time numbers, so a new one compiles nothing else;
so are the parts of a range kernel that run once per block, lest each be compiled with it again.

    fourth loop     jobs: a block of positions of one line, of one group    input stays in L2
    third loop      panels of NR filters                                    panel stays in L2
    second loop     tiles of MR positions                                   windows stay in L1
    first loop      runs and their elements: one register tile              sums in registers

The three inner loops are the micro-kernel's, in whatever order suits it.  Numbered from the inside
as in the papers on BLIS (F. Van Zee and R. van de Geijn, BLIS: A Framework for Rapidly
Instantiating BLAS Functionality, 2015).
"""

from functools import lru_cache

import numba
import numpy as np
from numba import types

from mlxconv import processor
from mlxconv.kernels.elements import converts_runs, unchanged
from mlxconv.kernels.geometry import (
    COPIED,
    FILTERS,
    OUTPUTS,
    PACKED,
    SLIDES,
    STAYS_ALIGNED,
    SUSPECT,
    Block,
    Panels,
    block_call,
    inside,
    locate,
    pack_call,
    part_of,
)
from mlxconv.kernels.outputs import computes_rows
from mlxconv.kernels.packing import finite
from mlxconv.kernels.window import (
    Rows,
    Runs,
    gathers,
    inputs,
    list_runs,
    reach_of,
    staying,
    strip_views,
    strips_call,
    window_in_place,
    windows,
)
from mlxconv.simd.address import caller
from mlxconv.simd.static import kernel
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import starts_line


@lru_cache
def tile_call(elements):
    """The word that runs a micro-kernel:
    call(address, x, runs, panel, y, positions, filters, mode)."""
    window = np.empty(1, elements.window)
    window.flags.writeable = False
    kinds = window, np.empty(1, elements.dtype), np.empty(1, elements.arrays()["y"])
    x, panel, y = (numba.typeof(Rows(a, 0, 0)) for a in kinds)
    runs = numba.typeof(Runs(np.empty(1, np.int64), 0, 0, 0, 0))
    name = "_".join(["tile", *(a.dtype.name for a in kinds)])
    return caller(name, x, runs, panel, y, *(types.intp,) * 3)


@lru_cache
def computes(elements):
    """compute for these types of input and output."""
    OUTPUTS_, call_tile, copy_run = OUTPUTS, tile_call(elements), converts_runs(unchanged)
    is_finite = finite(vec_of(elements.dtype, processor.vector_bytes()))
    as_output = np.dtype(elements.arrays()["y"]).type
    SHARE = np.dtype(elements.dtype).itemsize // np.dtype(as_output).itemsize

    @kernel(inline="always")
    def compute(data, x, runs, panel, y, positions, filters):
        """y = micro-kernel(x, runs, panel): by way of scratch where there are fewer positions than
        tiles have."""
        g = data.geometry[0]
        kept = Rows(data.scratch.view(as_output), g.block_at * SHARE, filters)
        out = kept if positions < g.rows else y
        rows, left = max(positions, g.rows), filters % g.NR if g.narrow_NR else 0
        whole = filters - left
        if whole:
            call_tile(g.tile, x, runs, panel, out, rows, whole, g.mode)
        if left:
            last = Rows(panel.a, panel.at + whole // g.NR * panel.step, 0)
            behind = Rows(out.a, out.at + whole, out.step)
            call_tile(g.narrow, x, runs, last, behind, rows, left, 0)
        if g.checks == OUTPUTS_ and not is_finite(out.a, out.at, positions, out.step, filters):
            data.counters[SUSPECT] = 1
        if positions < g.rows:
            for m in range(positions):
                copy_run(kept.a, kept.at + m * kept.step, y.a, y.at + m * y.step, filters)

    return compute


@lru_cache
def packs_once(elements):
    """packed_filters for weights of the arithmetic's type."""
    call_pack, ALIGNED = pack_call(elements), STAYS_ALIGNED
    vec = vec_of(elements.dtype, processor.vector_bytes())
    is_finite, FILTERS_ = finite(vec), FILTERS
    MAY_STAY = int(elements.output == elements.dtype)

    @kernel
    def packed_filters(data, g0, g1, p0, p1):
        """The Panels of groups [g0, g1), panels [p0, p1): where all workers share them, if they
        were packed before, or as they lie, else in the scratch of this one, packed unless its last
        job had the same.  What another core has written is slower to read than to pack."""
        g, part = data.geometry[0], 1 + g0 * data.geometry[0].panels + p0
        if data.panels.size > 0:
            return Panels(data.panels, 0, g.panels)
        if g.piece > 0:  # each when it is met
            return Panels(data.scratch, g.panels_at, 0)
        rows, count = g.K[0] * g.K[1] * g.K[2] * g.C, p1 - p0
        if MAY_STAY:
            whole = g.w_run == g.w_filter == rows and g.banks == 1 and not g.w_turned
            whole = whole and (g.w_group == 0 or g.w_group == g.O * rows)
            apart = g.w_stays == ALIGNED and not starts_line(vec, data.w, g.w_offset)
            if g.w_stays and whole and not apart:
                if g.checks == FILTERS_ and data.runs[PACKED] != part:
                    first, filters = (g0 * g.panels + p0) * rows, (g1 - g0) * count
                    if not is_finite(data.w, g.w_offset + first, 1, 0, filters * rows):
                        data.counters[SUSPECT] = 1
                    data.runs[PACKED] = part
                return Panels(data.w, g.w_offset, g.panels)
        size = rows * g.NR
        own = Panels(data.scratch, g.panels_at - (g0 * count + p0) * size, count)
        if data.runs[PACKED] != part:
            for i in range((g1 - g0) * count):
                unit = (g0 + i // count) * g.panels + p0 + i % count
                call_pack(g.pack, data, unit, 0, rows, own.a, g.panels_at + i * size)
            data.runs[PACKED] = part
        return own

    return packed_filters


@lru_cache
def runs_block(elements):
    """run for these types of input and output."""
    open_window, call_strips = windows(elements), strips_call(elements)
    input_of = inputs(elements)
    compute, KEEPS = computes(elements), int(elements.output == elements.dtype)
    compute_rows = computes_rows(vec_of(elements.dtype, processor.vector_bytes()), compute)
    itemsize = np.dtype(elements.dtype).itemsize
    ROOM = processor.caches().L1_bytes // 2 // itemsize
    PANELS_ROOM = processor.caches().L2_bytes // 4 // itemsize

    @kernel
    def run(data, panels, block):
        """y[n, h, l, o] for the lines, positions, groups and panels of `block`."""
        g = data.geometry[0]
        panel_size = g.K[0] * g.K[1] * g.K[2] * g.C * g.NR
        w = open_window(data, block, block.g0)
        runs = list_runs(data.runs, g, w)
        first = block.p0 * g.NR
        filters = min(block.p1 * g.NR, g.O) - first
        many = filters
        if block.lines > 1 and g.panel_channels == 0:  # the next line finds the panels in L2
            many = max(1, PANELS_ROOM // max(1, panel_size)) * g.NR
        elif block.lines > 1 and g.K[1] > 1:  # the next line finds in L1 what it shares with this
            shared = (w.h.k1 - w.h.k0) * w.w.rows * g.panel_channels
            many = max(1, ROOM // max(1, shared)) * g.NR
        for group in range(block.g0, block.g1):
            if group > block.g0 and not w.in_place:
                call_strips(g.strips, data, block.n, group * g.group_channels, w.d, w.h, w.w)
            shift = (group - block.g0) * g.group_channels if w.in_place else 0
            at = w.first + shift + block.p0 * g.panel_channels
            to = block.to + group * g.O + first
            panel_at = panels.at + (group * panels.step + block.p0) * panel_size
            o = 0
            while o < filters:  # the last filters are no fewer than a panel: it may overlap
                some = many if filters - o >= many + g.NR else filters - o
                p = o // g.NR
                panel = Rows(panels.a, panel_at + p * panel_size, panel_size)
                for j in range(block.lines):
                    x = Rows(input_of(data, w), at + p * g.panel_channels + j * w.line, w.row)
                    y = Rows(data.y, to + o + j * g.y_step[1], g.y_step[2])
                    if KEEPS and g.keeps_rows and some == y.step:
                        compute_rows(data, x, runs, panel, y, block.rows, some)
                    else:
                        compute(data, x, runs, panel, y, block.rows, some)
                o += some

    return run


@lru_cache
def runs_lines(elements):
    """run_lines for these types of input and output."""
    call_tile, SLIDES_ = tile_call(elements), SLIDES

    @kernel
    def run_lines(data, panels, block):
        """The same for depthwise problems, of whose lines nothing is copied: positions whose
        windows reach out of the input are computed one by one, from the taps that do not."""
        g = data.geometry[0]
        panel_size = g.K[0] * g.K[1] * g.K[2] * g.C * g.NR
        lo, hi = inside(g, block)
        if hi - lo < g.rows:
            lo = hi = block.rows  # too few for a tile: all come one by one
        filters = min(block.p1 * g.NR, g.O) - block.p0 * g.NR
        d = reach_of(g, 0, block.d * g.stride[0] - g.padding[0], 1)
        for j in range(block.lines):
            h = reach_of(g, 1, (block.h + j) * g.stride[1] - g.padding[1], 1)
            m = 0
            while m < block.rows:
                rows = hi - lo if m == lo else 1
                w = reach_of(g, 2, block.first + m * g.stride[2], rows)
                window = window_in_place(g, block.n, block.p0 * g.panel_channels, d, h, w)
                runs = list_runs(data.runs, g, window)
                tile, mode = (g.tile, g.mode) if rows > 1 else (g.edge, g.mode & ~SLIDES_)
                to = block.to + j * g.y_step[1] + m * g.y_step[2] + block.p0 * g.NR
                for group in range(block.g0, block.g1):
                    at = panels.at + (group * panels.step + block.p0) * panel_size
                    panel = Rows(panels.a, at, panel_size)
                    x = Rows(data.x, window.first + group * g.group_channels, window.row)
                    y = Rows(data.y, to + group * g.O, g.y_step[2])
                    call_tile(tile, x, runs, panel, y, rows, filters, mode)
                m += rows

    return run_lines


@lru_cache
def blocks(elements, vec):
    """The range kernel over blocks of lines that are at least as long as a tile."""
    call_run, packed_filters = block_call(elements), packs_once(elements)
    may_stay = staying(elements)

    @kernel
    def blocks(data, lo, hi):
        """y[n, l, o] for the blocks of jobs [lo, hi)."""
        g = data.geometry[0]
        stays = may_stay(g, data.x)
        for job in range(lo, hi):  # fourth loop: blocks of positions
            block = locate(g, job)
            panels = packed_filters(data, block.g0, block.g1, block.p0, block.p1)
            if g.in_place and stays:
                call_run(g.lines, data, panels, block)
            else:
                for i in range(3):  # its parts before, inside and behind the middle of the input
                    part = part_of(g, block, i, stays and g.piece == 0)
                    if part.rows > 0:
                        call_run(g.run, data, panels, part)

    return blocks


@lru_cache
def gathered(elements, vec):
    """The range kernel over blocks of positions that lie anywhere, for lines shorter than a tile:
    each window is copied, one behind the other, zeros where it meets padding."""
    gather, compute = gathers(elements, vec), computes(elements)
    strip_of, call_run = strip_views(elements), block_call(elements)
    packed_filters = packs_once(elements)

    @kernel
    def gathered(data, lo, hi):
        """y[position, o] for the blocks of jobs [lo, hi); positions count over N, D, H and W."""
        g = data.geometry[0]
        taps = g.K[0] * g.K[1] * g.K[2]
        positions, panel_size = g.N * g.out[0] * g.out[1] * g.out[2], taps * g.C * g.NR
        data.runs[0] = data.runs[1] = 0
        length, step = (taps, g.width) if g.panel_channels > 0 else (taps * g.C, 1)
        runs = Runs(data.runs, 1, length, step, g.C)
        for job in range(lo, hi):
            b, rest = job % g.blocks, job // g.blocks
            group, part = rest % g.groups, rest // g.groups
            l0, l1 = b * positions // g.blocks, (b + 1) * positions // g.blocks
            windows = 1 + job % (g.blocks * g.groups)
            if data.runs[COPIED] != windows:
                gather(data, group, l0, l1, g.pitch)
                data.runs[COPIED] = windows
            p0, p1 = part * g.panels // g.panel_blocks, (part + 1) * g.panels // g.panel_blocks
            panels = packed_filters(data, group, group + 1, p0, p1)
            if g.piece > 0:
                to = l0 * g.y_step[2]
                whole = Block(0, 0, 0, 1, 0, l1 - l0, to, group, group + 1, p0, p1)
                call_run(g.run, data, panels, whole)
                continue
            x = Rows(strip_of(data), p0 * g.panel_channels, g.pitch)
            y = Rows(data.y, l0 * g.y_step[2] + group * g.O + p0 * g.NR, g.y_step[2])
            panel = Rows(panels.a, panels.at + (group * panels.step + p0) * panel_size, panel_size)
            filters = min(p1 * g.NR, g.O) - p0 * g.NR
            compute(data, x, runs, panel, y, l1 - l0, filters)

    return gathered
