"""Plan: how one problem is computed, and the run of it on arrays."""

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlxconv import threads
from mlxconv.arrays import REAL_OF, Memory, aligned_empty, dtype_named, memory_of, real_view
from mlxconv.kernels.geometry import set_input_layout
from mlxconv.kernels.reference import mending
from mlxconv.kernels.schedule import Schedule

if TYPE_CHECKING:
    from mlxconv.problem import Problem


SMALL_BYTES = 1 << 16  # of an output: below, to align it takes longer than it saves


class Plan:
    """A problem, the variant that computes it, and its schedule."""

    def __init__(
        self,
        problem: "Problem",
        variant: str,
        schedule: Schedule,
        refused: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.problem = problem  # as asked
        self.variant = variant
        self.schedule = schedule
        self.refused = refused  # the earlier rows of the table, and why not they
        self.output_shape = problem.output_shape
        self.dtype = dtype_named(problem.dtype)
        self.is_empty = not (math.prod(problem.output_shape) and math.prod(problem.weight_shape))
        self.is_small = math.prod(self.output_shape) * self.dtype.itemsize < SMALL_BYTES
        self.is_real = problem.dtype in ("float32", "float64") and not problem.flip

    @cached_property
    def real(self) -> "Problem":
        """The problem as computed: complex numbers are pairs of channels."""
        return as_real(self.problem)

    @cached_property
    def mending(self) -> Schedule:
        """What computes those outputs anew that a NaN was made of by a zero not of the data."""
        return mending(self.real, int(self.schedule.geometry["phases"][0]))

    def run(self, x: np.ndarray, w: np.ndarray, workers: int | None) -> np.ndarray:
        """The convolution of `x` with `w`, on at most `workers` threads, as a new array."""
        out = self._new_output()
        if self.is_empty:
            out[...] = 0
            return out
        same = self.is_real and x.dtype is w.dtype is self.dtype  # byte order and all
        if same and x.flags.carray and w.flags.carray:
            self._launch(x.ravel(), None, w.ravel(), out.ravel(), workers)
            return out
        memory = memory_of(real_view(x))
        filters = real_filters(w, self.problem, self.schedule.elements.dtype)
        self._launch(memory.flat, memory, filters, _as_elements(out), workers)
        return out

    def _new_output(self) -> np.ndarray:
        """Memory for the result; that of a large one starts at a cache line, since vectors that
        straddle two are written at half the speed."""
        if self.is_small:
            return np.empty(self.output_shape, self.dtype)
        size = math.prod(self.output_shape) * self.dtype.itemsize
        return aligned_empty(size, "uint8").view(self.dtype).reshape(self.output_shape)

    def _launch(
        self,
        x: np.ndarray,
        layout: Memory | None,
        w: np.ndarray,
        y: np.ndarray,
        workers: int | None,
    ) -> None:
        """Run the schedule on flat memory, then mend what met a zero that is not of the data."""
        geometry = _laid_out(self.schedule, layout)
        if threads.run(self.schedule, geometry, (x, w, y), workers) and self.schedule.suspects:
            threads.run(self.mending, _laid_out(self.mending, layout), (x, w, y), workers)


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


def _laid_out(schedule: Schedule, layout: Memory | None) -> np.ndarray:
    """The geometry of the schedule for an input that lies as `layout` says."""
    geometry = schedule.compile()
    if layout is not None and layout.strides is not None:
        geometry = geometry.copy()
        set_input_layout(geometry, layout.offset, layout.strides)
    return geometry


def _as_elements(out: np.ndarray) -> np.ndarray:
    """The output as kernels write it: flat; half types as bits, complex ones as pairs."""
    flat = out.reshape(-1)
    if out.dtype.itemsize == 2:
        return flat.view(np.uint16)
    return flat.view(REAL_OF[out.dtype.name]) if out.dtype.kind == "c" else flat
