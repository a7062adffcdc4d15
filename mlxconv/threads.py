"""Running the jobs of a step: on one thread, on Numba's threads, or on a small pool of our own.

The three run the same range kernel over the same jobs, so their bits are equal.  What is chosen,
and why (each case has aborted or hung programs that call Numba from more than one place):

    one thread    little work; one job; threads not worth waking, see waking.py; another call of
                  ours is running in parallel; a process forked after Numba's threads started: under
                  omp a parallel region ends the child, under tbb it may wait for ever for a thread
                  that was left behind
    Numba         under its tbb layer, and under omp, whose threads are launched without prange
                  where they can be: in half the time, see entry.team
    our pool      where Numba's layer would be workqueue, which aborts the process when two Python
                  threads enter it: a range kernel releases the GIL, so Python threads do as well

MLXCONV_THREADING=auto|numba|pool|serial overrides the choice, `numba` with prange;
MLXCONV_NUM_THREADS the number.
"""

import math
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numba.np.ufunc.parallel
import numpy as np

from mlxconv import processor, workspace
from mlxconv.arrays import aligned_empty
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.entry import parallel, serial, share_out, team, worker
from mlxconv.kernels.geometry import SUSPECT
from mlxconv.kernels.schedule import Schedule
from mlxconv.pool import Pool
from mlxconv.simd.openmp import runtime
from mlxconv.waking import WORTH_WAKING, Awake, Waking

# Work below which one thread is faster, in FLOP, of which one core does 100 in a nanosecond: 10 us
# under omp and tbb with threads that spin, where a launch takes 5 us all told, and 300 us where
# they have to be woken.  `python -m benchmarks.sharing` shows where two threads begin to win.
WORTH_SHARING = {"omp": 1e6, "tbb": 1e6, "omp passive": WORTH_WAKING, "pool": WORTH_WAKING}

# A launch cannot be interrupted.  This much work per thread takes 10 ms at full speed and 0.2 s
# in the slowest kernel, then Python looks for Ctrl-C.
LAUNCH_FLOP = 1e9


# How often a thread gives way to those of its launch that are late, see gathering.py.  Under tbb
# whoever is free runs what they have not begun: beside busy programs to wait for them took 4 ms.
TURNS = {"tbb": 0}
ALL_TURNS = ALL_JOBS = 1 << 62


@lru_cache(1)
def default_threads() -> int:
    """Threads a call may use when its stream does not say: all cores this process may use,
    fewer if MLXCONV_NUM_THREADS, NUMBA_NUM_THREADS or OMP_NUM_THREADS says so.

    Read once: it takes 8 us."""
    count = processor.cores()
    for variable in ("MLXCONV_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").split(",")[0]
        if value.isdigit() and int(value) > 0:
            count = min(count, int(value))
    return count


def are_all(workers: int | None) -> bool:
    """Whether so many threads, or None, are all that a call may use."""
    return workers is None or workers == default_threads()


def run(
    schedule: Schedule,
    geometry: np.ndarray,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    workers: int | None,
    panels: np.ndarray | None = None,
) -> bool:
    """Run the steps of `schedule` one after the other on (x, w, y), on at most `workers` threads;
    whether a zero of the padding may have met a weight it must not.

    `panels` are filters that are packed already; without them the first step packs them where
    workers share them, or each worker packs its own."""
    if schedule.flop < WORTH_SHARING["omp"]:  # the least of all
        return _at_once(schedule, geometry, arrays, panels)
    chunks = _chunks(schedule, workers)
    started = chunks > 1 and _waking().wanted(schedule.flop)
    if not started or not _busy.acquire(blocking=False):
        return _launched(_on_this_thread, schedule, geometry, arrays, 1, panels)
    try:
        launch = _on_pool if layer() == "pool" else _on_numba
        suspect = _launched(launch, schedule, geometry, arrays, chunks, panels)
    finally:
        _busy.release()
    _waking().launched(started, schedule.pace)
    return suspect


def _chunks(schedule: Schedule, workers: int | None) -> int:
    """The threads that share `schedule`, of so many: 1 where that is faster."""
    chunks = min(workers or default_threads(), schedule.steps[-1].jobs)
    return chunks if chunks > 1 and schedule.flop >= _worth_sharing(layer()) else 1


@lru_cache(1)
def _waking() -> Waking:
    """Whether threads are worth waking.  Those of libgomp spin for some milliseconds after a launch
    and then sleep, where the environment does not say how they are to wait."""
    told = os.environ.get("OMP_WAIT_POLICY") or os.environ.get("GOMP_SPINCOUNT")
    return Waking() if sys.platform == "linux" and layer() == "omp" and not told else Awake()


def _at_once(
    schedule: Schedule,
    geometry: np.ndarray,
    arrays: tuple[np.ndarray, ...],
    panels: np.ndarray | None,
) -> bool:
    """All steps in one call on this thread: `_launched`, where microseconds count."""
    idle, steps = schedule.idle, len(schedule.steps)
    space = workspace.borrow(schedule, 1, idle)
    own, first = space, 0 if schedule.shared else steps - 1
    if panels is not None:
        own, first = space._replace(panels=panels), steps - 1
    suspect = schedule.on_one_thread(geometry, *arrays, *own, first, steps, 0, ALL_JOBS)
    if idle is not None:
        idle.append(space)
    return bool(suspect)


def bound(schedule: Schedule, geometry: np.ndarray) -> Callable[..., int] | None:
    """`run` on C-contiguous (x, w, y, panels, workers), with all that is the same in every call
    looked up before: 2 us less.  None where there is more than a launch."""
    end = len(schedule.steps)
    chunks = _chunks(schedule, None) if schedule.flop >= WORTH_SHARING["omp"] else 1
    idle = workspace.kept(schedule, chunks)
    plain = chunks == 1 or (chunks == numba.config.NUMBA_NUM_THREADS and layer() != "pool")
    if idle is None or not plain or schedule.flop >= LAUNCH_FLOP * chunks:
        return None
    kept, last, alone = idle, end - 1, schedule.on_one_thread
    flop, pace, waking, turns = schedule.flop, schedule.pace, _waking(), _turns()
    launch: Callable[..., int] | None = None  # loaded at the first one, which starts threads

    def on_arrays(
        x: np.ndarray,
        w: np.ndarray,
        y: np.ndarray,
        panels: np.ndarray | None = None,
        workers: int | None = None,
    ) -> int:
        fewer = workers is not None and chunks > 1 and not are_all(workers)
        if fewer and (workers != 1 or flop >= LAUNCH_FLOP):
            # what is one launch for all may be several for fewer
            return run(schedule, geometry, (x, w, y), workers, panels)
        nonlocal launch
        try:
            space = kept.pop()  # workspace.borrow, without a call of it
        except IndexError:
            space = workspace.borrow(schedule, chunks, kept)
        own, scratch, runs, counters = space
        own = own if panels is None else panels
        started = 0.0 if chunks == 1 or fewer or _forked else waking.wanted(flop)
        if not started or not _busy.acquire(False):
            suspect = alone(geometry, x, w, y, own, scratch, runs, counters, last, end, 0, ALL_JOBS)
        else:
            try:
                launch = launch or _launcher(schedule.elements)
                arrays = geometry, x, w, y, own, scratch, runs, counters
                suspect = launch(*arrays, last, end, 0, ALL_JOBS, chunks, turns)
            finally:
                _busy.release()
            waking.launched(started, pace)
        kept.append(space)
        return suspect

    return on_arrays


def pack(schedule: Schedule, geometry: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, bool]:
    """The filters `w` packed, by the first step of `schedule` alone; whether they are suspect."""
    panels = aligned_empty(schedule.panels, schedule.elements.dtype)
    space = workspace.borrow(schedule, 1, schedule.idle)._replace(panels=panels)
    x, y = (np.empty(0, schedule.elements.arrays()[name]) for name in "xy")
    suspect = schedule.on_one_thread(geometry, x, w, y, *space, 0, 1, 0, ALL_JOBS)
    return panels, bool(suspect)


def _turns() -> int:
    """How often a thread gives way, under this threading layer."""
    return TURNS.get(layer(), ALL_TURNS)


@lru_cache
def _worth_sharing(kind: str) -> float:
    """The work from which on several threads are faster, under this threading layer; whether its
    threads spin was settled when they started."""
    if kind == "omp" and os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        kind = "omp passive"
    return WORTH_SHARING.get(kind, math.inf)


def _launched(
    launch: Callable[..., int],
    schedule: Schedule,
    geometry: np.ndarray,
    arrays: tuple[np.ndarray, ...],
    chunks: int,
    panels: np.ndarray | None,
) -> bool:
    """One launch, or several where one would be too long for Ctrl-C."""
    idle = workspace.kept(schedule, chunks)
    space = workspace.borrow(schedule, chunks, idle)
    own, end = space, len(schedule.steps)
    start = 0 if schedule.shared else end - 1
    if panels is not None:
        own, start = space._replace(panels=panels), end - 1
    arguments = (geometry, *arrays, *own)
    launches = int(schedule.flop / (LAUNCH_FLOP * chunks))
    if launches < 2:
        suspect = launch(schedule.elements, arguments, start, end, 0, ALL_JOBS, chunks)
    else:
        suspect = 0
        for s in range(start, end):
            jobs = schedule.steps[s].jobs
            rounds = -(-jobs // chunks)  # in which every thread has a job
            slices = max(1, min(rounds, launches))
            for i in range(slices):
                lo, hi = (min(jobs, rounds * n // slices * chunks) for n in (i, i + 1))
                suspect |= launch(schedule.elements, arguments, s, s + 1, lo, hi, chunks)
    if idle is not None:
        idle.append(space)
    return bool(suspect)


def _on_this_thread(
    elements: Elements, arguments: Any, first: int, last: int, lo: int, hi: int, chunks: int
) -> int:
    return serial(elements)(*arguments, first, last, lo, hi)  # type: ignore[no-any-return]


@lru_cache(1)
def _has_team() -> bool:
    """Whether Numba's threads are OpenMP's, and are launched without prange."""
    by_prange = os.environ.get("MLXCONV_THREADING") == "numba"
    return layer() == "omp" and not by_prange and runtime() is not None


@lru_cache
def _launcher(elements: Elements) -> Callable[..., int]:
    """What runs steps on Numba's threads.  They are started as Numba would: it ends a forked child
    whose parent used OpenMP, and has to know."""
    numba.np.ufunc.parallel._launch_threads()
    return team(elements) if _has_team() else parallel(elements)  # type: ignore[no-any-return]


def _on_numba(
    elements: Elements, arguments: Any, first: int, last: int, lo: int, hi: int, chunks: int
) -> int:
    launch, most = _launcher(elements), numba.config.NUMBA_NUM_THREADS
    chunks = min(chunks, most)
    counts = first, last, lo, hi, chunks, _turns()
    if chunks == most or _has_team():  # there are no more that would wake up in vain
        return launch(*arguments, *counts)
    before = numba.get_num_threads()
    numba.set_num_threads(chunks)
    try:
        return launch(*arguments, *counts)
    finally:
        numba.set_num_threads(before)


def _on_pool(
    elements: Elements, arguments: Any, first: int, last: int, lo: int, hi: int, chunks: int
) -> int:
    """Each thread takes its share of the jobs of a step after the other."""
    geometry, *_, counters = arguments
    entry, turns = worker(elements), _turns()

    def work(c: int) -> None:
        entry(*arguments, s, c, chunks, turns, lo, top)

    counters[SUSPECT] = 0
    for s in range(first, last):
        top = min(hi, int(geometry["jobs"].item(s)))
        share_out(counters, chunks, lo, top)
        _pool.run(work, chunks)
    return int(counters[SUSPECT])


_busy = threading.Lock()  # held while a call of ours runs in parallel
_pool = Pool()


def _has_lost_threads() -> bool:
    """Whether Numba's threads were started in a parent of this process, which forked us without
    them.  Told by the count of threads, since nobody was there to see the fork."""
    numbas = numba.np.ufunc.parallel
    try:
        alive = len(os.listdir("/proc/self/task"))
    except OSError:  # no such system
        return False
    started = getattr(numbas, "_is_initialized", False) and numba.config.NUMBA_NUM_THREADS > 1
    return started and alive <= threading.active_count()


_forked = _has_lost_threads()  # and set in every child forked from now on


@lru_cache(1)
def _numba_layer() -> str:
    """The threading layer Numba uses, or will use once it starts its threads."""
    wanted: str = numba.config.THREADING_LAYER
    choices = {"default": ("tbb", "omp"), "safe": ("tbb",), "threadsafe": ("tbb", "omp")}
    for candidate in choices.get(wanted, (wanted,)):
        try:
            if candidate in ("omp", "tbb"):
                __import__(f"numba.np.ufunc.{candidate}pool")
                return candidate
        except ImportError:
            continue
    return "workqueue"


@lru_cache(1)
def layer() -> str:
    """How parallel work runs in this process: "omp", "tbb", "pool", or "serial".

    Read once, and in a forked child once more: it takes a microsecond."""
    mode = os.environ.get("MLXCONV_THREADING", "auto")
    if mode not in ("auto", "numba", "pool", "serial"):
        raise ValueError(f"MLXCONV_THREADING takes auto, numba, pool or serial, got {mode!r}")
    if mode in ("pool", "serial"):
        return mode
    numbas = _numba_layer()
    if numbas in ("omp", "tbb") and _forked:
        return "serial"
    return "pool" if numbas == "workqueue" else numbas


def _after_fork_in_child() -> None:
    global _busy, _pool, _forked
    _busy, _pool, _forked = threading.Lock(), Pool(), True
    layer.cache_clear()
    _waking.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
