"""The memory a call needs beside its arrays: packed filters, and strips and runs of each worker.

Small calls share a few workspaces that are kept, since to allocate four arrays takes longer than
a small convolution.  A workspace belongs to one call at a time.  The memory of large ones is that
of results that nobody holds any longer, and goes back to them, see recycling.py.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from mlxconv import recycling

LINE = 16  # every worker's share starts at a cache line: 16 float32
STATE = 64  # elements of the counters that belong to a worker
WORKERS = 64  # at the most, in calls that share what is kept


class Needs(Protocol):
    """What a schedule says of the memory it needs, in elements: packed filters that all workers
    share, scratch and runs of each."""

    @property
    def shared(self) -> int: ...
    @property
    def scratch(self) -> int: ...
    @property
    def runs(self) -> int: ...
    @property
    def elements(self) -> Any: ...


class Workspace(NamedTuple):
    """The arrays of Data that are no arrays of the caller's."""

    panels: np.ndarray
    scratch: np.ndarray  # in equal shares for the workers
    runs: np.ndarray  # in equal shares for the workers
    counters: np.ndarray  # a flag and its caller, and the state of each worker, STATE apart


SMALL = (0, 1 << 20, 1 << 14)  # elements of panels, scratch and runs: 4 MB, as far as touched
_kept: dict[str, list[Workspace]] = {"float32": [], "float64": []}


def kept(schedule: Needs, workers: int) -> list[Workspace] | None:
    """The idle workspaces that `workers` threads may use for `schedule`; None if it needs more."""
    scratch, runs = workers * (schedule.scratch + LINE), workers * schedule.runs
    if schedule.shared or scratch > SMALL[1] or runs > SMALL[2] or workers > WORKERS:
        return None
    return _kept[schedule.elements.dtype]


def borrow(schedule: Needs, workers: int, idle: list[Workspace] | None) -> Workspace:
    """A workspace for `workers` threads, one of the `idle` ones if there are; its content is
    undefined.  Appended to `idle` it serves the next call."""
    if idle is None:
        return _new(
            schedule.shared,
            workers * (schedule.scratch + LINE),
            workers * schedule.runs,
            workers,
            schedule.elements.dtype,
        )
    try:
        return idle.pop()  # one step, hence safe between threads
    except IndexError:
        return _new(*SMALL, WORKERS, schedule.elements.dtype)


def _new(panels: int, scratch: int, runs: int, workers: int, dtype: str) -> Workspace:
    return Workspace(
        recycling.array((panels,), np.dtype(dtype)),
        recycling.array((scratch,), np.dtype(dtype)),
        np.empty(runs, np.int64),
        np.empty((1 + workers) * STATE, np.int64),
    )
