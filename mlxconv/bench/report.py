"""What a contest found, in words: a table, a summary, Markdown for the README, JSON."""

import datetime
import math
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlxconv
from mlxconv import processor
from mlxconv.bench import engines
from mlxconv.bench.contest import Result, geometric_mean
from mlxconv.bench.engines import OURS
from mlxconv.tables import Table, number

RESTLESS = 0.25  # a median that much above the best tells of other programs


@dataclass(frozen=True)
class Setting:
    """What was measured, where and when."""

    peers: tuple[str, ...]
    missing: tuple[str, ...]  # peers that are not installed
    threads: int
    dtype: str
    gradient: str = ""  # by "input" or "weight", if it is that which is computed

    def facts(self) -> dict[str, Any]:
        """Everything a figure depends on."""
        versions = {name: engines.version(name) for name in ("numpy", "numba", *self.peers)}
        return {
            "date": datetime.date.today().isoformat(),
            "processor": processor.name(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": self.threads,
            "dtype": self.dtype,
            "gradient by": self.gradient,
            "versions": {
                OURS: mlxconv.__version__,
                "python": platform.python_version(),
                **versions,
            },
            "not installed": list(self.missing),
        }

    def __str__(self) -> str:
        facts = self.facts()
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        what = f"{self.dtype}, gradient by {self.gradient}" if self.gradient else self.dtype
        missing = f"; not installed: {', '.join(self.missing)}" if self.missing else ""
        return f"{facts['processor']}, {threads}, {what}, {facts['date']}; {versions}{missing}"


def table(results: Sequence[Result], peers: Sequence[str]) -> Table:
    """us per call of each engine in its best layout; the ratio is that of the best peer to ours."""
    made = Table(("shape", OURS, "GFLOP/s", "% of peak", *peers, "ratio", "best peer"))
    made.text_columns = (0, len(made.columns) - 1)
    for result in results:
        times = [us(result, peer) for peer in peers]
        found = (number(result.gflops()), percent(result))
        style = "" if math.isnan(result.ratio) else "green" if result.ratio >= 1 else "red"
        peer = best_peer(result)
        made.add(result.name, us(result, OURS), *found, *times, ratio(result), peer, style=style)
    return made


def us(result: Result, engine: str) -> str:
    """Its best, "-" if it has none."""
    found = result.engines.get(engine)
    return number(found[1] * 1e6) if found else "-"


def percent(result: Result) -> str:
    """Of the FMA peak; one digit behind the point where it is small."""
    return f"{result.percent_of_peak:.{0 if result.percent_of_peak >= 10 else 1}f}"


def ratio(result: Result) -> str:
    return "-" if math.isnan(result.ratio) else f"{result.ratio:.2f}"


def best_peer(result: Result) -> str:
    """The fastest peer and its layout."""
    peer = result.best_peer
    return f"{peer} {result.engines[peer][0]}" if peer else "-"


def summary(results: Sequence[Result]) -> list[str]:
    """The geometric mean, every shape we lose as well as every one we win, and what went wrong."""
    compared = sorted((r for r in results if not math.isnan(r.ratio)), key=lambda r: r.ratio)
    lines = ["us per call, the best of interleaved rounds; ratio: best peer's time / ours"]
    if compared:
        mean = geometric_mean([r.ratio for r in compared])
        lines.append(f"geometric mean {mean:.2f} over {len(compared)} shapes")
        for word, chosen in (
            ("slower", [r for r in compared if r.ratio < 1]),
            ("faster", [r for r in compared if r.ratio >= 1][::-1]),
        ):
            if chosen:
                named = ", ".join(f"{r.name} {ratio(r)}" for r in chosen)
                lines.append(f"{word} than the best peer on {len(chosen)}: {named}")
    lines += _faults(results)
    restless = [r for r in results if r.unrest > RESTLESS]
    if restless:
        worst = max(restless, key=lambda r: r.unrest)
        lines.append(
            f"other programs ran: on {len(restless)} shapes our median round took over"
            f" {100 * RESTLESS:.0f} % more than the best, {100 * worst.unrest:.0f} % more on"
            f" {worst.name}"
        )
    return lines


def _faults(results: Sequence[Result]) -> list[str]:
    """What went wrong, each thing once, and where."""
    where: dict[str, list[str]] = {}
    for r in results:
        for who, why in r.faults.items():
            where.setdefault(f"{who}: {why}", []).append(r.name)
    return [f"not measured, on {', '.join(names)}: {what}" for what, names in where.items()]


def markdown(results: Sequence[Result], setting: Setting) -> str:
    """The table of the README, whole: command, machine, versions, date, figures."""
    made = Table(
        ("shape", "sizes", "us", "GFLOP/s", "% of FMA peak", "best peer", "its us", "ratio"),
        text_columns=(0, 1, 5),
    )
    for r in results:
        theirs = us(r, r.best_peer) if r.best_peer else "-"
        own = (us(r, OURS), number(r.gflops()), percent(r))
        made.add(r.name, _sizes(r), *own, best_peer(r), theirs, ratio(r))
    mean = geometric_mean([r.ratio for r in results])
    won = sum(r.ratio >= 1 for r in results)
    verdict = f"Geometric mean of the ratios {mean:.2f}, faster on {won} of {len(results)}.\n"
    return (
        f"{setting}.\nBest of interleaved rounds, each library in a process of its own and in its "
        "best layout; ratio: its time / ours.\n"
        f"{'' if math.isnan(mean) else verdict}\n{made.markdown()}\n"
    )


def _sizes(r: Result) -> str:
    """`(1, 3000, 80) * (512, 3, 80), stride 2`."""
    (x, w), usual = r.shape.arrays, {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    others = [f", {name} {n}" for name, n in r.shape.parameters.items() if n != usual[name]]
    return f"{x} * {w}{''.join(others)}"


def as_json(results: Sequence[Result], setting: Setting) -> dict[str, Any]:
    """Every round of every engine, for programs to read; seconds per call."""
    return {**setting.facts(), "results": {r.name: _record(r) for r in results}}


def _record(r: Result) -> dict[str, Any]:
    return {
        "shape": r.shape._asdict(),
        "flop": r.flop,
        "bytes": r.shape.bytes_moved(r.dtype),
        "peak_gflops": r.peak_gflops,
        "error": r.error,
        "ratio": None if math.isnan(r.ratio) else r.ratio,
        "best": {engine: {"layout": at, "seconds": t} for engine, (at, t) in r.engines.items()},
        "rounds": {" ".join(key): seconds for key, seconds in r.rounds.items()},
        "faults": r.faults,
    }


PLACE = re.compile(r"(<!-- speed table: begin[^>]*-->\n).*?(<!-- speed table: end -->)", re.DOTALL)


def inserted(text: str, block: str) -> str:
    """`text` with what stands between the markers replaced; ValueError if they are not there."""
    found, count = PLACE.subn(lambda m: f"{m[1]}\n{block}\n{m[2]}", text)
    if count != 1:
        raise ValueError(
            'it needs one line "<!-- speed table: begin -->", and after it one'
            ' "<!-- speed table: end -->"'
        )
    return found
