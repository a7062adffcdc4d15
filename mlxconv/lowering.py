"""Problems and arrays as kernels see them: real, of flat memory, with as few axes as will do."""

import math
from typing import TYPE_CHECKING

import numpy as np

from mlxconv.arrays import REAL_OF, Memory, dtype_named, memory_of
from mlxconv.kernels.elements import converted
from mlxconv.kernels.layouts import copy_of, set_filter_layout, set_input_layout
from mlxconv.kernels.schedule import Schedule

if TYPE_CHECKING:
    from mlxconv.problem import Problem


# positions; a batch of longer ones takes as long, and one with gaps would be copied
SHORT_LINE = 128


def as_lines(p: "Problem") -> "Problem":
    """`p` with the axes that no window reaches along as one, which its lines run along: a filter of
    one tap meets images of 7 x 7 as a line of 49, of which fewer tiles are cut short, and a batch
    of them as one line."""
    trivial = [
        sizes == (1, 1, 0, 0, 1)
        for sizes in zip(p.K, p.stride, p.padding_lo, p.padding_hi, p.input_dilation, strict=True)
    ]
    rank, last = len(p.L), 0
    while last < rank and trivial[rank - 1 - last]:
        last += 1
    if last == 0 or (rank == 1 and (p.N == 1 or p.L[0] > SHORT_LINE)):
        return p
    keep, length = rank - last, math.prod(p.L[rank - last :])
    ones = p._replace(
        L=(*p.L[:keep], length),
        K=(*p.K[:keep], 1),
        stride=(*p.stride[:keep], 1),
        padding_lo=(*p.padding_lo[:keep], 0),
        padding_hi=(*p.padding_hi[:keep], 0),
        kernel_dilation=(*p.kernel_dilation[:keep], 1),
        input_dilation=(*p.input_dilation[:keep], 1),
    )
    return ones if keep else ones._replace(N=1, L=(p.N * length,))


def as_real(p: "Problem") -> "Problem":
    """A complex convolution as a real one: re and im of each channel and filter side by side."""
    if p.dtype not in REAL_OF:
        return p
    return p._replace(
        C=p.C * 2 if p.input_dtype in REAL_OF else p.C,
        O=p.O * 2,
        dtype=REAL_OF[p.dtype],
        input_dtype=REAL_OF.get(p.input_dtype, p.input_dtype),
    )


def real_filters(w: np.ndarray, p: "Problem") -> np.ndarray:
    """The filters of `p` as a flat array of the result's real type, half types as bits.

    They are flipped if asked, and of a complex convolution each is two:

        complex input    re = w_re * x_re - w_im * x_im,  im = w_im * x_re + w_re * x_im
        real input       re = w_re * x,                   im = w_im * x

    Filters are small; this is NumPy's work, not a kernel's.
    """
    dtype = dtype_named(REAL_OF.get(p.dtype, p.dtype))
    if p.flip:
        w = w[(slice(None), *(slice(None, None, -1),) * len(p.K))]
    if p.dtype in REAL_OF:
        re, im = w.real.astype(dtype), w.imag.astype(dtype)
        pairs = [re, im]
        if p.input_dtype in REAL_OF:
            pairs = [np.stack([re, -im], -1), np.stack([im, re], -1)]
        w = np.stack(pairs, axis=1)
    return memory_of(converted(w, dtype)).flat


def laid_out(
    schedule: Schedule, layout: Memory | None, filters: Memory | None = None, leading: int = 0
) -> np.ndarray:
    """The geometry of the schedule for an input and filters that lie as these say, those perhaps
    with an axis of so many groups or banks before all others."""
    geometry = given = schedule.compile()
    if layout is not None and layout.strides is not None:
        geometry = copy_of(given)
        set_input_layout(geometry, layout.offset, layout.strides)
    if filters is not None and filters.strides is not None:
        geometry = copy_of(given) if geometry is given else geometry
        set_filter_layout(geometry, filters.offset, filters.strides, leading)
    return geometry
