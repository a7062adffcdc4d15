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
from mlxconv.kernels import channels_first, depthwise, direct, dot, grouped, reference, tiling
from mlxconv.kernels.schedule import itemsize_of, lanes_of
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
    Variant(grouped,   wins=lambda p: 1 < p.groups < max(p.C, p.O) and not _suit_others(p),
            loses="there is one group, or one channel and filter each, or dot or direct wins"),
    # 6-10x the speed of direct
    Variant(depthwise, wins=lambda p: p.groups > 1, loses="there is one channel"),
    # 1.1-3x the speed of direct with up to 12 positions, 0.8x with 16, or 1-1.8x if filters are
    # few, and 0.6x where windows are short beside their number; 1.2-4x with up to four
    # filters, 1.1-2.5x with five to ten
    Variant(dot,       wins=lambda p: _are_few_and_long(p) or _are_few_filters(p),
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
    if positions >= dot.MOST_POSITIONS or windows > most:
        return False
    return windows <= FEW_WINDOWS or READ_AGAIN_BY_DOT * p.O / p.groups < _cost_of_direct(p)


LONG_SUMS = 144  # multiply-adds of an output from which the larger tiles of direct take less time
MANY_CHANNELS = 20  # of a group, from which they do even with one tap


def _suit_others(p: Problem) -> bool:
    """Whether groups are for dot, or take a vector each and have sums so long that the tiles of
    direct, which are larger, take 0.85 to 1 of the time."""
    filters, channels = p.O // p.groups, p.C // p.groups
    is_long = channels >= MANY_CHANNELS or math.prod(p.K) * channels >= LONG_SUMS
    return _are_few_filters(p) or (2 * filters > lanes_of(p) and is_long)


def _are_few_filters(p: Problem) -> bool:
    """Whether few filters meet many positions, and windows are long enough for as many sums over
    lanes: three filters of four taps and a vector of up to 8 channels take 1 to 1.2x the time of
    direct, and groups of four with 16 that of grouped; other vectors of 16 channels take 0.6 to
    0.9x.  Where 16 registers leave two positions to the tile of four filters, these take 1.05x to
    1.8x the time with up to two vectors of channels."""
    filters, vectors = p.O // p.groups, p.C // p.groups // lanes_of(p)
    suits_others = lanes_of(p) < 16 or (p.groups > 1 and filters == 4)
    is_short = filters > 2 and vectors == 1 and math.prod(p.K) <= 4 and suits_others
    is_narrow = filters == 4 and vectors <= 2 and processor.registers() == 16
    return dot.meets_few_filters(p) and not (is_short or is_narrow or _are_too_many(p))


def _are_too_many(p: Problem) -> bool:
    """Whether more than four filters take longer than others, that leave lanes empty, or turn the
    input: those that almost fill a vector, or have few vectors of channels, 1 to 1.4x; and eight or
    more of many taps, whose filters L1 does not hold, or of several groups, 1 to 1.25x.  But to
    turn the input for less than three vectors of positions takes 0.9 to 1.75x the time of dot."""
    filters, vectors = p.O // p.groups, p.C // p.groups // lanes_of(p)
    if filters <= 4:
        return False
    size = math.prod(p.weight_shape) * itemsize_of(p)
    are_many = filters > 7 and math.prod(p.output_L) >= 3 * lanes_of(p)
    reads_again = are_many and size > processor.caches().L1_bytes
    turns_well = math.prod(p.K) > 4 and (p.groups > 1 or reads_again)
    return filters >= min(lanes_of(p), 4 * vectors) or turns_well


# what multiply-adds of others cost, beside those of the tiles of direct for one group; fitted, see
# turned_tiling.py
OF_DOT = 2.1  # of dot
READ_AGAIN_BY_DOT = 3.1  # ... where so many windows meet them that filters are read several times
OVER_GROUPS, OVER_ONE = 1.4, 1.2  # of grouped, with several groups to a vector or one
OF_GROUPS = 10  # ... of direct for several groups: so many more for a window of the first panel
FAR_OUTPUT = 45  # more of channels_first for an output that goes to memory
FAR_TURNED = 1.9  # ... and times as long at the most
PACKING_CYCLES = 2000  # that direct takes to begin to pack


def _is_worth_turning(p: Problem) -> bool:
    """Whether to turn input and outputs costs less than the lanes that other variants leave empty,
    or dot takes for sums over lanes.  Where outputs go to memory it takes FAR_TURNED times as long.
    Beside grouped, which sums in another order, a single image is weighed, lest the batch choose
    the order."""
    suits_dot = not dot.refuses(p)
    if p.groups == p.C or (suits_dot and _are_few_filters(p)):
        return False
    filters, lanes = p.O // p.groups, lanes_of(p)
    if suits_dot and _are_few_and_long(p):
        other = OF_DOT * filters
    elif p.groups > 1 and filters <= lanes and not _suit_others(p):
        together = lanes // filters  # groups to a vector
        vectors, each = -(-p.groups // together), OVER_GROUPS if together > 1 else OVER_ONE
        other, p = vectors * lanes / p.groups * each, p._replace(N=1)
    else:
        other = _cost_of_direct(p)
    far = min(FAR_TURNED, 1 + FAR_OUTPUT / _window(p))
    return channels_first.cost(p) * (far if tiling.is_far(p) else 1) < other


def _window(p: Problem) -> int:
    """The multiply-adds of an output; one if there are none."""
    return max(1, math.prod(p.K) * (p.C // p.groups))


def _cost_of_direct(p: Problem) -> float:
    """As tiling.Choice.cost, with what several groups add, and packing."""
    window = _window(p)
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
