"""What a range kernel is told: the sizes of the problem, and the arrays.

Kernels see every problem with three spatial axes (D, H, W); conv1d has D = H = 1.  A *line* is a
row of output positions along W; jobs are blocks of a line or of several, so that the windows of a
block are a constant step apart along either.

    jobs = blocks of panels x of groups x N x D x blocks of lines x of a line  (these vary fastest)
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from mlxconv.simd.address import caller
from mlxconv.simd.passing import Held
from mlxconv.simd.static import kernel

_AXES, _STEPS = (3,), (2,)

# One record, read-only and shared by all calls of a plan.  Sizes count elements.
GEOMETRY = np.dtype(
    [
        ("N", "i8"),
        ("L", "i8", _AXES),  # input extents
        ("C", "i8"),  # input channels of one group that meet each filter
        ("channels", "i8"),  # input channels of one group that a block reads
        ("width", "i8"),  # elements of a row of a strip: the same, up to whole vectors
        ("pitch", "i8"),  # elements from one copied window to the next
        ("stays", "i8"),  # whether a block may read the input in place: see below
        ("K", "i8", _AXES),  # taps
        ("O", "i8"),  # filters of one group
        ("groups", "i8"),
        ("stride", "i8", _AXES),
        ("padding", "i8", _AXES),  # at the low end
        ("dilation", "i8", _AXES),
        ("input_dilation", "i8", _AXES),
        ("out", "i8", _AXES),  # output extents
        ("x_offset", "i8"),  # where input element (0, ..., 0) lies in its memory
        ("x_image", "i8"),  # input elements from one image to the next
        ("x_step", "i8", _AXES),  # ... from one position to the next, per axis
        ("x_channel", "i8"),  # ... from one channel to the next
        ("y_offset", "i8"),  # where the outputs of position (0, ..., 0) lie
        ("y_image", "i8"),  # output elements from one image to the next
        ("y_step", "i8", _AXES),  # ... from one position to the next, per axis
        ("w_offset", "i8"),  # where the first filter lies in its memory
        ("w_group", "i8"),  # elements from the filters of a group to the next; 0: those follow them
        ("w_filter", "i8"),  # elements from one filter to the next
        ("w_step", "i8", _AXES),  # ... from one tap to the next, per axis
        ("w_channel", "i8"),  # ... from one channel to the next
        ("w_run", "i8"),  # ... of a filter that lie without gaps, or at least as far apart
        ("w_stays", "i8"),  # whether they may be panels as they lie: see below
        ("w_turned", "i8"),  # whether those of a run lie from the last to the first
        ("phases", "i8"),  # output positions that all filters compute side by side
        ("banks", "i8"),  # that filters come in, one behind the other: one for each phase
        ("w_bank", "i8"),  # elements from the filters of one bank to those of the next
        ("bank_rows", "i8"),  # panel rows from one bank to the next
        ("weights", "i8"),  # of one filter, in one line of taps
        ("checks", "i8"),  # what has to be looked through: FILTERS or OUTPUTS
        ("tail", "i8"),  # positions of a line that are left over by the phases
        ("tiles", "i8"),  # register tiles in a line; 0 where blocks gather windows from any line
        ("blocks", "i8"),  # blocks of tiles in a line
        ("line_blocks", "i8"),  # blocks of lines along H
        ("MR", "i8"),  # positions of a register tile
        ("rows", "i8"),  # of the smallest block: enough for the narrow tile, too
        ("NR", "i8"),  # filters of a register tile, and of a panel
        ("narrow_MR", "i8"),  # positions of the narrow tile
        ("narrow_NR", "i8"),  # of the narrow tile, for filters that are left over; 0 without one
        ("tile", "i8"),  # address of the micro-kernel
        ("narrow", "i8"),  # address of that of the narrow tile
        ("strips", "i8"),  # address of what copies a block's input
        ("pack", "i8"),  # of what packs a panel, or rows of it
        ("run", "i8"),  # of what computes a block
        ("edge", "i8"),  # of the micro-kernel of one position
        ("lines", "i8"),  # of what computes a block whose lines are read where they lie
        ("in_place", "i8"),  # whether blocks are such, where the channels of x are neighbours
        ("overlaps", "i8"),  # whether the last panel starts earlier, so that all are whole
        ("tap_block", "i8"),  # taps of a line that are summed channel by channel, see grouped.py
        ("classes", "i8"),  # of taps of a line that meet rows of their own, see channels_first.py
        ("class_step", "i8"),  # positions from one tap of a class to the next
        ("panels", "i8"),  # panels of NR filters in a group
        ("piece", "i8"),  # rows of a panel that are packed and met at a time, see pieces.py; 0: all
        ("panel_channels", "i8"),  # ... from one panel to the next: 0, over groups those it meets
        ("panel_blocks", "i8"),  # parts the panels are split into, when the lines are few
        ("group_blocks", "i8"),  # parts the groups are split into
        ("group_channels", "i8"),  # input channels from one group to the next
        ("mode", "i8"),  # of the micro-kernel: direct: rows first; over groups: bits, see below
        ("block_at", "i8"),  # where in scratch outputs are kept until they are written
        ("keeps_rows", "i8"),  # whether rows one behind the other are, see outputs.py
        ("panels_at", "i8"),  # where in scratch filters are packed that workers do not share
        ("steps", "i8"),  # range kernels to run, one after the other
        ("step", "i8", _STEPS),  # their addresses
        ("jobs", "i8", _STEPS),  # and their jobs
    ]
)


class Data(NamedTuple):
    """The arrays of one call, all flat."""

    geometry: Any  # one GEOMETRY record, or one for each part of a call
    x: Any  # the input's memory, read-only; half types as bits
    w: Any  # the filters as (O, taps, C), read-only, of y's type; if packed, laid out as it may be
    y: Any  # the output
    panels: Any  # the filters, packed; empty if each worker packs them for itself
    scratch: Any  # of this worker: a strip of input, a block of output, packed filters
    runs: Any  # of this worker: (input offset, panel row) of each run; last, what it remembers
    counters: Any  # whether padding may have met a weight it must not; jobs taken, by worker


STAYS, STAYS_ALIGNED = 1, 2  # always, or where a cache line starts with it
OVERLAPS, SLIDES = 1, 2  # bits of the mode of a micro-kernel over groups
SUSPECT = 0  # the counter that is a flag
FILTERS, OUTPUTS = 1, 2  # whose infinities may have met a zero that is not of the data
# where among its runs a worker keeps whose filters and what input it has, and of which part
PACKED, COPIED, PART = -1, -2, -3
NEXT, NEXT_STEP = -4, -5  # the address of what tiles ask for, and bytes to what the next does
KEPT = 5


class Block(NamedTuple):
    """One job: `rows` output positions of each of `lines` lines from `h` on, times groups [g0, g1),
    times panels [p0, p1)."""

    n: int
    d: int
    h: int
    lines: int
    first: int  # input row, along W, of the first window; padding counts
    rows: int
    to: int  # where in y the outputs of the first position lie
    g0: int
    g1: int
    p0: int
    p1: int


class Panels(NamedTuple):
    """Packed filters: panel p of group g starts at a[at + (g*step + p) * its size]."""

    a: Any
    at: int
    step: int


@kernel
def locate(g, job):
    """The block that `job` stands for.  A line of at least `rows` positions has no block of fewer:
    the first may end later, and others start earlier, and overlap their neighbours, writing the
    same bits again.  So does the tail, the positions that are left over when `phases` of them make
    one row."""
    D, H, W = g.out[0], g.out[1], g.out[2]
    blocks = g.blocks + (g.tail > 0)
    b, rest = job % blocks, job // blocks
    j, rest = rest % g.line_blocks, rest // g.line_blocks
    d, rest = rest % D, rest // D
    n, rest = rest % g.N, rest // g.N
    i, part = rest % g.group_blocks, rest // g.group_blocks
    shift = g.tail if b == g.blocks else 0
    l1 = W if shift else min(max(g.rows, (b + 1) * g.tiles // g.blocks * g.MR), W)
    l0 = max(0, l1 - g.rows if shift else min(b * g.tiles // g.blocks * g.MR, l1 - g.rows))
    first = l0 * g.stride[2] + shift * g.stride[2] // g.phases - g.padding[2]
    h, below = j * H // g.line_blocks, (j + 1) * H // g.line_blocks
    to = g.y_offset + n * g.y_image + d * g.y_step[0] + h * g.y_step[1]
    to += l0 * g.y_step[2] + shift * g.y_step[2] // g.phases
    g0, g1 = i * g.groups // g.group_blocks, (i + 1) * g.groups // g.group_blocks
    p0 = part * g.panels // g.panel_blocks
    p1 = (part + 1) * g.panels // g.panel_blocks
    return Block(n, d, h, below - h, first, l1 - l0, to, g0, g1, p0, p1)


@kernel(inline="always")
def inside(g, block):
    """Positions [lo, hi) of a line of `block` are those whose windows lie inside the input, as far
    as W is concerned."""
    stride, reach = g.stride[2], block.first + (g.K[2] - 1) * g.dilation[2]
    lo = min(max(0, (stride - 1 - block.first) // stride), block.rows)
    return lo, max(lo, min((g.L[2] - 1 - reach) // stride + 1, block.rows))


COPY_FLOP = 25  # per element: what a tile could do in the time that a copy takes
PARTS_FLOP = 60000  # what two parts more of a block take to begin


@kernel(inline="always")
def filling(g, positions):
    """So many positions at the end of a line, and as many more as fill their tiles."""
    return max(-(-positions // g.MR) * g.MR, g.rows) if positions > 0 else 0


@kernel
def part_of(g, block, i, stays):
    """Part i of `block`: positions whose windows reach out of the input at its low end, those that
    lie inside, and the rest.  Only the middle is read in place, if the input `stays`, and only from
    `rows` positions on; the others are as many as fill their tiles.  All are one part where to copy
    the middle takes less than two more, and in blocks of several lines, which copy what they share
    once."""
    lo, hi = 0, block.rows
    if stays and block.lines == 1:
        lo, hi = inside(g, block)
        lo, hi = filling(g, lo), block.rows - filling(g, block.rows - hi)
    copied = (hi - lo) * g.stride[2] * g.width * g.K[0] * g.K[1] * COPY_FLOP
    if hi - lo < g.rows or copied < PARTS_FLOP:
        lo, hi = 0, block.rows
    if i == 0:
        lo, hi = 0, lo
    elif i == 2:
        lo, hi = hi, block.rows
    first, to = block.first + lo * g.stride[2], block.to + lo * g.y_step[2]
    n, d, h, lines = block.n, block.d, block.h, block.lines
    return Block(n, d, h, lines, first, hi - lo, to, block.g0, block.g1, block.p0, block.p1)


@lru_cache
def data_type(elements):
    """The Numba type of Data, which is held: for these types of input and output."""
    flat = {name: np.empty(1, dtype) for name, dtype in elements.arrays().items()}
    flat["x"].flags.writeable = False  # and nobody writes to w, which may be panels as it lies
    return Held(numba.typeof(Data(geometry=np.zeros(1, GEOMETRY), **flat)))


@lru_cache
def pack_call(elements):
    """The word that packs rows of a panel: call(address, data, unit, lo, hi, panels, to)."""
    data = data_type(elements)
    panels = numba.typeof(np.empty(1, elements.dtype))
    return caller(f"pack_{elements.name}", data, *(types.intp,) * 3, panels, types.intp)


@lru_cache
def block_call(elements):
    """The word that computes a block: call(address, data, panels, block)."""
    data, panels = data_type(elements), numba.typeof(Panels(np.empty(1, elements.dtype), 0, 0))
    block = numba.typeof(Block(*(0,) * len(Block._fields)))
    return caller(f"block_{elements.name}", data, panels, block)


@lru_cache
def range_call(elements):
    """The word that runs jobs [lo, hi) of a range kernel: call(address, data, lo, hi)."""
    return caller(f"range_{elements.name}", data_type(elements), types.intp, types.intp)
