"""Convolutions of a dilated input, which transposed ones are: phase by phase, without its zeros.

With the input's elements `idil` apart, an output position meets at most every tap out of
idil / gcd(idil, dilation), and positions idil / gcd(idil, stride) apart meet the same ones.  So
the outputs are phases, and each is a convolution of the input as it lies in memory, with some of
the taps:

    input dilation 2, taps a b c          x . x . x . x        what is written as . is never read
    even outputs                          a   c                taps a, c
    odd outputs                             b                  tap b
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlxconv import recycling
from mlxconv.arrays import dtype_named
from mlxconv.plan import Packed, Plan, checked_output

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


class PhasedPlan:
    """The plans of all phases of a problem; what people see of it is that with most work."""

    def __init__(self, problem: "Problem", phases: tuple[tuple[Phase, Plan], ...]) -> None:
        self.problem = problem
        self.phases = phases
        self.dtype = dtype_named(problem.dtype)
        largest = max((plan for _, plan in phases), key=lambda plan: plan.problem.flop)
        self.real, self.variant, self.schedule = largest.real, largest.variant, largest.schedule
        self.refused = largest.refused
        self.output_shape = problem.output_shape

    def run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        workers: int | None,
        out: np.ndarray | None = None,
        packed: Packed | None = None,
    ) -> np.ndarray:
        """As `Plan.run`.  A phase is computed on its own and then copied between the others."""
        if out is None:
            y = recycling.array(self.output_shape, self.dtype)
        else:
            y = checked_output(out, self.output_shape, self.dtype, x, w)
        if sum(plan.output_elements for _, plan in self.phases) < y.size:
            y[...] = 0  # outputs that meet nothing but zeros
        rows = np.dtype((np.void, y.itemsize * y.shape[-1]))  # copied as one, in half the time
        whole = y.view(rows)
        if self.problem.flip:
            w = np.flip(w, tuple(range(1, w.ndim - 1)))
        for i, (phase, plan) in enumerate(self.phases):
            taps = w[(slice(None), *phase.taps)]
            own = packed.part(i) if packed is not None else None
            part = plan.run(x, taps, workers, None, own)
            whole[(slice(None), *phase.outputs)] = part.view(rows)
        return y
