"""Plan: how one problem is computed, and the run of it on arrays."""

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from mlxconv import threads
from mlxconv.arrays import REAL_OF, aligned_empty, memory_of, real_view
from mlxconv.kernels.geometry import set_input_layout
from mlxconv.kernels.schedule import Schedule

if TYPE_CHECKING:
    from mlxconv.problem import Problem


class Plan(NamedTuple):
    """A problem, the variant that computes it, and its schedule."""

    problem: "Problem"  # as asked
    real: "Problem"  # as computed: complex numbers are pairs of channels
    variant: str
    schedule: Schedule
    refused: tuple[tuple[str, str], ...]  # the earlier rows of the table, and why not they
    output_shape: tuple[int, ...]  # this and the type are derived once: every call needs them
    dtype: np.dtype


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


def real_filters(w: np.ndarray, p: "Problem", dtype: str) -> np.ndarray:
    """The filters of `p` as a flat array of the arithmetic's type.

    They are flipped if asked, and of a complex convolution each is two:

        complex input    re = w_re * x_re - w_im * x_im,  im = w_im * x_re + w_re * x_im
        real input       re = w_re * x,                   im = w_im * x

    Filters are small; this is NumPy's work, not a kernel's.
    """
    if p.flip:
        w = w[(slice(None), *(slice(None, None, -1),) * len(p.K))]
    if p.dtype in REAL_OF:
        re, im = w.real.astype(dtype), w.imag.astype(dtype)
        pairs = [re, im]
        if p.input_dtype in REAL_OF:
            pairs = [np.stack([re, -im], -1), np.stack([im, re], -1)]
        w = np.stack(pairs, axis=1)
    return memory_of(np.ascontiguousarray(w, dtype)).flat


def run(plan: Plan, x: np.ndarray, w: np.ndarray, workers: int | None) -> np.ndarray:
    """The convolution of `x` with `w`, on at most `workers` threads, as a new array."""
    schedule, p = plan.schedule, plan.problem
    out = np.empty(plan.output_shape, plan.dtype)
    if out.size == 0 or w.size == 0:
        out[...] = 0
        return out
    schedule.compile()  # before its geometry, which then holds addresses, is copied
    x_memory = memory_of(real_view(x))
    geometry = schedule.geometry
    if x_memory.strides is not None:
        geometry = geometry.copy()
        set_input_layout(geometry, x_memory.offset, x_memory.strides)
    if numba.config.DISABLE_JIT:
        geometry = geometry.view(np.recarray)
    arrays = (
        geometry,
        x_memory.flat,
        real_filters(w, p, schedule.elements.dtype),
        aligned_empty(schedule.panels, schedule.elements.dtype),
        np.empty(schedule.units, np.uint8),
        _as_elements(out),
    )
    threads.run(schedule, arrays, workers or threads.default_threads())
    return out


def _as_elements(out: np.ndarray) -> np.ndarray:
    """The output as kernels write it: flat; half types as bits, complex ones as pairs."""
    flat = out.reshape(-1)
    if out.dtype.itemsize == 2:
        return flat.view(np.uint16)
    return flat.view(REAL_OF[out.dtype.name]) if out.dtype.kind == "c" else flat
