"""Memory that ends where an array ends, and a process to die in its stead.

An array that lies flush against pages nobody may touch turns an access one element too far into a
SIGSEGV.  The code under test therefore runs in a forked child, whose end the parent reads.  Compile
kernels before: a child need not, and after a fork had better not.
"""

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import warnings

import numpy as np
import pytest

PAGE = mmap.PAGESIZE
NO_ACCESS, READ_ONLY = 0, 1  # PROT_NONE and PROT_READ

needs_guard_pages = pytest.mark.skipif(
    sys.platform == "win32", reason="guard pages and fork need a POSIX system"
)


def guarded(values, side="end"):
    """A copy of `values` that ends ("end") or starts ("start") at a page without access.

    There is such a page on both sides; the slack on the other side of the array is 0xFF bytes,
    which as a float is NaN.
    """
    values = np.asarray(values)
    pages = max(1, -(-values.nbytes // PAGE))
    memory = np.frombuffer(mmap.mmap(-1, (pages + 2) * PAGE), np.uint8)
    memory[:] = 0xFF
    first = (pages + 1) * PAGE - values.nbytes if side == "end" else PAGE
    array = memory[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    _protect(memory.ctypes.data, PAGE, NO_ACCESS)
    _protect(memory.ctypes.data + (pages + 1) * PAGE, PAGE, NO_ACCESS)
    return array


def freeze(array):
    """Make the pages of a guarded array read-only: a write to it ends the process."""
    start = array.ctypes.data // PAGE * PAGE
    _protect(start, max(PAGE, array.ctypes.data + array.nbytes - start), READ_ONLY)


def fate(act):
    """How a child process that runs `act` ends: "ok", "SIGSEGV", "SIGBUS", or "raised"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        _act_and_exit(act)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "raised" if os.WEXITSTATUS(status) else "ok"


def _act_and_exit(act):
    """The child's whole life; none of the parent's clean-up runs in it."""
    faulthandler.disable()
    status = 1
    try:
        act()
        status = 0
    except BaseException as error:
        os.write(2, f"in the forked child: {error!r}\n".encode())
    finally:
        os._exit(status)


def _protect(address, size, access):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), access):
        raise OSError(ctypes.get_errno(), "mprotect")
