"""What a forked process must not inherit: a lock held by a thread that it does not have.

A child has one thread, that which forked.  A lock that another one held stays locked in the child
for ever, and the child hangs at its first use.  Of those that a first call holds, a fork waits for
three, and the fourth is done without:

    no_fork              held while modules are loaded, each of which is locked
    Numba's compiler     held while a kernel is compiled
    llvmlite's library   held while any function of LLVM runs
    cached_property      that of Python 3.11 locks while it computes, which here may compile
"""

import functools
import logging  # noqa: F401  (see below)
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

no_fork = threading.RLock()
"""A fork in another thread waits while this is held."""

_held = ExitStack()  # by the fork that is under way


def _locks() -> Iterator[AbstractContextManager[Any]]:
    """In the order in which a call takes them; other versions of Numba may have other ones."""
    yield no_fork
    compiler = sys.modules.get("numba.core.compiler_lock")
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    for lock in (getattr(compiler, "global_compiler_lock", None), getattr(library, "_lock", None)):
        if isinstance(lock, AbstractContextManager):
            yield lock


def _before_fork() -> None:
    for lock in _locks():
        _held.enter_context(lock)


# What is registered last runs first.  Logging has a lock and a hook of its own, and Numba logs
# while it is loaded: that hook has to run after ours, lest a fork hold its lock and wait for ours.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_held.close, after_in_child=_held.close
    )

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property as cached_property
else:

    class cached_property(functools.cached_property):
        """That of Python 3.12, without a lock: two threads may compute a value, one is kept."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value
