"""Plan: how one problem is computed, and the run of it on arrays."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxconv import recycling, threads
from mlxconv.arrays import REAL_OF, Memory, dtype_named, lying, memory_of, real_view
from mlxconv.forks import cached_property
from mlxconv.kernels.entry import addresses
from mlxconv.kernels.reference import mending
from mlxconv.kernels.schedule import Schedule
from mlxconv.lowering import as_lines, as_real, laid_out, real_filters

if TYPE_CHECKING:
    from mlxconv.problem import Problem


PLAIN = 0x101  # numpy.ndarray.flags: C-contiguous and aligned
FILTERS_BYTES = 1 << 20  # to copy fewer takes less than to say where they lie, 50 us
TURNED_BYTES = 1 << 16  # the same where filters are neighbours, and channels are not


class Planned:
    """What every plan knows: its problem, and the shape, type and memory of the result."""

    packs = False  # filters, from wherever they lie

    def __init__(self, problem: "Problem", over_groups: bool = False) -> None:
        self.problem = problem  # as asked
        self.over_groups = over_groups  # whether what is read is soon followed by a write
        self.output_shape = problem.output_shape
        self.dtype = dtype_named(problem.dtype)
        self.output_elements = math.prod(self.output_shape)
        places = addresses if over_groups else None
        self.new_output = recycling.maker(self.output_shape, self.dtype, places)
        # of arrays that kernels read as they are; none if they see the problem otherwise
        self.read_dtype = None if problem.dtype in REAL_OF else self.dtype

    def output(self, out: np.ndarray | None, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """`out` if the result of `x` and `w` may be written there, or new memory."""
        if out is None:
            return self.new_output(x)
        return checked_output(out, self.output_shape, self.dtype, x, w)

    def reads(self, w: np.ndarray) -> bool:
        """Whether filters that lie in any order are read from there."""
        return False

    def can_read(self, w: np.ndarray) -> bool:
        """Whether they could be, if they were many."""
        return False

    def bound_to(self, filters: np.ndarray, base: np.ndarray) -> Callable[..., int] | None:
        """What computes the problem from (x, w, y, panels, workers), arrays that `are_usual`, and
        tells whether NaN may have to be mended, if one launch does: of filters that lie in w as
        these in `base`."""
        return None

    def are_usual(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether kernels read both arrays as they are: of this very type, byte order and all."""
        same = a.dtype is b.dtype is self.read_dtype
        return same and a.flags.num & b.flags.num & PLAIN == PLAIN

    def weave(
        self,
        schedule: Schedule | None,
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        workers: int | None,
        packed: "Packed | None",
    ) -> bool:
        """Compute by `schedule`, which says where in the memory of `y` the outputs go, if there is
        one; whether `run` is still to be called, and its result copied there."""
        return True


NOT_PACKED = (None, False)  # filters, and nothing known of them


class Plan(Planned):
    """A problem, the variant that computes it, and its schedule."""

    def __init__(
        self,
        problem: "Problem",
        variant: str,
        schedule: Schedule,
        refused: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(problem, bool(schedule.geometry["panel_channels"][0]))
        self.variant = variant
        self.schedule = schedule
        self.refused = refused  # the earlier rows of the table, and why not they
        self.packs = schedule.panels > 0
        self.is_empty = not (self.output_elements and math.prod(problem.weight_shape))
        self._merges = as_lines(problem) != problem  # axes, which then must lie without gaps
        self.read_dtype = None if problem.flip else self.read_dtype

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
        y = self.new_output(x) if out is None else self.output(out, x, w)
        found: tuple[np.ndarray | None, bool] | None = NOT_PACKED
        if packed is not None and self.schedule.panels:
            found = packed.panels.get(self.schedule.layout)
        if found and self.are_usual(x, w) and (at_once := self._bound):
            panels, suspect = found
            if (at_once(x, w, y, panels, workers) or suspect) and self.schedule.suspects:
                self._mend((x, None, w.reshape(-1)), y, workers)
            return y
        if self.is_empty:
            y[...] = 0
            return y
        operands = self._operands(x, w, packed)
        if self._launch(self.schedule, operands, y, workers, packed):
            self._mend(operands, y, workers)
        return y

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        return None if self.is_empty else threads.bound(self.schedule, self.schedule.compile())

    def bound_to(self, filters: np.ndarray, base: np.ndarray) -> Callable[..., int] | None:
        if self.is_empty or not self.can_read(filters):
            return None
        return threads.bound(self.schedule, self.reading(self.schedule, filters, base))

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
        if self.are_usual(x, x):
            flat, layout = x, None
        else:
            layout = memory_of(real_view(np.ascontiguousarray(x) if self._merges else x))
            flat = layout.flat
        if self.are_usual(w, w):
            return flat, layout, w.reshape(-1)
        if packed is None and self.reads(w):
            return flat, layout, w
        filters = None if packed is None else packed.filters.get(self.problem.dtype)
        if filters is None:
            filters = self._filters(w)
            if packed is not None:
                packed.filters[self.problem.dtype] = filters
        return flat, layout, filters

    def _filters(self, w: np.ndarray) -> np.ndarray:
        """Those that lie in any order, as flat memory of the result's real type."""
        if w.dtype is self.read_dtype and w.flags.aligned:
            return np.ascontiguousarray(w).reshape(-1)
        return real_filters(w, self.problem)

    def reads(self, w: np.ndarray) -> bool:
        """Whether the filters are packed from where they lie, without a copy before."""
        least = FILTERS_BYTES if w.strides[-1] == w.itemsize else TURNED_BYTES
        return w.nbytes >= least and self.can_read(w)

    def can_read(self, w: np.ndarray) -> bool:
        """Also filters of (groups, O, ..., C), where groups have panels of their own."""
        first = w.ndim - len(self.output_shape)
        return (
            w.dtype is self.read_dtype
            and (not self._merges or max(self.problem.K) == 1)  # axes of one tap may merge
            and self.schedule.panels > 0
            and (w.shape[-1] == 1 or w.itemsize in (w.strides[-1], w.strides[first]))
            and w.flags.aligned
            and first <= 1  # not of groups and banks
            and (first == 0 or self.problem.groups in (1, self.schedule.geometry["groups"][0]))
        )

    def reading(self, schedule: Schedule, w: np.ndarray, base: np.ndarray) -> np.ndarray:
        """The geometry of `schedule` for filters that lie in memory as `w` in `base`."""
        return laid_out(schedule, None, lying(w, base), self._leading(w))

    def _leading(self, w: np.ndarray) -> int:
        """The groups or banks that the filters have an axis of, before all others."""
        return w.shape[0] if w.ndim == len(self.output_shape) + 1 else 0

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
        flat = w if filters is None else filters.flat
        geometry = laid_out(schedule, layout, filters, self._leading(w))
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
