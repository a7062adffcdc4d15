"""Running every variant that can compute a problem, side by side: what each takes, how exact it
is, and whether the table picked the fastest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxconv import roofline, timing
from mlxconv.lowering import as_real
from mlxconv.problem import Problem
from mlxconv.query import Query, query
from mlxconv.stream import resolve
from mlxconv.tables import Table, number
from mlxconv.threads import default_threads

TRIAL_FLOP = 2e7  # of the shortened problem that a slow variant is known by


@dataclass(frozen=True)
class Entry:
    """One variant in a race."""

    variant: str
    seconds: float
    """The best; of a variant that did not run, what a call would take, as a short trial says."""
    ran: bool
    error: float
    """The largest, in units of u sum |x||w|, of up to a thousand outputs."""
    keeps_bits: bool = True
    """Whether the table may pick it: not the FFT, whose error is relative to norms."""

    @property
    def us(self) -> float:
        return self.seconds * 1e6


@dataclass(frozen=True)
class Race:
    """What `race` found; `str()` is a table."""

    problem: Problem
    threads: int
    picked: str
    """The variant the table picks."""
    entries: tuple[Entry, ...]
    """Of all variants that can compute the problem, the fastest first."""
    bound: roofline.Bound
    """The least time this machine can take, at the FMA peak of the same rounds."""
    what: str = ""
    """What was computed, if not the convolution."""

    @property
    def fastest(self) -> Entry:
        """Of those that the table may pick."""
        return next(entry for entry in self.entries if entry.keeps_bits)

    @property
    def regret(self) -> float:
        """Time of the picked variant / time of the fastest - 1."""
        took = next(entry.seconds for entry in self.entries if entry.variant == self.picked)
        return took / self.fastest.seconds - 1

    def __str__(self) -> str:
        table = Table(("variant", "us", "GFLOP/s", "% of bound", "error", ""), text_columns=(0, 5))
        for entry in self.entries:
            if entry.ran:
                table.add(*self._cells(entry), "picked" * (entry.variant == self.picked))
            else:
                table.add(entry.variant, f"~{number(entry.us)}", "", "", "", "skipped: too slow")
        p = self.problem
        by = (
            "arithmetic"
            if self.bound.binds == "arithmetic"
            else f"moving data in {self.bound.binds}"
        )
        return f"{self.what}\n" * bool(self.what) + (
            f"{p.input_shape} {p.input_dtype} with {p.weight_shape} -> {p.output_shape} {p.dtype},"
            f" {self.threads} thread{'s' * (self.threads != 1)}\n{table.plain()}\n"
            f"bound {number(self.bound.us)} us by {by};"
            f" regret {100 * self.regret:.1f} %; error in units of u sum |x||w|"
        )

    def _cells(self, entry: Entry) -> tuple[str, ...]:
        flop = as_real(self.problem).flop
        return (
            entry.variant,
            number(entry.us),
            number(flop / entry.seconds / 1e9),
            f"{100 * self.bound.us / entry.us:.0f}",
            f"{entry.error:.2g}",
        )


def race(
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
    rounds: int | None = None,
    seconds: float = 1.0,
    slowest: float = 1.0,
) -> Race:
    """Run a convolution by every variant that can compute it, in turns, and compare.

    Parameters
    ----------
    input, weight, stride, padding, dilation, groups, input_dilation, flip
        As in `explain`; of shapes alone, random numbers are convolved.
    transposed, output_padding, dtype, gradient, stream
        As in `explain`.
    rounds : int, optional
        How many rounds; if not given, as many as fit `seconds`, at least 3.
    seconds : float
        How long to measure, all variants together.
    slowest : float
        Seconds a call may take: variants that need longer, as a short trial says, are skipped.

    Returns
    -------
    Race
        Print it, or read its attributes.

    Raises
    ------
    TypeError, ValueError
        As the convolution itself would.

    Notes
    -----
    The first race on a machine measures `machine()` as well.

    Examples
    --------
    >>> print(mlxconv.race((1, 3000, 80), (512, 3, 80), padding=1))  # doctest: +SKIP
    """
    q = (stride, padding, dilation, groups, input_dilation, flip)
    asked = query(input, weight, *q, dtype, transposed, output_padding, gradient).with_data()
    p, threads = asked.problem, resolve(stream).threads or default_threads()
    picked = asked.picked
    kernels = {picked, *asked.able()}
    # what the table picks is asked for as such: its phases may have no variant in common
    variants = {name: name for name in asked.able(keeps_bits=False)} | {picked: None}
    trials = {name: _trial(asked, stream, variant) for name, variant in variants.items()}
    calls = {
        name: asked.call(stream, variants[name])
        for name, took in trials.items()
        if took <= slowest or name == picked
    }
    peak, flop = roofline.fma_call(_arithmetic(p), threads)
    best = timing.best(timing.in_turns({**calls, "": peak}, seconds, rounds))
    entries = [
        _entry(asked, name, calls.get(name), best.get(name, trials[name]), name in kernels)
        for name in trials
    ]
    bound = roofline.machine().bound(
        as_real(p).flop, asked.bytes_moved, p.dtype, threads, flop / best[""] / 1e9
    )
    entries.sort(key=lambda entry: (not entry.ran, entry.seconds))
    return Race(p, threads, picked, tuple(entries), bound, asked.what)


def _entry(
    asked: Query,
    name: str,
    call: Callable[[], np.ndarray] | None,
    seconds: float,
    keeps_bits: bool,
) -> Entry:
    if call is None or asked.arrays is None:
        return Entry(name, seconds, False, float("nan"), keeps_bits)
    return Entry(name, seconds, True, asked.error(call()), keeps_bits)


def _trial(asked: Query, stream: Any, variant: str | None) -> float:
    """Seconds a call takes at the first guess: of the problem with fewer and shorter images, by
    the ratio of FLOP.  Compiles what is not compiled yet."""
    p = asked.problem
    if p.flop <= TRIAL_FLOP:
        trial = asked
    else:
        rows = p.L[0] * p.N * TRIAL_FLOP / p.flop
        window = p.window[0]  # of as many outputs at least, or their overlap would cost too much
        least = window - p.padding_lo[0] - p.padding_hi[0] + max(window, p.stride[0])
        least = max(1, min(p.L[0], least))
        trial = asked.shortened(max(least, int(rows)))
    call = trial.call(stream, variant)
    call()
    return timing.once(call) * p.flop / max(1, trial.problem.flop)


def _arithmetic(p: Problem) -> str:
    """The real type whose FMA peak counts."""
    return "float64" if p.dtype in ("float64", "complex128") else "float32"
