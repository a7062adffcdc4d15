"""Where a block reads its input: in place, or from a strip in scratch with zeros around it.

The window of an output position is a list of *runs*, contiguous in memory: with dilation 1 all
taps of a row are one run of K*C elements, else each tap is a run of C.  Windows of neighbouring
positions are a constant step apart, so a block needs one list.

A block whose windows all lie inside the input reads it where it is.  Any other, and any block of
an input that is of another type or whose channels are apart or repeated, copies the rows it
needs, once, to a strip that does not grow with N or L:

    in place        x    ... [row r0] [row r0+1] [row r0+2] ...    step_w = dilation * x_step
    strip           0 0 0 [row 0] [row 1] ... [row L-1] 0 0        step_w = dilation * C
    far taps        [rows of tap 0] [rows of tap 1] ...            step_w = span * C

Taps that only meet padding are left out of the list.  A zero of the padding that meets an infinite
weight makes a NaN that must not be: filters are looked through when they are packed.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba import types

from mlxconv.kernels.geometry import data_type
from mlxconv.simd.address import caller
from mlxconv.simd.static import kernel
from mlxconv.simd.words import load, store


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
    step: int  # 1, depthwise what is between taps


class Taps(NamedTuple):
    """The taps [d0, d1) x [h0, h1) x [k0, k1) that meet the input somewhere in a block."""

    d0: int
    d1: int
    h0: int
    h1: int
    k0: int
    k1: int


class Window(NamedTuple):
    """Tap (d, h, k) of position m is at first + m*row + d*step_d + h*step_h + k*step_w."""

    in_place: bool
    first: int
    row: int
    step_d: int
    step_h: int
    step_w: int
    taps: Taps


@kernel(inline="always")
def taps_inside(first, last, dilation, K, L):
    """[a, b): the taps k < K that meet the input, 0 <= r + k*dilation < L, for an r in
    [first, last]."""
    a = max(0, (-last + dilation - 1) // dilation)
    b = min(K, (L - first + dilation - 1) // dilation)
    return min(a, K), max(min(a, K), b)


@lru_cache
def row_copies(elements, vec):
    """copy_rows for inputs of this type."""
    CONVERTS, widen, LANES = int(elements.converts), elements.widen, vec.lanes

    @kernel
    def copy_run(data, source, to, count):
        """scratch[to + i] = x[source + i] for i < count."""
        x, scratch, i = data.x, data.scratch, 0
        if not CONVERTS:
            for i in range(0, count - LANES + 1, LANES):
                store(load(vec, x, source + i), scratch, to + i)
            i = count // LANES * LANES
        for j in range(i, count):
            scratch[to + j] = widen(x[source + j])

    @kernel
    def copy_row(data, source, to):
        """scratch[to + c] = x[source + c // multiplier * x_channel] for the channels of a row."""
        g, x, scratch = data.geometry[0], data.x, data.scratch
        channels = g.channels
        if g.multiplier == 1 and g.x_channel == 1:
            copy_run(data, source, to, channels)
        else:
            for i in range(0, channels, g.multiplier):
                value = widen(x[source + i // g.multiplier * g.x_channel])
                for j in range(i, min(i + g.multiplier, channels)):
                    scratch[to + j] = value

    @kernel
    def copy_rows(data, base, first, rows, c0, at):
        """scratch[at + i*width + c] = x[base + (first+i)*x_step + channel c0 + c // multiplier],
        0 outside the input."""
        g, scratch = data.geometry[0], data.scratch
        lo = min(rows, max(0, -first))
        hi = max(lo, min(rows, g.L[2] - first))
        width, step = g.width, g.x_step[2]
        source = base + first * step + c0 * g.x_channel
        scratch[at : at + lo * width] = 0
        scratch[at + hi * width : at + rows * width] = 0
        if g.multiplier == 1 and g.x_channel == 1 and width == g.channels and width == step:
            lo, hi = lo * width, hi * width  # rows without gaps
            copy_run(data, source + lo, at + lo, hi - lo)
        else:
            for i in range(lo, hi):
                copy_row(data, source + i * step, at + i * width)
                for c in range(g.channels, width):
                    scratch[at + i * width + c] = 0

    return copy_rows


@lru_cache
def strips_call(elements):
    """The word that fills the strips: call(address, data, base, r0, span, tap_rows, taps, c0)."""
    taps = numba.typeof(Taps(0, 0, 0, 0, 0, 0))
    sizes = (types.intp,) * 4
    return caller(f"strips_{elements.name}", data_type(elements), *sizes, taps, types.intp)


@lru_cache
def strip_copies(elements, vec):
    """copy_strips for inputs of this type."""
    copy_rows = row_copies(elements, vec)

    @kernel
    def copy_strips(data, base, r0, span, tap_rows, taps, c0):
        """Fill the strips of the valid outer taps (kd, kh), one behind the other."""
        g = data.geometry[0]
        strip, far = 0, tap_rows != g.dilation[2]
        rows = span if far else span + (taps.k1 - taps.k0 - 1) * tap_rows
        for kd in range(taps.d0, taps.d1):
            for kh in range(taps.h0, taps.h1):
                outer = base + kd * g.dilation[0] * g.x_step[0] + kh * g.dilation[1] * g.x_step[1]
                for k in range(taps.k0, taps.k1 if far else min(taps.k1, taps.k0 + 1)):
                    at = strip * rows * g.width
                    copy_rows(data, outer, r0 + k * g.dilation[2], rows, c0, at)
                    strip += 1

    return copy_strips


@lru_cache
def windows(elements):
    """open_window for inputs of this type."""
    CONVERTS, call_strips = elements.converts, strips_call(elements)

    @kernel
    def open_window(data, block, group):
        """The Window of `block` over the channels of `group`."""
        g = data.geometry[0]
        c0, may_stay = group * g.group_channels, g.stays and g.x_channel == 1
        rd = block.d * g.stride[0] - g.padding[0]
        rh = block.h * g.stride[1] - g.padding[1]
        r0, r1 = block.first, block.first + (block.rows - 1) * g.stride[2]
        d0, d1 = taps_inside(rd, rd, g.dilation[0], g.K[0], g.L[0])
        h0, h1 = taps_inside(rh, rh, g.dilation[1], g.K[1], g.L[1])
        k0, k1 = taps_inside(r0, r1, g.dilation[2], g.K[2], g.L[2])
        taps = Taps(d0, d1, h0, h1, k0, k1)
        base = g.x_offset + block.n * g.x_image + rd * g.x_step[0] + rh * g.x_step[1]
        inside = r0 + taps.k0 * g.dilation[2] >= 0 and r1 + (taps.k1 - 1) * g.dilation[2] < g.L[2]
        if may_stay and inside and not CONVERTS:
            first = base + r0 * g.x_step[2] + c0 * g.x_channel
            step_d, step_h = g.dilation[0] * g.x_step[0], g.dilation[1] * g.x_step[1]
            row, step_w = g.stride[2] * g.x_step[2], g.dilation[2] * g.x_step[2]
            return Window(True, first, row, step_d, step_h, step_w, taps)
        span = r1 - r0 + 1
        tap_rows = min(g.dilation[2], span)
        step_w = tap_rows * g.width
        step_h = span * g.width + (taps.k1 - taps.k0 - 1) * step_w
        step_d = (taps.h1 - taps.h0) * step_h
        call_strips(g.strips, data, base, r0, span, tap_rows, taps, c0)
        first = -(taps.d0 * step_d + taps.h0 * step_h + taps.k0 * step_w)
        row = g.stride[2] * g.width
        return Window(False, first, row, step_d, step_h, step_w, taps)

    return open_window


@lru_cache
def gathers(elements, vec):
    """gather for inputs of this type."""
    copy_rows = row_copies(elements, vec)

    @kernel
    def gather(data, group, l0, l1, size):
        """scratch[m*size + tap*width + c] = channel c of what tap of position l0 + m meets, for
        positions counted over N, D, H and W."""
        g = data.geometry[0]
        taps = g.K[2] if g.dilation[2] == 1 else 1  # that are neighbouring rows
        for m in range(l1 - l0):
            w, rest = (l0 + m) % g.out[2], (l0 + m) // g.out[2]
            h, rest = rest % g.out[1], rest // g.out[1]
            d, n = rest % g.out[0], rest // g.out[0]
            at, first = m * size, w * g.stride[2] - g.padding[2]
            for kd in range(g.K[0]):
                rd = d * g.stride[0] - g.padding[0] + kd * g.dilation[0]
                for kh in range(g.K[1]):
                    rh = h * g.stride[1] - g.padding[1] + kh * g.dilation[1]
                    base = g.x_offset + n * g.x_image + rd * g.x_step[0] + rh * g.x_step[1]
                    outside = not (0 <= rd < g.L[0] and 0 <= rh < g.L[1])
                    for k in range(0, g.K[2], taps):
                        r = g.L[2] if outside else first + k * g.dilation[2]
                        copy_rows(data, base, r, taps, group * g.group_channels, at)
                        at += taps * g.width
        for i in range((l1 - l0) * size, g.MR * size):  # rows that fill up the tile
            data.scratch[i] = 0

    return gather


@lru_cache
def inputs(elements):
    """input_of for inputs of this type."""
    CONVERTS = elements.converts

    @kernel(inline="always")
    def input_of(data, window):
        """The array that `window` is read from."""
        if CONVERTS:  # x is of another type
            source = data.scratch
        else:
            source = data.x if window.in_place else data.scratch
        return source

    return input_of


@kernel
def list_runs(table, g, w):
    """The Runs of all taps that meet the input, relative to `first` of the window."""
    k0, k1 = w.taps.k0, w.taps.k1
    stepped = g.width != g.C  # depthwise, where a run may have one element of each tap
    merged = stepped or w.step_w == g.C
    last = min(k1, k0 + 1) if merged else k1
    r = 0
    for kd in range(w.taps.d0, w.taps.d1):
        for kh in range(w.taps.h0, w.taps.h1):
            start = kd * w.step_d + kh * w.step_h
            tap = (kd * g.K[1] + kh) * g.K[2]
            for k in range(k0, last):
                table[2 * r] = start + k * w.step_w
                table[2 * r + 1] = (tap + k) * g.C
                r += 1
    return Runs(table, r, (k1 - k0) * g.C if merged else g.C, w.step_w if stepped else 1)


def strip_elements(g, positions):
    """Elements of scratch that the strips of a block of `positions` may need."""
    K, L = g["K"][0].tolist(), g["L"][0].tolist()
    stride, dilation = int(g["stride"][0, 2]), int(g["dilation"][0, 2])
    span = (positions - 1) * stride + 1
    rows = span + (K[2] - 1) * min(dilation, span)
    rows = min(rows, L[2] + 2 * span)  # taps that only meet padding are left out
    return min(K[0], L[0]) * min(K[1], L[1]) * rows * int(g["width"][0])
