"""Ctrl-C that reaches Python in a callback of the compiler.

LLVM hands the machine code it made to a Python function, the first that runs after a third of the
compilation: a Ctrl-C of all that time raises its KeyboardInterrupt there.  ctypes, which made the
call, has nobody to pass an exception on to, so it tells `sys.unraisablehook` and drops it: the
interrupt is lost.  Here it is kept, and raised again where the compilation ends.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from numba.core.compiler_lock import global_compiler_lock

P = ParamSpec("P")
R = TypeVar("R")


def passed_on(compile_kernel: Callable[P, R]) -> Callable[P, R]:
    """`compile_kernel`, which afterwards raises the interrupt that one of its callbacks dropped."""

    @wraps(compile_kernel)
    def compiling(*args: P.args, **kwargs: P.kwargs) -> R:
        with _kept():
            return compile_kernel(*args, **kwargs)

    return compiling


@contextmanager
def _kept() -> Iterator[None]:
    """Keep KeyboardInterrupt, and SystemExit of a handler of SIGTERM, until the block ends."""
    dropped: list[BaseException] = []

    def keep(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Exception):
            tell(unraisable)
        else:
            dropped.append(unraisable.exc_value)

    with global_compiler_lock:  # else a thread could put back the hook of another that is through
        tell = sys.unraisablehook
        try:
            sys.unraisablehook = keep
            yield
        finally:
            sys.unraisablehook = tell
            if dropped:
                raise dropped[0]
