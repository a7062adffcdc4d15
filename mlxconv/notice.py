"""One line on a terminal while kernels are compiled: what takes so long, and that it is once.

The first call of a type compiles a dozen kernels, which takes 5 s; a prompt that is silent for as
long seems to hang.  Numba tells before each compilation: the line is written when one begins and
those so far have taken longer than PATIENCE_SECONDS.  That is late by one kernel at most, 0.8 s,
and needs neither a timer nor a thread, which would have to be stopped by Ctrl-C, errors and forks.
Compilations hold Numba's compiler lock, so that one thread at a time is in here.

MLXCONV_QUIET=1 silences it.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

PATIENCE_SECONDS = 1.0

_silent = False  # once it was said, or for a command with --quiet


class Watch:
    """Hears of every compilation in the process, and adds up the time that ours take."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._depth = 0  # kernels that call kernels are compiled one within the other
        self._ours = False  # whether the outermost is a kernel of this package
        self._began = self._seconds = 0.0

    def notify(self, event: Any) -> None:
        """What Numba calls; an error here must not become one of the compilation."""
        with suppress(Exception):
            (self._begin if event.is_start else self._end)(event)

    def _begin(self, event: Any) -> None:
        now = time.perf_counter()
        if self._depth == 0:
            self._began = now
            self._ours = event.data["dispatcher"].__module__.startswith(f"{__package__}.")
        self._depth += 1
        if self._ours and self._seconds + now - self._began > PATIENCE_SECONDS:
            self._say()

    def _end(self, event: Any) -> None:
        """Also comes after errors and Ctrl-C, even those before `_begin` was through."""
        self._depth = max(0, self._depth - 1)
        if self._ours and self._depth == 0:
            self._seconds += time.perf_counter() - self._began


@lru_cache(1)
def watch() -> None:
    """Hear of compilations from now on; without Numba's events there is no notice."""
    with suppress(ImportError, AttributeError):
        from numba.core import event

        event.Listener.register(Watch)  # it is one, without Numba being loaded to define it
        event.register("numba:compile", Watch(say))


def silence() -> None:
    """Say nothing in this process."""
    global _silent
    _silent = True


def say() -> None:
    """Write the line, once in a process, where somebody sits at a terminal."""
    if _silent or os.environ.get("MLXCONV_QUIET", "0") not in ("", "0"):
        return
    if sys.stderr is None or not sys.stderr.isatty():
        return
    from mlxconv import cache

    silence()
    kept = "kept for the next time" if cache.folder() else "not kept: no cache"
    line = f"mlxconv: compiling kernels, {kept} (MLXCONV_QUIET=1 silences)"
    print(line, file=sys.stderr, flush=True)
