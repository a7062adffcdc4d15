"""The definition: plain loops over taps and channels.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, (l*stride - padding + k*dilation)
            / input_dilation, c] * w[o, k, c], over those taps whose row is in the input, per group.
For         every problem: this is what the other variants are tested against, and what computes
            those that none of them takes.
Order       taps in row-major order, channels in order; product and sum are rounded separately
            (but see `range_kernel`).
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mlxconv.kernels.elements import Elements
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.schedule import Schedule, Step
from mlxconv.simd.static import kernel

if TYPE_CHECKING:
    from mlxconv.problem import Problem


@kernel
def row_met(l, k, g, axis):
    """The input row that tap k of output position l meets along `axis`; -1 if padding."""
    r = l * g.stride[axis] - g.padding[axis] + k * g.dilation[axis]
    if r < 0 or r % g.input_dilation[axis] or r // g.input_dilation[axis] >= g.L[axis]:
        return -1
    return r // g.input_dilation[axis]


@kernel
def meets_padding(d, h, l, g):
    """Whether some tap of this output position meets padding."""
    for axis in range(3):
        position = d if axis == 0 else h if axis == 1 else l
        first = position * g.stride[axis] - g.padding[axis]
        last = first + (g.K[axis] - 1) * g.dilation[axis]
        if first < 0 or last > g.input_dilation[axis] * (g.L[axis] - 1):
            return True
    return False


@lru_cache
def range_kernel(elements, mends=False):
    """The kernel over output positions, for these types of input and output.

    One that `mends` touches NaN only: of outputs that met padding, and with phases of all.  It
    multiplies and adds in one instruction, as tiles do, so that a mended output has the bits of one
    that met no such zero."""
    widen, narrow, Sum = elements.widen, elements.narrow, np.dtype(elements.dtype).type
    widen_output, MENDS = elements.widen_output, int(mends)

    @kernel(fastmath={"contract"} if mends else set())
    def dot(data, g, image, d, h, l, o):
        """One output: the sum over all taps and channels of its group."""
        total = Sum(0)
        c0 = image + o // g.O * g.C * g.x_channel
        weight = o * g.K[0] * g.K[1] * g.K[2] * g.C
        for kd in range(g.K[0]):
            rd = row_met(d, kd, g, 0)
            for kh in range(g.K[1]):
                rh = row_met(h, kh, g, 1)
                for k in range(g.K[2]):
                    r = row_met(l, k, g, 2)
                    if rd >= 0 and rh >= 0 and r >= 0:
                        row = c0 + rd * g.x_step[0] + rh * g.x_step[1] + r * g.x_step[2]
                        for c in range(g.C):
                            x = Sum(widen(data.x[row + c * g.x_channel]))
                            total += x * Sum(widen_output(data.w[weight + c]))
                    weight += g.C
        return total

    @kernel
    def reference(data, lo, hi):
        """All outputs of the positions of jobs [lo, hi), counted over N, D, H and W."""
        g = data.geometry[0]
        for job in range(lo, hi):
            l, rest = job % g.out[2], job // g.out[2]
            h, rest = rest % g.out[1], rest // g.out[1]
            d, n = rest % g.out[0], rest // g.out[0]
            image = g.x_offset + n * g.x_image
            filters = g.O * g.groups
            if MENDS:
                filters = filters if g.phases > 1 or meets_padding(d, h, l, g) else 0
            for o in range(filters):
                at = job * g.y_step[2] + o
                if MENDS:
                    before = widen_output(data.y[at])
                    if before != before:
                        data.y[at] = narrow(dot(data, g, image, d, h, l, o))
                else:
                    data.y[at] = narrow(dot(data, g, image, d, h, l, o))

    return reference


@lru_cache
def sums_mending_kernel(elements):
    """The kernel over filters that computes NaN anew, from what lies inside the input alone."""
    Sum = np.dtype(elements.dtype).type

    @kernel(fastmath={"contract"})
    def one_sum(data, g, o, kd, kh, k, c):
        """Of dw[o, k, c]."""
        total, position = Sum(0), 0
        for n in range(g.N):
            for d in range(g.out[0]):
                rd = row_met(d, kd, g, 0)
                for h in range(g.out[1]):
                    rh = row_met(h, kh, g, 1)
                    for l in range(g.out[2]):
                        r = row_met(l, k, g, 2)
                        if rd >= 0 and rh >= 0 and r >= 0:
                            row = rd * g.x_step[0] + rh * g.x_step[1] + r * g.x_step[2]
                            x = data.x[n * g.x_image + row + o // g.O * g.C + c]
                            total += x * data.w[position * g.y_step[2] + o]
                        position += 1
        return total

    @kernel
    def mend(data, lo, hi):
        g = data.geometry[0]
        columns = g.K[0] * g.K[1] * g.K[2] * g.C
        for o in range(lo, hi):
            for i in range(columns):
                at = o * columns + i
                if data.y[at] != data.y[at]:
                    c, tap = i % g.C, i // g.C
                    k, rest = tap % g.K[2], tap // g.K[2]
                    data.y[at] = one_sum(data, g, o, rest // g.K[1], rest % g.K[1], k, c)

    return mend


def refuses(p: "Problem") -> str:
    """Nothing: the last row of the table computes any problem."""
    return ""


def schedule(p: "Problem") -> Schedule:
    """One job per output position."""
    return _schedule(p, geometry_of(p), mends=False)


def mending(p: "Problem", phases: int) -> Schedule:
    """What computes anew every NaN of another schedule's output that a zero of the padding may
    have made of an infinite weight, or, with `phases`, a zero weight of an infinite input."""
    g = geometry_of(p)
    g["phases"] = phases
    return _schedule(p, g, mends=True)


def _schedule(p: "Problem", g: np.ndarray, mends: bool) -> Schedule:
    elements = Elements(p.input_dtype, p.dtype)
    jobs = p.N * math.prod(p.output_L)
    slow = 8  # times the time that a FLOP takes elsewhere
    return Schedule(elements, g, (Step(range_kernel(elements, mends), jobs, slow * p.flop),))


def sums_mending(p: "Problem") -> Schedule:
    """What computes anew every NaN in the gradient by the filters that a zero around the input, or
    between its elements, may have made of an infinite one by the outputs."""
    elements = Elements(p.dtype, p.dtype)
    return Schedule(
        elements, geometry_of(p), (Step(sums_mending_kernel(elements), p.O, 8 * p.flop),)
    )
