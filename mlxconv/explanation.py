"""Why a problem is computed the way it is: the row of the table, its tile, runs, split, bound."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlxconv import roofline, timing
from mlxconv.dispatch import AnyPlan, plan
from mlxconv.fft import FourierPlan
from mlxconv.kernels.dot_tiling import MOST_POSITIONS
from mlxconv.kernels.schedule import Schedule
from mlxconv.lowering import as_real
from mlxconv.parameters import Ints
from mlxconv.phases import PhasedPlan
from mlxconv.plan import Plan
from mlxconv.problem import Problem
from mlxconv.query import Query, query
from mlxconv.stream import resolve
from mlxconv.tables import number
from mlxconv.threads import default_threads, layer
from mlxconv.weight_gradient import WeightGradient

MEASURE_SECONDS = 0.5


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `str()` says it in words."""

    problem: Problem
    variant: str
    """The row of the table that computes the problem."""
    tile: str
    """Its register tile: output positions x vectors of filters, "6x2 f32x8"; empty without one."""
    runs: tuple[int, int]
    """The window of one output: contiguous pieces of the input, and elements in each."""
    jobs: int
    """Pieces of work that threads share."""
    split: str
    """What they are: blocks of a line of output positions, of a group, of panels of filters."""
    threads: int
    layer: str
    """Whose threads: numba's "omp" or "tbb", our "pool", "serial", or "numpy.fft"."""
    error: str
    """What an output may be off by."""
    refused: tuple[tuple[str, str], ...]
    """The rows tried before, and why each was refused."""
    flop: int
    """Real operations, two per multiply-add; a complex one is four of them."""
    bytes_moved: int
    """Input, weight and output, once each."""
    bound: roofline.Bound | None
    """The least time this machine can take; None as long as `machine()` has not been measured."""
    measured_us: float | None
    """The best of what `measure=True` measured."""
    what: str = ""
    """What is computed, if not the convolution."""

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flop / max(1, self.bytes_moved)

    @property
    def percent_of_bound(self) -> float | None:
        """100 is as fast as this machine can be."""
        if self.bound is None or not self.measured_us:
            return None
        return 100 * self.bound.us / self.measured_us

    def __str__(self) -> str:
        p = self.problem
        count, length = self.runs
        lines = [
            *([self.what] if self.what else []),
            f"{_shape(p.input_shape)} {p.input_dtype} with {p.O} filters of {_shape(p.K)} taps"
            f"{f', {p.groups} groups' if p.groups > 1 else ''}"
            f" -> {_shape(p.output_shape)} {p.dtype}, {p.flop / 1e9:.3g} GFLOP",
            f"  variant   {self.variant}",
            *([f"  tile      {self.tile}"] if self.tile else []),
            f"  window    {count} run{'s' * (count != 1)} of {length} elements",
            f"  work      {self.jobs} job{'s' * (self.jobs != 1)} ({self.split}) on"
            f" {f'up to {self.threads} threads' if self.threads > 1 else 'one thread'}"
            f" ({self.layer})",
            f"  error     {self.error}",
            *self._roofline(),
        ]
        lines += [f"  refused   {name}: {reason}" for name, reason in self.refused]
        if math.prod(p.output_L) < MOST_POSITIONS:
            lines.append(
                f"  rounding  may depend on the batch: with less than {MOST_POSITIONS} output "
                "positions in an image, the kernel does"
            )
        return "\n".join(lines)

    def _roofline(self) -> list[str]:
        """What the machine could do, and what it did."""
        lines = [
            f"  moves     {self.bytes_moved / 1e6:.3g} MB once each,"
            f" {self.intensity:.3g} FLOP per byte"
        ]
        if self.bound is not None:
            what = (
                "arithmetic"
                if self.bound.binds == "arithmetic"
                else f"moving it in {self.bound.binds}"
            )
            lines.append(f"  bound     {number(self.bound.us)} us, by {what}")
        if self.measured_us:
            lines.append(
                f"  measured  {number(self.measured_us)} us,"
                f" {number(self.flop / self.measured_us / 1e3)} GFLOP/s,"
                f" {self.percent_of_bound or 0:.0f} % of the bound"
            )
        return lines


def explain(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    input_dilation: Any = 1,
    flip: bool = False,
    transposed: bool = False,
    output_padding: Any = 0,
    dtype: Any = None,
    gradient: str | None = None,
    stream: Any = None,
    variant: str | None = None,
    measure: bool = False,
) -> Explanation:
    """Say which kernel a convolution takes, and why; nothing is compiled or computed.

    The bound, the least time this machine can take, is shown once `machine()` has been measured,
    in this process or an earlier one.

    Parameters
    ----------
    input, weight : array_like, or shape
        The arrays of a `conv1d` (of a `conv_general` with two or three spatial axes), or just
        their shapes as tuples of int.
    stride, padding, dilation, groups, stream, variant
        As in `conv1d`; `padding` also as in `conv_general`.
    input_dilation, flip
        As in `conv_general`.
    transposed, output_padding
        Whether it is a `conv_transpose1d`, `2d` or `3d`, and the padding of its output.
    dtype : dtype_like or (dtype_like, dtype_like), optional
        The type of shapes, float32 if not given; a pair is the input's and the weight's.
    gradient : str, optional
        Explain not the convolution but its gradient by the "input", which is a convolution of the
        cotangent, or by the "weight", whose `variant` is one of "outer_grouped" and "outer".
    measure : bool
        Run it too, for about half a second, on random numbers where only shapes are
        given, and say how close it comes to the bound.  Measures `machine()` if that is not known.

    Returns
    -------
    Explanation
        Print it, or read its attributes.

    Raises
    ------
    TypeError, ValueError
        As the convolution itself would.

    Examples
    --------
    >>> print(mlxconv.explain((1, 3000, 512), (512, 3, 512), stride=2, padding=1))  # doctest: +SKIP
    """
    q = (stride, padding, dilation, groups, input_dilation, flip)
    asked = query(input, weight, *q, dtype, transposed, output_padding, gradient)
    how = WeightGradient if gradient == "weight" else plan
    p, threads = how(asked.problem, variant), resolve(stream).threads or default_threads()
    known = roofline.machine() if measure else roofline.measured()
    call = asked.with_data().call(stream, variant) if measure else None
    seconds = min(timing.in_turns({"": call}, MEASURE_SECONDS)[""]) if call else None
    return _explanation(p, asked, threads, known, seconds)


def _explanation(
    p: AnyPlan | WeightGradient,
    asked: Query,
    threads: int,
    known: roofline.Machine | None,
    seconds: float | None,
) -> Explanation:
    seen: Problem
    if isinstance(p, WeightGradient):
        work, seen = _sums(p, threads), p.seen
    else:
        largest = p.largest if isinstance(p, PhasedPlan) else p
        seen = largest.real
        if isinstance(largest, FourierPlan):
            work = _transforms(largest)
        else:
            work = _tiles(largest, threads)
        if isinstance(p, PhasedPlan):
            work = work._replace(split=f"{work.split}; the largest of {len(p.parts)} parts")
    flop, moved, dtype = as_real(asked.problem).flop, asked.bytes_moved, asked.problem.dtype
    return Explanation(
        problem=asked.problem,
        variant=p.variant,
        runs=_runs(seen),
        **work._asdict(),
        refused=p.refused,
        flop=flop,
        bytes_moved=moved,
        bound=known.bound(flop, moved, dtype, threads) if known else None,
        measured_us=seconds * 1e6 if seconds is not None else None,
        what=asked.what,
    )


class _Work(NamedTuple):
    """The fields of Explanation that depend on what kind of variant it is."""

    tile: str
    jobs: int
    split: str
    threads: int
    layer: str
    error: str


def _tiles(p: Plan, threads: int) -> _Work:
    """Those of a kernel."""
    terms = math.prod(p.real.K) * p.real.C // p.real.groups
    return _scheduled(p.schedule, terms, p.real.dtype, threads)


def _sums(p: WeightGradient, threads: int) -> _Work:
    """Those of a gradient by the filters."""
    terms = p.seen.N * math.prod(p.seen.output_L)
    return _scheduled(p.sums.schedule, terms, p.dtype.name, threads)


def _scheduled(schedule: Schedule, terms: int, dtype: str, threads: int) -> _Work:
    """Those of a schedule for sums of so many terms, and a result of this type."""
    jobs, arithmetic = schedule.steps[-1].jobs, schedule.elements.dtype
    split = " x ".join(f"{n} {name}" for name, n in schedule.split if n > 1) or "one block"
    split = split if schedule.tile else "one per output position"
    rounded = "" if arithmetic == dtype else f", then one rounding to {dtype}"
    u = "2**-24" if arithmetic == "float32" else "2**-53"
    error = f"at most {terms} u of sum |x||w|, u = {u}{rounded}; the same bits every time"
    return _Work(schedule.tile, jobs, split, min(threads, max(1, jobs)), layer(), error)


def _transforms(p: FourierPlan) -> _Work:
    """Those of the FFT."""
    split = f"blocks of {p.size} rows, of which {p.step} are new"
    error = f"at most {p.error:.1g} |block| |filter|, by their norms, however small the output"
    return _Work("", p.blocks, split, 1, "numpy.fft", error)


def _runs(real: Problem) -> tuple[int, int]:
    """Runs of a window inside a C-contiguous input, and their length."""
    C = real.C // real.groups
    if real.kernel_dilation[-1] == 1 and real.groups == 1:
        return math.prod(real.K[:-1]), real.K[-1] * C
    return math.prod(real.K), C


def _shape(values: Ints) -> str:
    return "(" + ", ".join(map(str, values)) + ")"
