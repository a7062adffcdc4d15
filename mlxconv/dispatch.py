"""Which kernel computes a problem: the first row of VARIANTS that can and wins.

Whether a variant *can* compute a problem, its kernel file says (`refuses`); whether it *should*,
the row here says, with the measurement behind it.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Final, NamedTuple

from mlxconv import fft, processor
from mlxconv.fft import FourierPlan
from mlxconv.kernels import (
    channels_first,
    depthwise,
    direct,
    dot,
    dot_tiling,
    grouped,
    reference,
    tiling,
)
from mlxconv.kernels.schedule import lanes_of
from mlxconv.lowering import as_lines, as_real
from mlxconv.phases import Part, PhasedPlan, Weave, phases_of, weaves_of, woven
from mlxconv.plan import Plan
from mlxconv.problem import Problem


class Variant(NamedTuple):
    """A row of the table: a kernel file, and when it is the one to take."""

    kernel: ModuleType
    wins: Callable[[Problem], bool]
    loses: str  # what explain says of a problem where it could but does not win
    keeps_bits: bool = True  # and the bound of each output: what the table itself may pick

    @property
    def name(self) -> str:
        return self.kernel.__name__.rpartition(".")[2]

    def refuses(self, problem: Problem) -> str:
        """Why it cannot compute `problem`; empty if it can."""
        return str(self.kernel.refuses(_as_kernels_see(problem)))

    def plan(self, problem: Problem, refused: tuple[tuple[str, str], ...]) -> Plan | FourierPlan:
        """How it computes `problem`, which the rows before it have `refused`."""
        schedule = self.kernel.schedule(_as_kernels_see(problem))
        return Plan(problem, self.name, schedule, refused)


@lru_cache(maxsize=1)  # all rows ask for it, one after the other
def _as_kernels_see(problem: Problem) -> Problem:
    return as_lines(as_real(problem))


class Transform(Variant):
    """A row that takes arrays whole, complex numbers and all: NumPy's work, not a kernel's."""

    __slots__ = ()

    def refuses(self, problem: Problem) -> str:
        return fft.refuses(problem)

    def plan(self, problem: Problem, refused: tuple[tuple[str, str], ...]) -> FourierPlan:
        return FourierPlan(problem, refused)


# fmt: off
VARIANTS: Final = (  # tried in order; the last takes anything
    # ahead of depthwise from 450 (complex128) to 2000 taps (float32): see CROSSOVER, convolving.py
    Transform(fft,     wins=lambda p: False, keeps_bits=False,
              loses="its error is relative to the norms of the data: it is for callers who ask"),
    # 1-1.6x the speed of those below with filters that leave lanes of a vector empty, or that meet
    # so few positions that to pack them takes long
    Variant(channels_first, wins=lambda p: _is_worth_turning(p),
            loses="filters fill vectors and meet many positions, or to turn the input takes long"),
    # 1-1.8x the speed of direct with 8 to 16 filters in a group, 1.3-5x with 3 to 7, 3-10x below
    Variant(grouped,   wins=lambda p: _wins(p, grouped),
            loses="there is one group, or one channel and filter each, or others take less time"),
    # 6-10x the speed of direct
    Variant(depthwise, wins=lambda p: p.groups > 1, loses="there is one channel"),
    # 1.1-3x the speed of direct with up to 12 positions, 0.8x with 16, or 1-1.8x if filters are
    # few, and 0.6x where windows are short beside their number; 1.2-4x with up to four
    # filters, 1-2.5x with five to sixteen
    Variant(dot,       wins=lambda p: _are_few_and_long(p) or _wins(p, dot),
            loses="there are many output positions in the batch, or windows are short for these"),
    Variant(direct,    wins=lambda p: True, loses=""),
    Variant(reference, wins=lambda p: True, loses=""),
)
# fmt: on


PER_WINDOW = {1: 8, 2: 16}  # elements, by the multiply-adds that start in a cycle
FEW_WINDOWS = 12  # which direct takes longer for, whatever the filters


def _are_few_and_long(p: Problem) -> bool:
    """Whether there are few windows, or few for these filters, and each has so many elements for
    each of them that to pack filters takes longer than to read them: with two multiply-adds a cycle
    direct takes 0.7 to 0.9 of the time for 4 to 7 windows of 48 elements and many filters, and 1.2
    to 2 times as long for those of 192."""
    positions, window = math.prod(p.output_L), math.prod(p.K) * p.C // p.groups
    windows, most = p.N * positions, window // PER_WINDOW[processor.fma_per_cycle()]
    if positions >= dot_tiling.MOST_POSITIONS or windows > most:
        return False
    return windows <= FEW_WINDOWS or READ_AGAIN_BY_DOT * p.O / p.groups < _cost_of_direct(p)


def _wins(p: Problem, kernel: ModuleType) -> bool:
    """Whether `kernel` is the one that takes the least time, of an order of its own."""
    return _summing(p) is kernel


@lru_cache(maxsize=8)  # several rows ask for it, one after the other
def _summing(p: Problem) -> ModuleType | None:
    """The variant of those that sum in an order of their own that takes the least time; None if one
    that sums as direct does takes less.  A single image is weighed, lest the batch choose the
    order."""
    if 1 < p.groups == p.C < p.O and not grouped.refuses(p):
        return grouped
    p, costs = p._replace(N=1), dict[ModuleType | None, float]()
    if dot_tiling.meets_few_filters(p):
        costs[dot] = dot_tiling.cost(p)
    if 1 < p.groups < p.C and not grouped.refuses(p):
        costs[grouped] = grouped.cost(p)
    if costs:
        turned = math.inf if channels_first.refuses(p) else _cost_of_turning(p)
        costs[None] = min(turned, _cost_of_direct(p))
    return min(costs, key=lambda variant: costs[variant], default=None)


# what multiply-adds of others cost, beside those of the tiles of direct for one group; fitted, see
# turned_tiling.py
OF_DOT = 2.1  # of dot
READ_AGAIN_BY_DOT = 3.1  # ... where so many windows meet them that filters are read several times
OF_GROUPS = 10  # ... of direct for several groups: so many more for a window of the first panel
FAR_OUTPUT = 45  # more of channels_first for an output that goes to memory
FAR_TURNED = 1.9  # ... and times as long at the most
PACKING_CYCLES = 2000  # that direct takes to begin to pack


def _is_worth_turning(p: Problem) -> bool:
    """Whether to turn input and outputs costs less than the lanes that other variants leave empty,
    or dot takes for sums over lanes."""
    if p.groups == p.C or _summing(p):
        return False
    if not dot.refuses(p) and _are_few_and_long(p):
        other = OF_DOT * p.O / p.groups
    else:
        other = _cost_of_direct(p)
    return _cost_of_turning(p) < other


def _cost_of_turning(p: Problem) -> float:
    """That of channels_first; where outputs go to memory up to FAR_TURNED times as much."""
    far = min(FAR_TURNED, 1 + FAR_OUTPUT / tiling.window_of(p)) if tiling.is_far(p) else 1
    return channels_first.cost(p) * far


def _cost_of_direct(p: Problem) -> float:
    """As tiling.Choice.cost, with what several groups add, and packing."""
    window = tiling.window_of(p)
    packing = PACKING_CYCLES / tiling.positions_of(p) * processor.fma_per_cycle() * lanes_of(p)
    best = tiling.fastest(p, direct.tiles())
    apart = OF_GROUPS / window / best.panels if p.groups > 1 else 0
    return best.cost * (1 + apart) + packing / window


# to copy filters that lie apart, in cycles of all cores; what it may take of the time without
COPIED_CYCLES, COPY_CYCLES = 1.3, 20000  # of an element; beside them, a launch of its own as well
WORTH_COPYING = 1 / 6


def _takes_copies(p: Problem) -> bool:
    """Whether to copy the filters takes longer than a variant that does not pack them may gain:
    small transposed convolutions took up to three times as long.  A single image is weighed, lest
    the batch choose the order of sums."""
    cycles = COPY_CYCLES + COPIED_CYCLES * math.prod(p.weight_shape)
    copying = cycles * processor.cores() * processor.flop_per_cycle()
    return copying > WORTH_COPYING * p._replace(N=1).flop


AnyPlan = Plan | FourierPlan | PhasedPlan


def variants() -> tuple[str, ...]:
    """The names of all variants, in the order in which they are tried."""
    return tuple(v.name for v in VARIANTS)


def able(problem: Problem, keeps_bits: bool = True) -> tuple[str, ...]:
    """The names of the variants that can compute `problem`, whether or not they should: those that
    the table may pick, or all of them."""
    parts = _parts(problem)
    return tuple(
        row.name
        for row in VARIANTS
        if row.keeps_bits >= keeps_bits and not any(map(row.refuses, parts))
    )


def _parts(problem: Problem) -> tuple[Problem, ...]:
    """The problems without a dilated input that `problem` is made of."""
    if max(problem.input_dilation) == 1:
        return (problem,)
    return tuple(weave.problem for weave in weaves_of(problem, phases_of(problem)))


@lru_cache(maxsize=4096)
def plan(problem: Problem, variant: str | None = None, views: bool = False) -> AnyPlan:
    """How `problem` is computed: by the first row that holds, or by the row named `variant`; if
    its input is dilated, each phase apart from the others.  Filters may be `views` of others, which
    do not lie one behind the other."""
    if max(problem.input_dilation) == 1 or variant == "reference":
        return _plan(problem, variant, views)
    phases = phases_of(problem)
    if not phases or 0 in problem.output_shape:
        return _plan(problem, "reference")  # there is nothing to multiply
    weaves = weaves_of(problem, phases)
    return PhasedPlan(problem, tuple(_part(problem, weave, variant) for weave in weaves))


def _part(problem: Problem, weave: Weave, variant: str | None) -> Part:
    """How a part of `problem` is computed: where its outputs belong, if the kernel can do that."""
    plan = _plan(weave.problem, variant, views=True)
    if isinstance(plan, FourierPlan) or plan.is_empty or as_real(weave.problem) != weave.problem:
        return Part(weave, plan, None)
    schedule = plan.schedule
    if as_lines(weave.problem) != weave.problem:  # there lines are others than those of the output
        schedule = _named(plan.variant).kernel.schedule(weave.problem)
    if schedule.geometry["phases"][0] > 1:  # a row of its tiles are outputs next to each other
        schedule = direct.schedule(weave.problem, may_phase=False)
    return Part(weave, plan, woven(schedule, problem, weave))


def _plan(problem: Problem, variant: str | None, views: bool = False) -> Plan | FourierPlan:
    if variant is None:
        return _first(problem, views)
    chosen = _named(variant)
    if reason := chosen.refuses(problem):
        raise ValueError(f"variant {variant!r} cannot compute this problem: {reason}")
    return chosen.plan(problem, ())


def _first(problem: Problem, views: bool) -> Plan | FourierPlan:
    """The plan of the first row that holds, which knows why each row before it does not."""
    refused: list[tuple[str, str]] = []
    seen = _as_kernels_see(problem)
    for row in VARIANTS:
        reason = row.refuses(problem) or ("" if row.wins(seen) else row.loses)
        if not reason:
            made = row.plan(problem, tuple(refused))
            if not views or made.packs or not _takes_copies(seen):
                return made
            reason = "to copy these filters, to lie one behind the other, takes long"
        refused.append((row.name, reason))
    raise AssertionError("the last row of VARIANTS takes any problem")


def _named(name: str) -> Variant:
    for row in VARIANTS:
        if row.name == name:
            return row
    raise ValueError(f"variant takes one of {', '.join(variants())}; got {name!r}")
