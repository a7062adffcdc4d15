"""A contest: engines on one problem after another, in turns, each checked against ours first."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxconv.bench import gradients
from mlxconv.bench.engines import OURS
from mlxconv.bench.shapes import Shape
from mlxconv.bench.workers import Worker, WorkerLost
from mlxconv.sampling import largest_error

# Largest difference of outputs of size 1: rounding, and the transforms that some peers sum with.
TOLERANCE = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-9}
LEAST_ROUNDS = 5
TRIAL_ROUNDS = 2  # after which those that cannot win are left out
HOPELESS = 2.5  # a layout that much slower than another of its engine gets no third round
AGREE = 1.05  # times the best: as good as it
EXTENSION = 2  # times the seconds asked for, until the best rounds agree
FAR_BEHIND = 8  # nor does an engine that much slower than the fastest, if it takes long
LONG_SECONDS = 0.05


@dataclass
class Result:
    """What a contest found on one problem."""

    name: str
    shape: Shape
    dtype: str
    rounds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Seconds per call of (engine, layout), one per round."""
    faults: dict[str, str] = field(default_factory=dict)
    """Why an engine, or a layout of it, has no figures."""
    peak_gflops: float = 0.0
    """The FMA peak, the best of all rounds of the contest."""
    error: float = 0.0
    """Ours, the largest, in units of u sum |x||w|."""

    @property
    def flop(self) -> int:
        return self.shape.problem(self.dtype).flop

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flop / self.shape.bytes_moved(self.dtype)

    @property
    def engines(self) -> dict[str, tuple[str, float]]:
        """The best layout of each engine, and its seconds per call."""
        found: dict[str, tuple[str, float]] = {}
        for (engine, layout), seconds in self.rounds.items():
            if seconds and min(seconds) < found.get(engine, ("", math.inf))[1]:
                found[engine] = layout, min(seconds)
        return found

    @property
    def ours(self) -> float:
        """Our seconds per call; nan if we have none."""
        return self.engines.get(OURS, ("", math.nan))[1]

    @property
    def best_peer(self) -> str | None:
        peers = {e: seconds for e, (_, seconds) in self.engines.items() if e != OURS}
        return min(peers, key=peers.__getitem__) if peers else None

    @property
    def ratio(self) -> float:
        """Time of the best peer / ours: above 1 we are ahead; nan without peers."""
        peer = self.best_peer
        return math.nan if peer is None else self.engines[peer][1] / self.ours

    @property
    def unrest(self) -> float:
        """Our median round / our best - 1: how much else the machine did."""
        return float(np.median(self.rounds.get((OURS, "nlc"), [math.nan]))) / self.ours - 1

    @property
    def settled(self) -> bool:
        """Whether two rounds agree on the best of every engine: one alone may be luck, or all
        of them disturbed."""
        best = {(engine, layout) for engine, (layout, _) in self.engines.items()}
        firsts = [sorted(seconds)[:2] for at, seconds in self.rounds.items() if at in best]
        return all(len(two) == 2 and two[1] <= AGREE * two[0] for two in firsts)

    def gflops(self, engine: str = OURS) -> float:
        return self.flop / self.engines.get(engine, ("", math.nan))[1] / 1e9

    @property
    def percent_of_peak(self) -> float:
        return 100 * self.gflops() / self.peak_gflops if self.peak_gflops else math.nan


class Contest:
    """Engines in their processes; use it in a `with` block, which ends them."""

    def __init__(
        self, peers: Sequence[str], threads: int, dtype: str = "float32", gradient: str = ""
    ) -> None:
        self.threads, self.dtype, self.gradient = threads, dtype, gradient
        self._results: list[Result] = []
        self._workers = {engine: Worker(engine, threads) for engine in (OURS, *peers)}

    def __enter__(self) -> "Contest":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.stop()

    def machine(self) -> Any:
        """What `mlxconv.machine()` says in the process of our engine."""
        return self._workers[OURS].ask("machine")

    def run(
        self, name: str, shape: Shape, seconds: float = 2.0, rounds: int | None = None
    ) -> Result:
        """All engines on one problem for about that long, up to three times as long if rounds
        disagree, or for so many rounds; the time to prepare them, which includes compiling, is
        not counted."""
        result = Result(name, shape, self.dtype)
        live = self._prepared(result)
        order, done, start = list(self._workers), 0, time.perf_counter()

        def enough() -> bool:
            if rounds:
                return done >= rounds
            spent = time.perf_counter() - start
            patience = seconds if result.settled else (1 + EXTENSION) * seconds
            return done >= LEAST_ROUNDS and spent >= patience

        while not enough():
            for engine in order:
                if live.get(engine):
                    self._turn(result, engine, live)
            order.append(order.pop(0))
            done += 1
            if done == TRIAL_ROUNDS:
                live = _hopeful(result, live)
        self._share_peak(result)
        return result

    def _share_peak(self, result: Result) -> None:
        """All figures of a contest are in percent of one peak, the best of its rounds: that of a
        single problem may have met another program in each."""
        self._results.append(result)
        peak = max(r.peak_gflops for r in self._results)
        for r in self._results:
            r.peak_gflops = peak

    def _prepared(self, result: Result) -> dict[str, list[str]]:
        """The layouts of each engine that computed the problem, and computed it right."""
        live: dict[str, list[str]] = {}
        expected: np.ndarray | None = None
        for engine in self._workers:
            for layout, y in self._outputs(result, engine).items():
                fault = y if isinstance(y, str) else self._fault(result, engine, y, expected)
                if fault:
                    result.faults[f"{engine} {layout}"] = fault
                    continue
                live.setdefault(engine, []).append(layout)
                expected = y if expected is None else expected
        return live

    def _outputs(self, result: Result, engine: str) -> dict[str, Any]:
        try:
            request = "prepare", result.shape, self.dtype, self.gradient
            found: dict[str, Any] = self._workers[engine].ask(*request)
            return found
        except (WorkerLost, RuntimeError) as error:
            result.faults[engine] = str(error)
            return {}

    def _fault(
        self, result: Result, engine: str, y: np.ndarray, expected: np.ndarray | None
    ) -> str:
        """What is wrong with the output of an engine; ours is checked against exact sums."""
        p = result.shape.problem(self.dtype)
        shape, terms = p.output_shape, result.shape.terms
        if self.gradient:
            shape = gradients.result_shape(result.shape, self.gradient)
            terms = max(math.prod(p.output_shape[:-1]), math.prod(p.weight_shape))
        if y.shape != shape:
            return f"wrong: its output has the shape {y.shape}, not {shape}"
        if engine == OURS:
            result.error = self._error(result, y)
            terms += 1
            return f"wrong by {result.error:.2g} u sum|x||w|" if result.error > terms else ""
        if expected is None:
            return ""
        difference = float(np.abs(np.subtract(y, expected, dtype=np.float64)).max())
        tolerance = TOLERANCE[self.dtype]
        return "" if difference <= tolerance else f"wrong: differs from ours by {difference:.2g}"

    def _error(self, result: Result, y: np.ndarray) -> float:
        """That of our output, in units of u sum |products|."""
        if self.gradient:
            return gradients.largest_error(result.shape, self.dtype, self.gradient, y)
        data = result.shape.data(self.dtype)
        return largest_error(result.shape.problem(self.dtype), *data, y)

    def _turn(self, result: Result, engine: str, live: dict[str, list[str]]) -> None:
        """One burst of each layout of an engine, and of the FMA peak if it is ours."""
        worker = self._workers[engine]
        try:
            for layout, seconds in worker.ask("burst", live[engine]).items():
                result.rounds.setdefault((engine, layout), []).append(seconds)
            if engine == OURS:
                kind = "float64" if self.dtype == "float64" else "float32"
                result.peak_gflops = max(result.peak_gflops, worker.ask("peak", kind))
        except (WorkerLost, RuntimeError) as error:
            result.faults[engine] = str(error)
            live[engine] = []


def _hopeful(result: Result, live: dict[str, list[str]]) -> dict[str, list[str]]:
    """The engines and layouts that may still turn out to be the fastest; ours in any case."""
    best = result.engines
    fastest = min((seconds for _, seconds in best.values()), default=0.0)

    def hopeful(engine: str, layout: str) -> bool:
        seconds = min(result.rounds.get((engine, layout), [math.inf]))
        far = seconds > FAR_BEHIND * fastest and seconds > LONG_SECONDS
        return engine == OURS or (seconds <= HOPELESS * best[engine][1] and not far)

    return {
        engine: [layout for layout in layouts if hopeful(engine, layout)]
        for engine, layouts in live.items()
        if engine in best
    }


def geometric_mean(ratios: Sequence[float]) -> float:
    """exp(mean(log r)); nan of nothing."""
    known = [r for r in ratios if not math.isnan(r)]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else math.nan
