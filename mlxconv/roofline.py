"""What this machine can do at most, measured, and what that says of a convolution.

A convolution takes no less time than its multiply-adds at the FMA peak, and no less than moving
its input, weight and output once at the bandwidth of the cache or memory that holds them; the
larger of the two is its bound (Williams, Waterman and Patterson, Roofline, CACM 52, 2009).
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

from mlxconv import cache, processor, threads, timing
from mlxconv.kernels.peak import peak_schedule

MEASURE_SECONDS = 0.2  # per figure; there are ten
LARGEST_BYTES = 512 << 20  # that measuring the memory takes
REVISION = 1  # of how it is measured: figures of another are measured anew


class Rates(NamedTuple):
    """One figure on one thread, and on all threads together."""

    one: float
    all: float

    def on(self, workers: int, of: int) -> float:
        """On `workers` threads `of` all: as many times one, but no more than all together."""
        return self.all if workers >= of else min(self.all, workers * self.one)


class Bound(NamedTuple):
    """The least time a convolution can take, and what sets it."""

    us: float
    binds: str  # "arithmetic", or the level whose bandwidth it is: "L2", "L3", "memory"


@dataclass(frozen=True)
class Machine:
    """The FMA peak and the bandwidths of a machine, measured; `str()` is a table.

    A copy counts the bytes it reads and those it writes.
    """

    processor: str
    threads: int
    """How many "all" are."""
    float32_gflops: Rates
    float64_gflops: Rates
    L2_copy_gbs: Rates
    L3_copy_gbs: Rates
    memory_copy_gbs: Rates

    def peak_gflops(self, dtype: str, workers: int) -> float:
        """The FMA peak of the arithmetic that sums `dtype`: float32 for the half types."""
        wide = np.dtype(dtype).name in ("float64", "complex128") if dtype != "bfloat16" else False
        return (self.float64_gflops if wide else self.float32_gflops).on(workers, self.threads)

    def bandwidth(self, size: int, workers: int) -> tuple[float, str]:
        """GB/s at which `size` bytes move again and again, and the name of what holds them."""
        caches, cores = processor.caches(), min(workers, self.threads)
        levels = (
            ("L2", self.L2_copy_gbs, caches.L2_bytes * cores),
            ("L3", self.L3_copy_gbs, caches.L3_bytes),
            ("memory", self.memory_copy_gbs, math.inf),
        )
        name, rates = next((name, rates) for name, rates, room in levels if size <= room)
        return rates.on(workers, self.threads), name

    def bound(
        self, flop: int, size: int, dtype: str, workers: int, peak_gflops: float | None = None
    ) -> Bound:
        """The least time for `flop` operations and `size` bytes; `peak_gflops` is the peak of
        the same minute where there is one: clocks move."""
        arithmetic = flop / (peak_gflops or self.peak_gflops(dtype, workers)) / 1e3
        gbs, level = self.bandwidth(size, workers)
        movement = size / gbs / 1e3
        return Bound(max(arithmetic, movement), level if movement > arithmetic else "arithmetic")

    def __str__(self) -> str:
        lines = [f"{self.processor}, {self.threads} thread{'s' * (self.threads != 1)}"]
        for name, rates in self._rates().items():
            what, _, unit = name.rpartition("_")
            shown = {"gflops": "GFLOP/s", "gbs": "GB/s"}[unit]
            lines.append(
                f"  {what.replace('_', ' '):<12}{rates.one:8.1f} {shown:<7} on one thread,"
                f" {rates.all:8.1f} on all"
            )
        return "\n".join(lines)

    def _rates(self) -> dict[str, Rates]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Rates)}


_found: dict[str, Machine] = {}  # of this process, by key


def machine(*, refresh: bool = False) -> Machine:
    """Measure this machine's FMA peak and bandwidths: two to three seconds, once.

    Parameters
    ----------
    refresh : bool
        Measure anew.  Figures are kept in the process, and on disk beside the compiled kernels
        for the same processor, number of threads and version; programs that ran beside the first
        measurement made them too low.

    Returns
    -------
    Machine
        Print it, or read its attributes.

    Examples
    --------
    >>> print(mlxconv.machine())  # doctest: +SKIP
    """
    known = None if refresh else measured()
    if known is None:
        known = _found[_key()] = _measure(threads.default_threads())
        _save(known)
    return known


def measured() -> Machine | None:
    """The figures of `machine()` if there are any, of this process or on disk; no measuring."""
    key = _key()
    if key not in _found and (stored := _load()) is not None:
        _found[key] = stored
    return _found.get(key)


def fma_call(dtype: str, workers: int) -> tuple[Callable[[], None], int]:
    """A call that runs at the FMA peak for about 2 ms, and its FLOP."""
    schedule = peak_schedule(dtype, 64 * workers)  # so long that the launch does not count
    nothing, factors = np.empty(0, dtype), np.array([0.999, 0.001], dtype)
    geometry, arrays = schedule.compile(), (nothing, factors, nothing)

    def call() -> None:
        threads.run(schedule, geometry, arrays, workers)

    return call, int(schedule.flop)


def fma_gflops(dtype: str, workers: int, seconds: float = MEASURE_SECONDS) -> float:
    """The FMA peak now."""
    call, flop = fma_call(dtype, workers)
    call()  # compiles
    return flop / min(timing.in_turns({"peak": call}, seconds)["peak"]) / 1e9


def copy_gbs(pair_bytes: int, workers: int, seconds: float = MEASURE_SECONDS) -> float:
    """GB/s read and written by `workers` threads, each copying to and fro between two buffers of
    its own that take `pair_bytes` together."""
    size = max(1, pair_bytes // 2 // 8)
    buffers = [(np.ones(size), np.ones(size)) for _ in range(workers)]
    copy, moved = _copier(), 2 * 2 * 8 * size
    times = max(1, (32 << 20) // moved)  # some milliseconds, so that handing it out is little
    with ThreadPoolExecutor(workers) as pool:

        def work() -> None:
            for done in [pool.submit(copy, a, b, times) for a, b in buffers]:
                done.result()

        work()
        return workers * times * moved / min(timing.in_turns({"copy": work}, seconds)["copy"]) / 1e9


@lru_cache(1)
def _copier() -> Callable[[np.ndarray, np.ndarray, int], None]:
    @numba.njit(nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
    def to_and_fro(a, b, times):  # type: ignore[no-untyped-def]
        for _ in range(times):
            for i in range(a.size):  # b[:] = a is half as fast, and does not run on two threads
                b[i] = a[i]
            for i in range(a.size):
                a[i] = b[i]

    return to_and_fro  # type: ignore[no-any-return, unused-ignore]


def _measure(workers: int) -> Machine:
    caches = processor.caches()
    L2 = caches.L2_bytes // 2
    L3 = max(2 * L2, caches.L3_bytes // 2)  # of all threads together; half, as others live there
    memory = min(LARGEST_BYTES, max(64 << 20, 4 * caches.L3_bytes))

    def copies(one: int, each: int) -> Rates:
        return Rates(copy_gbs(one, 1), copy_gbs(each, workers))

    return Machine(
        processor=processor.name(),
        threads=workers,
        float32_gflops=Rates(fma_gflops("float32", 1), fma_gflops("float32", workers)),
        float64_gflops=Rates(fma_gflops("float64", 1), fma_gflops("float64", workers)),
        L2_copy_gbs=copies(L2, L2),
        L3_copy_gbs=copies(L3, L3 // workers),
        memory_copy_gbs=copies(memory, memory // workers),
    )


def _key() -> str:
    """What figures hold for."""
    parts = (processor.name(), processor.cores(), threads.default_threads(), threads.layer())
    return repr((*parts, processor.vector_bytes(), REVISION, numba.__version__))


def _path() -> Path | None:
    folder = cache.folder()
    name = hashlib.sha256(_key().encode()).hexdigest()[:12]
    return None if folder is None else folder.parent / f"machine-{name}.json"


def _load() -> Machine | None:
    """The figures on disk, if they are there, of this machine and whole."""
    try:
        path = _path()
        content = json.loads(path.read_text()) if path else {}
        if content.pop("key") != _key():
            return None
        return Machine(**{name: _checked(value) for name, value in content.items()})
    except Exception:  # not there, cut short, of another version: measure again
        return None


def _checked(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    rates = Rates(*map(float, value))
    if not all(0 < rate < math.inf for rate in rates):
        raise ValueError(rates)
    return rates


def _save(figures: Machine) -> None:
    """Keep the figures on disk; where that cannot be, they are measured in each process."""
    with suppress(Exception):
        path = _path()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump({"key": _key(), **asdict(figures)}, file, indent=1)
        os.replace(temporary, path)
