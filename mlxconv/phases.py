"""Convolutions of a dilated input, which transposed ones are: phase by phase, without its zeros.

With the input's elements `idil` apart, an output position meets at most every tap out of
idil / gcd(idil, dilation), and positions idil / gcd(idil, stride) apart meet the same ones.  So
the outputs are phases, and each is a convolution of the input as it lies in memory, with some of
the taps:

    input dilation 2, taps a b c          x . x . x . x        what is written as . is never read
    even outputs                          a   c                taps a, c
    odd outputs                             b                  tap b

Neighbouring phases along the last axis whose windows are the same are one convolution, with a bank
of filters for each phase: its rows of outputs are those of the phases side by side.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlxconv import threads
from mlxconv.arrays import REAL_OF
from mlxconv.fft import FourierPlan
from mlxconv.forks import cached_property
from mlxconv.kernels.layouts import copy_of, set_output_layout, strides_of
from mlxconv.kernels.schedule import Schedule, Step
from mlxconv.plan import Packed, Plan, Planned

if TYPE_CHECKING:
    from mlxconv.problem import Problem


class AxisPhase(NamedTuple):
    """Some output positions along one axis, as a convolution without input dilation."""

    outputs: slice
    taps: slice
    stride: int
    padding_lo: int
    padding_hi: int
    dilation: int


class Phase(NamedTuple):
    """Some outputs of a problem: with those taps of the filters they are those of `problem`."""

    problem: "Problem"
    taps: tuple[slice, ...]
    outputs: tuple[slice, ...]


def phases_of(p: "Problem") -> tuple[Phase, ...]:
    """The phases of `p`, none of which has a dilated input; those that meet no tap are left out."""
    axes = zip(
        *(p.L, p.K, p.stride, p.padding_lo, p.kernel_dilation, p.input_dilation, p.output_L),
        strict=True,
    )
    found = []
    for parts in product(*(tuple(_along(*sizes)) for sizes in axes)):
        K = tuple(len(range(*a.taps.indices(k))) for a, k in zip(parts, p.K, strict=True))
        problem = p._replace(
            K=K,
            stride=tuple(a.stride for a in parts),
            padding_lo=tuple(a.padding_lo for a in parts),
            padding_hi=tuple(a.padding_hi for a in parts),
            kernel_dilation=tuple(a.dilation for a in parts),
            input_dilation=(1,) * len(parts),
            flip=False,  # the taps are those of filters that were turned round before
        )
        found.append(Phase(problem, tuple(a.taps for a in parts), tuple(a.outputs for a in parts)))
    return tuple(found)


def _along(
    L: int, K: int, stride: int, lo: int, dilation: int, idil: int, L_out: int
) -> Iterator[AxisPhase]:
    """The phases along one axis: tap k of output l is input row (l*stride - lo + k*dilation) / idil
    if that is a whole number, else a zero."""
    apart, step = idil // math.gcd(idil, stride), idil // math.gcd(idil, dilation)
    for first in range(min(apart, L_out)):
        start = first * stride - lo
        met = [k for k in range(min(step, K)) if (start + k * dilation) % idil == 0]
        if not met:
            continue
        taps, outputs = slice(met[0], K, step), slice(first, L_out, apart)
        positions, count = -(-(L_out - first) // apart), len(range(met[0], K, step))
        row_step = dilation * step // idil if count > 1 else 1
        row, out_step = (start + met[0] * dilation) // idil, apart * stride // idil
        last = row + (positions - 1) * out_step + (count - 1) * row_step
        yield AxisPhase(outputs, taps, out_step, -row, last - (L - 1), row_step)


class Weave(NamedTuple):
    """Neighbouring phases whose windows are the same: `problem` has the filters of all of them."""

    problem: "Problem"
    first: Phase
    banks: int
    tap_step: int  # along the last axis, from the taps of a phase to those of the next

    def filters(self, w: np.ndarray) -> np.ndarray:
        """Those of `problem`, as a view of all filters `w`: (banks, O, ..., C), or (O, ..., C), and
        before these the axis of groups, if `w` has one."""
        rows: tuple[Any, ...] = (..., *self.first.taps, slice(None))
        taps: np.ndarray = w[rows]
        if self.banks == 1:
            return taps
        strides = (self.tap_step * w.strides[-2], *taps.strides)
        view = np.lib.stride_tricks.as_strided
        return view(taps, (self.banks, *taps.shape), strides, writeable=False)

    def layout(self, p: "Problem") -> tuple[int, tuple[int, ...]]:
        """Where in the output of `p` its rows lie, in elements: offset and strides."""
        image, *axes, channel = strides_of(p.output_shape)
        outputs = self.first.outputs
        offset = sum(o.start * step for o, step in zip(outputs, axes, strict=True))
        steps = (o.step * step for o, step in zip(outputs, axes, strict=True))
        return offset, (image, *steps, channel)

    def rows(self, p: "Problem", y: np.ndarray) -> np.ndarray:
        """The rows of `y`, the output of `p`, that are its outputs, each as one element."""
        row = np.dtype((np.void, y.itemsize * self.problem.O))
        offset, strides = self.layout(p)
        steps = tuple(step * y.itemsize for step in strides[:-1])
        return np.ndarray(self.problem.output_shape[:-1], row, y, offset * y.itemsize, steps)


def weaves_of(p: "Problem", phases: tuple[Phase, ...]) -> tuple[Weave, ...]:
    """The phases of `p`, neighbours together where that is possible."""
    found: list[Weave] = []
    for phase in phases:
        last = found[-1] if found else None
        step = phase.taps[-1].start - last.first.taps[-1].start if last else 0
        if last and last.banks > 1:
            step //= last.banks
        if last and p.groups == 1 and p.dtype not in REAL_OF and _continues(last, phase, step):
            found[-1] = last._replace(banks=last.banks + 1, tap_step=step)
        else:
            found.append(Weave(phase.problem, phase, 1, 0))
    return tuple(
        weave._replace(problem=weave.problem._replace(O=weave.problem.O * weave.banks))
        for weave in found
    )


def _continues(weave: Weave, phase: Phase, tap_step: int) -> bool:
    """Whether the outputs of `phase` are next to those of `weave`, and its taps as far apart."""
    first, banks = weave.first, weave.banks
    start = first.outputs[-1].start + banks
    taps = first.taps[-1]
    return (
        phase.problem == first.problem
        and phase.outputs == (*first.outputs[:-1], slice(start, *_rest(first.outputs[-1])))
        and phase.taps == (*first.taps[:-1], slice(taps.start + banks * tap_step, *_rest(taps)))
        and (banks == 1 or tap_step == weave.tap_step)
    )


def _rest(s: slice) -> tuple[int, int]:
    return s.stop, s.step


def woven(schedule: Schedule, p: "Problem", weave: Weave) -> Schedule | None:
    """`schedule` with outputs that go where they belong in the output of `p`, if they can."""
    if not schedule.by_line or schedule.geometry["phases"][0] > 1:
        return None
    geometry = copy_of(schedule.geometry)
    set_output_layout(geometry, *weave.layout(p))
    return replace(schedule, geometry=geometry)


class Part(NamedTuple):
    """What computes a weave: a plan of its own, and a schedule that writes where it belongs."""

    weave: Weave
    plan: Plan | FourierPlan
    schedule: Schedule | None  # None: what the plan computes is copied there


class PhasedPlan(Planned):
    """The plans of all phases of a problem; what people see of it is that with most work."""

    def __init__(self, problem: "Problem", parts: tuple[Part, ...]) -> None:
        super().__init__(problem, any(part.plan.over_groups for part in parts))
        self.parts = parts
        self.largest = max((part.plan for part in parts), key=lambda plan: plan.problem.flop)
        self.variant, self.refused = self.largest.variant, self.largest.refused
        computed = sum(part.plan.output_elements for part in parts)
        self._has_gaps = computed < self.output_elements  # outputs that meet nothing but zeros

    def output(self, out: np.ndarray | None, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """As `Planned.output`, with zeros where no part writes."""
        y = super().output(out, x, w)
        if self._has_gaps:
            y[...] = 0
        return y

    def run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        workers: int | None,
        out: np.ndarray | None = None,
        packed: Packed | None = None,
    ) -> np.ndarray:
        """As `Plan.run`.  A part that is not written where it belongs is copied there."""
        y = self.output(out, x, w)
        usual = packed is None and self.are_usual(x, w)
        at_once = self._bound if usual else None
        if at_once and not at_once(x, w, y, None, workers):
            return y
        w = self._turned(w)
        for i, (weave, plan, schedule) in enumerate(self.parts):
            taps, own = weave.filters(w), None if packed is None else packed.part(i)
            if plan.weave(schedule, x, taps, y, workers, own):
                rows = weave.rows(self.problem, y)
                part = plan.run(x, taps, workers, None, own)
                rows[...] = part.view(rows.dtype)[..., 0]
        return y

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        filters = np.empty(self.problem.weight_shape, self.dtype)
        return self.bound_to(filters, filters)

    def bound_to(self, filters: np.ndarray, base: np.ndarray) -> Callable[..., int] | None:
        """All parts as one launch."""
        schedules, geometries, turned = [], [], self._turned(filters)
        for weave, plan, schedule in self.parts:
            taps = weave.filters(turned)
            if schedule is None or not isinstance(plan, Plan) or not plan.can_read(taps):
                return None
            schedules.append(schedule)
            geometries.append(plan.reading(schedule, taps, base))
        joined = np.concatenate(geometries).view(type(geometries[0]))  # records, without a JIT
        return threads.bound(_joined(schedules), joined)

    def _turned(self, w: np.ndarray) -> np.ndarray:
        """The filters as the parts are to see them."""
        axes = range(-1 - len(self.problem.K), -1)
        return np.flip(w, tuple(axes)) if self.problem.flip else w


def _joined(schedules: Sequence[Schedule]) -> Schedule:
    """What a launch of all of these needs to know."""
    steps = zip(*(schedule.steps for schedule in schedules), strict=True)
    return Schedule(
        schedules[0].elements,
        schedules[0].geometry,
        steps=tuple(
            Step(step[0].kernel, sum(s.jobs for s in step), sum(s.flop for s in step))
            for step in steps
        ),
        shared=sum(schedule.shared for schedule in schedules),
        scratch=max(schedule.scratch for schedule in schedules),
        runs=max(schedule.runs for schedule in schedules),
    )
