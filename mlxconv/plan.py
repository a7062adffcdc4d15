"""Plan: how one problem is computed, and the run of it on arrays."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxconv import recycling, threads
from mlxconv.arrays import REAL_OF, Memory, dtype_named, memory_of, real_view
from mlxconv.forks import cached_property
from mlxconv.kernels.elements import widened
from mlxconv.kernels.geometry import copy_of, set_filter_layout, set_input_layout
from mlxconv.kernels.reference import mending
from mlxconv.kernels.schedule import Schedule

if TYPE_CHECKING:
    from mlxconv.problem import Problem


FILTERS_BYTES = 1 << 20  # to copy fewer takes less than to say where they lie, 50 us
TURNED_BYTES = 1 << 16  # the same where filters are neighbours, and channels are not


class Planned:
    """What every plan knows: its problem, and the shape, type and memory of the result."""

    def __init__(self, problem: "Problem") -> None:
        self.problem = problem  # as asked
        self.output_shape = problem.output_shape
        self.dtype = dtype_named(problem.dtype)
        self.output_elements = math.prod(self.output_shape)
        self.is_small = self.output_elements * self.dtype.itemsize < recycling.LEAST_BYTES

    def output(self, out: np.ndarray | None, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """`out` if the result of `x` and `w` may be written there, or new memory."""
        if out is None:
            return self.new_output()
        return checked_output(out, self.output_shape, self.dtype, x, w)

    def new_output(self) -> np.ndarray:
        """Memory for the result; all but the smallest start at a cache line, since vectors that
        straddle two are written at half the speed."""
        if self.is_small:
            return np.empty(self.output_shape, self.dtype)
        return recycling.array(self.output_shape, self.dtype)

    def reads(self, w: np.ndarray) -> bool:
        """Whether filters that lie in any order are read from there."""
        return False

    def weave(
        self,
        schedule: Schedule | None,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        workers: int | None,
        packed: "Packed | None",
    ) -> bool:
        """Compute by `schedule`, which says where in flat memory `y` the outputs go, if there is
        one; whether `run` is still to be called, and its result copied there."""
        return True


class Plan(Planned):
    """A problem, the variant that computes it, and its schedule."""

    def __init__(
        self,
        problem: "Problem",
        variant: str,
        schedule: Schedule,
        refused: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(problem)
        self.variant = variant
        self.schedule = schedule
        self.refused = refused  # the earlier rows of the table, and why not they
        self.is_empty = not (self.output_elements and math.prod(problem.weight_shape))
        self._merges = as_lines(problem) != problem  # axes, which then must lie without gaps
        self.is_real = problem.dtype in ("float32", "float64") and not problem.flip

    @cached_property
    def real(self) -> "Problem":
        """The problem as computed: complex numbers are pairs of channels."""
        return as_real(self.problem)

    @cached_property
    def mending(self) -> Schedule:
        """What computes those outputs anew that a NaN was made of by a zero not of the data."""
        return mending(self.real, int(self.schedule.geometry["phases"][0]))

    def run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        workers: int | None,
        out: np.ndarray | None = None,
        packed: "Packed | None" = None,
    ) -> np.ndarray:
        """The convolution of `x` with `w`, on at most `workers` threads, in `out` if it is given.

        What is made of the filters is kept in `packed`, and found there the next time."""
        y = self.output(out, x, w)
        packs = packed is not None and self.schedule.panels > 0
        found = packed.panels.get(self.schedule.layout) if packed is not None and packs else None
        usual = workers is None and self._are_plain(x, w) and (found is not None or not packs)
        if usual and (at_once := self._bound):
            x, w, flat = x.ravel(), w.ravel(), y.ravel()
            panels, suspect = found or (None, False)
            if (at_once(x, w, flat, panels) or suspect) and self.schedule.suspects:
                self._mend((x, None, w), flat, workers)
            return y
        if self.is_empty:
            y[...] = 0
            return y
        flat = y.ravel() if self.is_real else elements_of(y)
        operands = self._operands(x, w, packed)
        if self._launch(self.schedule, operands, flat, workers, packed):
            self._mend(operands, flat, workers)
        return y

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        return None if self.is_empty else threads.bound(self.schedule)

    def _are_plain(self, x: np.ndarray, w: np.ndarray) -> bool:
        """Whether kernels can read both arrays as they are."""
        return self._is_plain(x) and self._is_plain(w)

    def _is_plain(self, a: np.ndarray) -> bool:
        if not self.is_real or a.dtype is not self.dtype:  # byte order and all
            return False
        flags = a.flags
        return flags.c_contiguous and flags.aligned

    def weave(
        self,
        schedule: Schedule | None,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        workers: int | None,
        packed: "Packed | None",
    ) -> bool:
        """See `Planned`; `run` is to mend NaN, too."""
        if schedule is None:
            return True
        return self._launch(schedule, self._operands(x, w, packed), y, workers, packed)

    def _operands(self, x: np.ndarray, w: np.ndarray, packed: "Packed | None") -> "_Operands":
        """The input and the filters as kernels see them."""
        if self._is_plain(x):
            flat, layout = x.ravel(), None
        else:
            layout = memory_of(real_view(np.ascontiguousarray(x) if self._merges else x))
            flat = layout.flat
        if self._is_plain(w):
            return flat, layout, w.ravel()
        if packed is None and self.reads(w):
            return flat, layout, w
        filters = None if packed is None else packed.filters.get(self.schedule.elements.dtype)
        if filters is None:
            filters = self._filters(w)
            if packed is not None:
                packed.filters[self.schedule.elements.dtype] = filters
        return flat, layout, filters

    def _filters(self, w: np.ndarray) -> np.ndarray:
        """Those that lie in any order, as flat memory of the arithmetic's type."""
        if self.is_real and w.dtype is self.dtype and w.flags.aligned:
            return np.ascontiguousarray(w).ravel()
        return real_filters(w, self.problem, self.schedule.elements.dtype)

    def reads(self, w: np.ndarray) -> bool:
        """Whether the filters are packed from where they lie, without a copy before.  Those of
        (groups, O, ..., C) are, where groups have panels of their own."""
        first = w.ndim - len(self.output_shape)
        return (
            self.is_real
            and (not self._merges or max(self.problem.K) == 1)  # axes of one tap may merge
            and self.schedule.panels > 0
            and w.nbytes >= (FILTERS_BYTES if w.strides[-1] == w.itemsize else TURNED_BYTES)
            and w.dtype == self.schedule.elements.dtype
            and w.itemsize in (w.strides[-1], w.strides[first])
            and w.flags.aligned
            and (first == 0 or self.problem.groups in (1, self.schedule.geometry["groups"][0]))
        )

    def _launch(
        self,
        schedule: Schedule,
        operands: "_Operands",
        y: np.ndarray,
        workers: int | None,
        packed: "Packed | None",
    ) -> bool:
        """Run the schedule on flat memory; whether a zero that is not of the data may have met an
        infinity.

        Filters that are not flat yet are packed from where they lie."""
        (x, layout, w), panels, suspect = operands, None, False
        filters = None if w.ndim == 1 else memory_of(w)
        leading = w.shape[0] if w.ndim == len(self.output_shape) + 1 else 0
        flat = w if filters is None else filters.flat
        geometry = laid_out(schedule, layout, filters, leading)
        if packed is not None and schedule.panels:
            found = packed.panels.get(schedule.layout)
            if found is None:
                found = packed.panels[schedule.layout] = threads.pack(schedule, geometry, flat)
            panels, suspect = found
        suspect |= threads.run(schedule, geometry, (x, flat, y), workers, panels)
        return suspect and schedule.suspects

    def _mend(self, operands: "_Operands", y: np.ndarray, workers: int | None) -> None:
        """Compute anew what is NaN for such a reason."""
        x, layout, w = operands
        flat = w if w.ndim == 1 else self._filters(w)
        threads.run(self.mending, laid_out(self.mending, layout), (x, flat, y), workers)


_Operands = tuple[np.ndarray, Memory | None, np.ndarray]  # input, how it lies, filters


def checked_output(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], x: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """`out`, if the result may be written there."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out takes a NumPy array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out has shape {out.shape} and type {out.dtype}, but the result has shape "
            f"{shape} and type {dtype}"
        )
    if not out.flags.carray or not out.dtype.isnative:
        raise ValueError(
            "out must be writeable, aligned and C-contiguous; got an array with strides "
            f"{out.strides}{'' if out.flags.writeable else ' that is read-only'}"
        )
    for name, array in (("input", x), ("weight", w)):
        if np.may_share_memory(out, array):
            raise ValueError(f"out overlaps with {name} in memory; pass another array")
    return out


class Packed:
    """What calls with the same filters share: the filters as kernels see them, and packed."""

    def __init__(self) -> None:
        self.filters: dict[str, np.ndarray] = {}  # by the type of the arithmetic
        self.panels: dict[Any, tuple[np.ndarray, bool]] = {}  # by the layout; whether suspect
        self._parts: dict[int, Packed] = {}

    def part(self, phase: int) -> "Packed":
        """The same for some of the taps."""
        return self._parts.setdefault(phase, Packed())


def as_lines(p: "Problem") -> "Problem":
    """`p` with the axes that no window reaches along as one, which its lines run along: a filter of
    one tap meets images of 7 x 7 as a line of 49, of which fewer tiles are cut short."""
    trivial = [
        sizes == (1, 1, 0, 0, 1)
        for sizes in zip(p.K, p.stride, p.padding_lo, p.padding_hi, p.input_dilation, strict=True)
    ]
    rank, last = len(p.L), 0
    while last < rank and trivial[rank - 1 - last]:
        last += 1
    if rank == 1 or last == 0:
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
    return memory_of(np.ascontiguousarray(widened(np.ascontiguousarray(w)), dtype)).flat


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


def elements_of(out: np.ndarray) -> np.ndarray:
    """The output as kernels write it: flat; half types as bits, complex ones as pairs."""
    flat = out.reshape(-1)
    if out.dtype.itemsize == 2:
        return flat.view(np.uint16)
    return flat.view(REAL_OF[out.dtype.name]) if out.dtype.kind == "c" else flat
