"""Timing on a machine that does other things too: short bursts, in turns, the best of each.

A program that comes in between can only make a burst slower, so the least of many is the figure
closest to the truth; and since contenders take turns, a clock that slows down does so for all.
"""

import time
from collections.abc import Callable, Mapping

BURST_SECONDS = 0.01  # long beside waking threads, short beside other programs' work
CHUNK_SECONDS = 1e-4  # timed at once: long beside the timer, short beside a scheduler's slice
LEAST_CHUNKS = 4  # the first is cold
LONG_SECONDS = 0.1  # a call that needs no second to be warm
MOST_CALLS = 1000  # in a chunk
LEAST_ROUNDS = 3

Call = Callable[[], object]


def once(call: Call) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def burst(call: Call, seconds: float = BURST_SECONDS) -> float:
    """Seconds per call: the best of the chunks, each a few calls, that fill `seconds`; a long call
    is its own burst.

    Chunks and not all at once: a library whose threads wait for each other needs 20 ms for a 10 us
    call whenever one of them has lost its core."""
    best, chunks, end = once(call), 1, time.perf_counter() + seconds
    while best <= LONG_SECONDS and (chunks < LEAST_CHUNKS or time.perf_counter() < end):
        count = min(MOST_CALLS, max(1, round(CHUNK_SECONDS / max(best, 1e-9))))
        start = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - start) / count)
        chunks += 1
    return best


def in_turns(
    calls: Mapping[str, Call], seconds: float = 1.0, rounds: int | None = None
) -> dict[str, list[float]]:
    """The bursts of each call, one per round, in seconds per call.

    In each round every call has its turn, and the first of one round is the last of the next.
    There are `rounds` of them, or as many as fit `seconds`, at least LEAST_ROUNDS."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names, end, done = list(calls), time.perf_counter() + seconds, 0
    while done < rounds if rounds else done < LEAST_ROUNDS or time.perf_counter() < end:
        for name in names:
            found[name].append(burst(calls[name]))
        names.append(names.pop(0))
        done += 1
    return found


def best(found: Mapping[str, list[float]]) -> dict[str, float]:
    """The best burst of each call."""
    return {name: min(seconds) for name, seconds in found.items()}
