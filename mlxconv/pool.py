"""A small pool of threads, for where Numba's would not do: see threads.py."""

import queue
import threading
from collections.abc import Callable
from typing import Any


class Pool:
    """Daemon threads that wait for work; the calling thread does its share."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[int], None], int, Any]] = queue.SimpleQueue()
        self._workers = 0

    def run(self, work: Callable[[int], None], chunks: int) -> None:
        """work(0), ..., work(chunks - 1), at the same time; the first exception is raised."""
        while self._workers < chunks - 1:
            threading.Thread(target=self._serve, daemon=True, name="mlxconv").start()
            self._workers += 1
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for c in range(1, chunks):
            self._tasks.put((work, c, done))
        errors = [_attempt(work, 0)]
        errors += [done.get() for _ in range(1, chunks)]
        for error in errors:
            if error is not None:
                raise error

    def _serve(self) -> None:
        while True:
            work, c, done = self._tasks.get()
            done.put(_attempt(work, c))


def _attempt(work: Callable[[int], None], c: int) -> BaseException | None:
    try:
        work(c)
    except BaseException as error:
        return error
    return None
