"""Where a block reads its input: in place, or from a strip in scratch with zeros around it.

The window of an output position is a list of *runs*, contiguous in memory: with dilation 1 all
taps of a row are one run of K*C elements, else each tap is a run of C.  Windows of neighbouring
positions are a constant step apart, so a block needs one list.

A block whose windows all lie inside the input reads it where it is.  Any other, and any block of
an input that is of another type or whose channels are apart, copies what it needs,
once, to a strip that does not grow with N or L.  Along each axis a strip holds

    near taps       0 0 0 [row 0] [row 1] ... [row L-1] 0 0        step = dilation
    far taps        [rows of tap 0] [rows of tap 1] ...            step = span

Lines of depthwise problems, of which a copy takes as long as the sums, may be read where they lie
even so, and the few positions whose windows reach out computed one by one, from the taps that do
not: see loops.run_lines.

Taps that only meet padding are left out of the list.  A zero of the padding that meets an infinite
weight makes a NaN that must not be: filters are looked through when they are packed, or outputs
where they are fewer.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from mlxconv import processor
from mlxconv.kernels.copies import clears, row_copies
from mlxconv.kernels.geometry import STAYS, STAYS_ALIGNED, data_type
from mlxconv.simd.address import caller
from mlxconv.simd.static import kernel
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import starts_line


class Rows(NamedTuple):
    """Rows in flat memory: row m starts at a[at + m*step]."""

    a: Any
    at: int
    step: int


class Runs(NamedTuple):
    """The runs of a window: run r covers elements table[2r] + s*step of its rows, and meets the
    panel rows table[2r+1] + s, s < length."""

    table: Any
    count: int
    length: int
    step: int  # 1, over groups what is between taps
    channels: int  # of a group


class Reach(NamedTuple):
    """What a block reads along one axis: for each tap k of [k0, k1), which are all that meet the
    input, `span` rows from first + k*dilation on.  In a strip these are `rows` rows, those of a tap
    `step` after those of the one before."""

    first: int
    span: int
    k0: int
    k1: int
    step: int
    rows: int


class Window(NamedTuple):
    """Tap (d, h, k) of position m of line j is at first + j*line + m*row + d*step_d + h*step_h +
    k*step_w."""

    in_place: bool
    first: int
    line: int
    row: int
    step_d: int
    step_h: int
    step_w: int
    d: Reach
    h: Reach
    w: Reach


@kernel(inline="always")
def reach_of(g, axis, first, positions):
    """The Reach of so many positions along `axis`, whose first window starts at row `first`."""
    K, L, dilation = g.K[axis], g.L[axis], g.dilation[axis]
    span = (positions - 1) * g.stride[axis] + 1
    last = first + span - 1
    k0 = min(K, max(0, (-last + dilation - 1) // dilation))
    k1 = max(k0, min(K, (L - first + dilation - 1) // dilation))
    if axis == 2 and positions > 1:
        k0, k1 = k0 - k0 % g.tap_block, min(K, k1 + -k1 % g.tap_block)
    step = min(dilation, span)
    return Reach(first, span, k0, k1, step, span + (k1 - k0 - 1) * step)


@kernel(inline="always")
def is_inside(g, axis, reach):
    """Whether no tap of `reach` meets padding."""
    first = reach.first + reach.k0 * g.dilation[axis]
    last = reach.first + (reach.k1 - 1) * g.dilation[axis] + reach.span - 1
    return first >= 0 and last < g.L[axis]


@kernel(inline="always")
def row_of(g, axis, reach, i):
    """The input row that row i of a strip holds; -1 if it lies outside."""
    r = reach.first + (reach.k0 + i // reach.step) * g.dilation[axis] + i % reach.step
    return r if 0 <= r < g.L[axis] else -1


@lru_cache
def strips_call(elements):
    """The word that fills a strip: call(address, data, n, c0, d, h, w)."""
    reach = numba.typeof(Reach(*(0,) * len(Reach._fields)))
    return caller(f"strips_{elements.name}", data_type(elements), *(types.intp,) * 2, *(reach,) * 3)


@lru_cache
def strip_views(elements):
    """strip_of for windows of this type."""
    as_window = np.dtype(elements.window).type

    @kernel(inline="always")
    def strip_of(data):
        """The memory that rows of the input are copied to."""
        return data.scratch.view(as_window)

    return strip_of


@lru_cache
def strip_copies(elements, vec):
    """copy_strip for inputs of this type."""
    copy_rows, strip_of = row_copies(elements, vec), strip_views(elements)

    @kernel
    def copy_strip(data, n, c0, d, h, w):
        """Fill the strip with what a block of image `n` reads along D, H and W, from channel c0."""
        g, strip = data.geometry[0], strip_of(data)
        far, at = w.step != g.dilation[2], 0
        rows = w.span if far else w.rows  # that are neighbours in the input as well
        for i in range(d.rows):
            for j in range(h.rows):
                rd, rh = row_of(g, 0, d, i), row_of(g, 1, h, j)
                line = g.x_offset + n * g.x_image + rd * g.x_step[0] + rh * g.x_step[1]
                for k in range(w.k0, w.k1 if far else min(w.k1, w.k0 + 1)):
                    first = w.first + k * g.dilation[2] if min(rd, rh) >= 0 else g.L[2]
                    copy_rows(g, data.x, strip, line, first, rows, c0, at)
                    at += rows * g.width

    return copy_strip


@kernel(inline="always")
def window_in_place(g, n, c0, d, h, w):
    """The Window of what lies inside image `n`, from channel c0 on."""
    first = g.x_offset + n * g.x_image + c0 * g.x_channel
    first += d.first * g.x_step[0] + h.first * g.x_step[1] + w.first * g.x_step[2]
    line, row = g.stride[1] * g.x_step[1], g.stride[2] * g.x_step[2]
    step_d, step_h = g.dilation[0] * g.x_step[0], g.dilation[1] * g.x_step[1]
    return Window(True, first, line, row, step_d, step_h, g.dilation[2] * g.x_step[2], d, h, w)


@lru_cache
def staying(elements):
    """may_stay for inputs of this type."""
    CONVERTS, STAYS_, ALIGNED = elements.converts, STAYS, STAYS_ALIGNED
    vec = vec_of(elements.dtype, processor.vector_bytes())

    @kernel(inline="always")
    def may_stay(g, x):
        """Whether blocks may read the input where it lies."""
        stays = False
        if not CONVERTS:
            aligned = g.stays == ALIGNED and starts_line(vec, x, g.x_offset)
            stays = g.x_channel == 1 and (g.stays == STAYS_ or aligned)
        return stays

    return may_stay


@lru_cache
def windows(elements):
    """open_window for inputs of this type."""
    may_stay, call_strips = staying(elements), strips_call(elements)

    @kernel
    def open_window(data, block, group):
        """The Window of `block` over the channels of `group`."""
        g = data.geometry[0]
        c0 = group * g.group_channels
        d = reach_of(g, 0, block.d * g.stride[0] - g.padding[0], 1)
        h = reach_of(g, 1, block.h * g.stride[1] - g.padding[1], block.lines)
        w = reach_of(g, 2, block.first, block.rows)
        inside = is_inside(g, 0, d) and is_inside(g, 1, h) and is_inside(g, 2, w)
        if inside and may_stay(g, data.x):
            return window_in_place(g, block.n, c0, d, h, w)
        call_strips(g.strips, data, block.n, c0, d, h, w)
        pitch = w.rows * g.width
        step_d, step_h, step_w = d.step * h.rows * pitch, h.step * pitch, w.step * g.width
        first = -(d.k0 * step_d + h.k0 * step_h + w.k0 * step_w)
        line, row = g.stride[1] * pitch, g.stride[2] * g.width
        return Window(False, first, line, row, step_d, step_h, step_w, d, h, w)

    return open_window


@lru_cache
def gathers(elements, vec):
    """gather for inputs of this type."""
    copy_rows, clear, strip_of = row_copies(elements, vec), clears(vec), strip_views(elements)

    @kernel
    def gather(data, group, l0, l1, pitch):
        """strip[m*pitch + tap*width + c] = channel c of what tap of position l0 + m meets, for
        positions counted over N, D, H and W."""
        g, strip = data.geometry[0], strip_of(data)
        taps = g.K[2] if g.dilation[2] == 1 else 1  # that are neighbouring rows
        c0 = group * g.group_channels
        w, rest = l0 % g.out[2], l0 // g.out[2]
        h, rest = rest % g.out[1], rest // g.out[1]
        d, n = rest % g.out[0], rest // g.out[0]
        for m in range(l1 - l0):
            at, first = m * pitch, w * g.stride[2] - g.padding[2]
            for kd in range(g.K[0]):
                rd = d * g.stride[0] - g.padding[0] + kd * g.dilation[0]
                for kh in range(g.K[1]):
                    rh = h * g.stride[1] - g.padding[1] + kh * g.dilation[1]
                    base = g.x_offset + n * g.x_image + rd * g.x_step[0] + rh * g.x_step[1]
                    outside = not (0 <= rd < g.L[0] and 0 <= rh < g.L[1])
                    for k in range(0, g.K[2], taps):
                        r = g.L[2] if outside else first + k * g.dilation[2]
                        copy_rows(g, data.x, strip, base, r, taps, c0, at)
                        at += taps * g.width
            w += 1  # counted on: to divide for each position would take as long as to copy it
            if w == g.out[2]:
                w, h = 0, h + 1
                if h == g.out[1]:
                    h, d = 0, d + 1
                    if d == g.out[0]:
                        d, n = 0, n + 1
        missing = max(0, g.rows - (l1 - l0))  # rows that fill up the tile
        clear(strip, (l1 - l0) * pitch, missing * pitch)

    return gather


@lru_cache
def inputs(elements):
    """input_of for inputs of this type."""
    CONVERTS, strip_of = elements.converts, strip_views(elements)

    @kernel(inline="always")
    def input_of(data, window):
        """The array that `window` is read from."""
        if CONVERTS:  # x is of another type
            source = strip_of(data)
        else:
            source = data.x if window.in_place else strip_of(data)
        return source

    return input_of


@kernel
def list_runs(table, g, w):
    """The Runs of all taps that meet the input, relative to `first` of the window."""
    k0, k1 = w.w.k0, w.w.k1
    stepped = g.panel_channels > 0  # over groups, where a run has one row of each tap
    merged = stepped or w.step_w == g.C
    last = min(k1, k0 + 1) if merged else k1
    r = 0
    for kd in range(w.d.k0, w.d.k1):
        for kh in range(w.h.k0, w.h.k1):
            start = kd * w.step_d + kh * w.step_h
            tap = (kd * g.K[1] + kh) * g.K[2]
            for k in range(k0, last):
                table[2 * r] = start + k * w.step_w
                table[2 * r + 1] = (tap + k) * g.C
                r += 1
    if stepped:
        return Runs(table, r, k1 - k0, w.step_w, g.C)
    return Runs(table, r, (k1 - k0) * g.C if merged else g.C, 1, g.C)


def strip_elements(g, lines, positions):
    """Elements of scratch that the strip of a block of `lines` x `positions` may need."""
    elements = int(g["width"][0])
    for axis, extent in enumerate((1, lines, positions)):
        K, L = int(g["K"][0, axis]), int(g["L"][0, axis])
        span = (extent - 1) * int(g["stride"][0, axis]) + 1
        step = min(int(g["dilation"][0, axis]), span)
        more = 2 * step * (int(g["tap_block"][0]) - 1)
        elements *= min(span + (K - 1) * step, L + 2 * span + more)  # taps that meet none are left
    return elements
