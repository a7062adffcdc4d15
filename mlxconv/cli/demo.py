"""`mlxconv demo`: a real signal, four filters, one call, and a check of every output.

The signal is carbon dioxide at Mauna Loa, weekly, 1958 to 2001 (data/README.md).  The filters are
105 taps long, two years and a week, and centred:

    trend     the mean over one year of 52.1775 weeks, which no cycle of a year passes
    season    a 5-week triangle minus that mean: the cycle, freed of the trend and of single weeks
    week      the week itself minus the triangle: what is left, so that the three sum to the record
    growth    the trend half a year on minus the trend half a year ago, per year
"""

import argparse
import time
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import numpy as np

from mlxconv.api import conv1d
from mlxconv.cli.errors import Failed
from mlxconv.stream import Stream

FIRST_WEEK = np.datetime64("1958-03-29")
YEAR_WEEKS = 365.2425 / 7
HALF_YEAR_WEEKS = 26
FILTERS = ("trend", "season", "week", "growth")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TRIES = 50  # the best of so many counts: the first are slow, and other programs run too


class Record(NamedTuple):
    """The signal: one value per week, ppm."""

    weeks: np.ndarray  # datetime64[D]
    measured: np.ndarray  # nan where there is no measurement
    filled: np.ndarray  # gaps interpolated


class Result(NamedTuple):
    """The outputs of the four filters, each with the weeks they are centred on."""

    weeks: np.ndarray
    y: dict[str, np.ndarray]


class Check(NamedTuple):
    """How far the outputs are from NumPy's in float64, and how far they may be."""

    difference: float  # ppm, the largest
    bound: float  # ppm, where the difference is the largest part of it
    part: float  # of the bound, the largest


def run(options: argparse.Namespace) -> None:
    path = photograph_path = None
    if options.plot is not None:
        from mlxconv.cli import plot

        path = plot.checked(options.plot)
    if options.photograph is not None:
        from mlxconv.cli import photograph, plot

        photograph_path = plot.checked(options.photograph, "--photograph")
    record, bank = load(), filter_bank()
    x, w, stream = record.filled.astype("f4"), bank.astype("f4"), Stream(options.threads)
    y = conv1d(x[None, :, None], w[:, :, None], stream=stream)[0]
    result = result_of(record, bank, y)
    check = checked(x, w, y)
    print(story(record, bank, x, w, check))
    print(speeds(x, w, stream))
    print(tables(result))
    if path is not None:
        plot.draw(path, record, result)
        print(f"\nPicture: {path}")
    if photograph_path is not None:
        print()
        photograph.run(photograph_path, stream)
    if check.part > 1:
        raise Failed("an output is further from NumPy's than rounding explains")


def load() -> Record:
    """The record, its gaps filled by straight lines between their neighbours."""
    file = resources.files("mlxconv") / "data" / "mauna_loa_co2.csv"
    with file.open() as lines:
        measured = np.loadtxt(lines)
    weeks = FIRST_WEEK + 7 * np.arange(measured.size)
    there = np.flatnonzero(~np.isnan(measured))
    filled = np.interp(np.arange(measured.size), there, measured[there])
    return Record(weeks, measured, filled)


def filter_bank() -> np.ndarray:
    """The filters, (4, 105)."""
    ends = (YEAR_WEEKS - 51) / 2  # a year is 51 whole weeks and a part of one at either end
    year = np.concatenate([[ends], np.ones(51), [ends]]) / YEAR_WEEKS
    triangle = np.array([1, 2, 3, 2, 1]) / 9
    later_minus_earlier = np.zeros(2 * HALF_YEAR_WEEKS + 1)
    later_minus_earlier[[0, -1]] = -1, 1
    growth = np.convolve(year, later_minus_earlier) * YEAR_WEEKS / (2 * HALF_YEAR_WEEKS)
    trend, smooth, week = (_centred(f, growth.size) for f in (year, triangle, np.ones(1)))
    return np.stack([trend, smooth - trend, week - smooth, growth])


def _centred(taps: np.ndarray, size: int) -> np.ndarray:
    return np.pad(taps, (size - taps.size) // 2)


def result_of(record: Record, bank: np.ndarray, y: np.ndarray) -> Result:
    """Name the outputs, and say which week each is about: the middle of its window."""
    half = bank.shape[1] // 2
    return Result(record.weeks[half:-half], dict(zip(FILTERS, y.T, strict=True)))


def checked(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> Check:
    """Compare with NumPy in float64, output by output.

    A sum of K float32 products is off by at most K u / (1 - K u) of the sum of their magnitudes.
    """
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), w.shape[1])
    exact, magnitude = windows @ w.T.astype(np.float64), np.abs(windows) @ np.abs(w.T)
    error = w.shape[1] * np.finfo(np.float32).eps / 2
    bound = error / (1 - error) * magnitude
    difference = np.abs(y - exact)
    worst = np.unravel_index(np.argmax(difference / bound), bound.shape)
    part = float(difference[worst] / bound[worst])
    return Check(float(difference.max()), float(bound[worst]), part)


def story(record: Record, bank: np.ndarray, x: np.ndarray, w: np.ndarray, check: Check) -> str:
    """What was done, and whether it is right."""
    import mlxconv

    explained = mlxconv.explain(x[None, :, None], w[:, :, None])
    gaps = np.isnan(record.measured)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], gaps, [0]])))
    longest = int((edges[1::2] - edges[::2]).max())
    verdict = "passed" if check.part <= 1 else "FAILED"
    return f"""\
Carbon dioxide at Mauna Loa, weekly means in ppm (Keeling and Whorf, Scripps, 2004)

  record   {x.size} weeks, {record.weeks[0]} to {record.weeks[-1]}
  gaps     {gaps.sum()} weeks have no measurement, up to {longest} in a row: straight lines instead
  filters  {", ".join(FILTERS)}: {bank.shape[0]} of {bank.shape[1]} taps, in one call of conv1d
  edges    a year at either end has no whole window and no result
  kernel   {explained.variant}, tile {explained.tile}
  check    {verdict}: within {check.difference:.1g} ppm of NumPy in float64; at the worst output
           {check.part:.1%} of the {check.bound:.1g} ppm that rounding in float32 can explain"""


def speeds(x: np.ndarray, w: np.ndarray, stream: Stream) -> str:
    """Our time beside two ways to do the same in NumPy, all in float32."""
    batch, filters = x[None, :, None], w[:, :, None]
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1])
    ours = best(lambda: conv1d(batch, filters, stream=stream))
    product = best(lambda: windows @ w.T)
    convolve = best(lambda: [np.convolve(x, f[::-1], "valid") for f in w])
    flop = 2 * windows.size * len(w)
    return f"""\
  time     {ours * 1e6:,.0f} us ({flop / ours / 1e9:.1f} GFLOP/s), best of {TRIES} calls; in NumPy
           {product * 1e6:,.0f} us by sliding_window_view and matmul, and
           {convolve * 1e6:,.0f} us by np.convolve, filter by filter"""


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of TRIES runs."""
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def tables(result: Result) -> str:
    """What the filters found: decades, and the months of a mean year."""
    years = result.weeks.astype("datetime64[Y]").astype(int) + 1970
    months = result.weeks.astype("datetime64[M]").astype(int) % 12
    y = result.y
    lines = ["", "  decade   trend, ppm      growth, ppm/year   seasonal swing, ppm"]
    for decade in np.unique(years // 10 * 10):
        inside = years // 10 * 10 == decade
        if inside.sum() < 5 * YEAR_WEEKS:
            continue  # too short to stand for a decade
        trend = y["trend"][inside]
        lines.append(
            f"  {decade}s    {trend[0]:.1f} to {trend[-1]:.1f}  {y['growth'][inside].mean():12.2f}"
            f"{mean_swing(y['season'][inside], years[inside]):20.1f}"
        )
    lines += ["", "  mean seasonal cycle, ppm"]
    for month, name in enumerate(MONTHS):
        mean = float(y["season"][months == month].mean())
        bar = "#" * round(4 * abs(mean))
        left, right = (bar, "") if mean < 0 else ("", bar)
        lines.append(f"  {name}  {mean:+.1f}  {left:>14}|{right}")
    return "\n".join(lines)


def mean_swing(season: np.ndarray, years: np.ndarray) -> float:
    """Highest minus lowest of a year, the mean over the whole years."""
    whole = [season[years == year] for year in np.unique(years) if (years == year).sum() >= 52]
    return float(np.mean([one.max() - one.min() for one in whole]))
