"""What a range kernel is told: the sizes of the problem, and the arrays.

Kernels see every problem with three spatial axes (D, H, W); conv1d has D = H = 1.  A *line* is a
row of output positions along W; jobs are blocks of a line, so that one block reads windows that
are a constant step apart.

    jobs = filter blocks x groups x N x D x H x blocks of a line        (blocks vary fastest)
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numba import types

from mlxconv.simd.address import caller
from mlxconv.simd.static import kernel

if TYPE_CHECKING:
    from mlxconv.problem import Problem

_AXES = (3,)

# One record, read-only and shared by all calls of a plan.  Sizes count elements.
GEOMETRY = np.dtype(
    [
        ("N", "i8"),
        ("L", "i8", _AXES),  # input extents
        ("C", "i8"),  # input channels of one group that meet each filter
        ("channels", "i8"),  # input channels of one group that a block reads, each repeated
        ("multiplier", "i8"),  # ... this often
        ("width", "i8"),  # elements of a row of a strip: the same, up to whole vectors
        ("stays", "i8"),  # whether a block may read the input in place
        ("K", "i8", _AXES),  # taps
        ("O", "i8"),  # filters of one group
        ("groups", "i8"),
        ("stride", "i8", _AXES),
        ("padding", "i8", _AXES),  # at the low end
        ("dilation", "i8", _AXES),
        ("input_dilation", "i8", _AXES),
        ("out", "i8", _AXES),  # output extents
        ("out_row", "i8"),  # output elements from one position to the next, O * groups
        ("x_offset", "i8"),  # where input element (0, ..., 0) lies in its memory
        ("x_image", "i8"),  # input elements from one image to the next
        ("x_step", "i8", _AXES),  # ... from one position to the next, per axis
        ("x_channel", "i8"),  # ... from one channel to the next
        ("tiles", "i8"),  # register tiles in a line
        ("blocks", "i8"),  # blocks of tiles in a line
        ("MR", "i8"),  # positions of a register tile
        ("NR", "i8"),  # filters of a register tile, and of a panel
        ("tile", "i8"),  # address of the micro-kernel of MR positions
        ("single", "i8"),  # address of the one of a single position
        ("panels", "i8"),  # panels of NR filters in a group
        ("panel_channels", "i8"),  # input channels from one panel to the next: 0, depthwise NR
        ("panel_blocks", "i8"),  # parts the panels are split into, when the lines are few
        ("tile_at", "i8"),  # where in scratch a tile is kept until it is rounded to the output
    ]
)


class Data(NamedTuple):
    """The arrays of one call, all flat."""

    geometry: Any  # one GEOMETRY record
    x: Any  # the input's memory, read-only; the bits, uint16, of half types
    w: Any  # the filters as (O, taps, C), read-only
    panels: Any  # the filters, packed
    finite: Any  # per panel: 0 if one of its weights is NaN or infinite
    y: Any  # the output
    scratch: Any  # of this worker: a strip of input, and a tile of output
    runs: Any  # of this worker: (input offset, panel row) of each run


class Block(NamedTuple):
    """One job: output positions [l0, l1) of a line, times panels [p0, p1) of a group."""

    n: int
    group: int
    d: int
    h: int
    l0: int
    l1: int
    p0: int
    p1: int
    line: int  # this line's number, counted over all images


@kernel(inline="always")
def output_of(g, block, o):
    """Where y[n, d, h, l0, o] of `block` lies."""
    return (block.line * g.out[2] + block.l0) * g.out_row + o


@kernel
def locate(g, job):
    """The block that `job` stands for.  A line of at least MR positions has no block of fewer:
    its last block starts earlier and overlaps its neighbour, writing the same bits again."""
    D, H, W = g.out[0], g.out[1], g.out[2]
    b, rest = job % g.blocks, job // g.blocks
    h, rest = rest % H, rest // H
    d, rest = rest % D, rest // D
    n, rest = rest % g.N, rest // g.N
    group, part = rest % g.groups, rest // g.groups
    l1 = min((b + 1) * g.tiles // g.blocks * g.MR, W)
    l0 = max(0, min(b * g.tiles // g.blocks * g.MR, l1 - g.MR))
    p0 = part * g.panels // g.panel_blocks
    p1 = (part + 1) * g.panels // g.panel_blocks
    return Block(n, group, d, h, l0, l1, p0, p1, (n * D + d) * H + h)


@lru_cache
def range_call(elements):
    """The word that runs jobs [lo, hi) of a range kernel: call(address, data, lo, hi)."""
    flat = {name: np.empty(1, dtype) for name, dtype in elements.arrays().items()}
    for name in ("x", "w"):
        flat[name].flags.writeable = False
    data = Data(geometry=np.zeros(1, GEOMETRY), **flat)
    return caller(f"range_{elements.name}", numba.typeof(data), types.intp, types.intp)


def geometry_of(p: "Problem") -> np.ndarray:
    """`p` as a GEOMETRY record, for a C-contiguous input and any kernel that loops over groups."""

    def three(values, missing):
        return (*(missing,) * (3 - len(values)), *values)

    g = np.zeros(1, GEOMETRY)
    g["N"], g["L"], g["K"] = p.N, three(p.L, 1), three(p.K, 1)
    g["groups"], g["C"], g["O"] = p.groups, p.C // p.groups, p.O // p.groups
    g["channels"], g["multiplier"], g["width"], g["stays"] = g["C"], 1, g["C"], True
    g["stride"], g["padding"] = three(p.stride, 1), three(p.padding_lo, 0)
    g["dilation"], g["input_dilation"] = three(p.kernel_dilation, 1), three(p.input_dilation, 1)
    g["out"], g["out_row"] = three(p.output_L, 1), p.O
    strides = [math.prod(p.input_shape[axis + 1 :]) for axis in range(len(p.input_shape))]
    set_input_layout(g, 0, strides)
    return g


def across_groups(g: np.ndarray, NR: int) -> np.ndarray:
    """The depthwise geometry `g` with its groups as the vector axis: one group of all filters,
    filter o reading channel o // multiplier, NR filters and their channels to a panel.

    Blocks read the input in place where every vector is whole and every channel read once.
    """
    filters, multiplier = int(g["out_row"][0]), int(g["O"][0])
    panels = -(-filters // NR)
    g["groups"], g["O"], g["channels"], g["multiplier"] = 1, filters, filters, multiplier
    g["width"], g["panel_channels"] = panels * NR, NR
    g["stays"] = multiplier == 1 and filters % NR == 0
    return g


def set_input_layout(g: np.ndarray, offset: int, strides: Sequence[int]) -> None:
    """Say where the input's elements lie: at `offset` and `strides` apart, (N, ..., C)."""
    g["x_offset"], g["x_image"], g["x_channel"] = offset, strides[0], strides[-1]
    g["x_step"] = (*(0,) * (5 - len(strides)), *strides[1:-1])
