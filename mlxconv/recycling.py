"""Memory of arrays that nobody holds any longer, for the next result or workspace.

The first write to fresh memory goes through the kernel of the operating system, which zeroes it
page by page: for 20 MB that takes as long as a convolution that fills them, and the C library gives
back to it what is larger than a few pages.  So the memory of an array is kept when the last one
that looks at it is gone, up to KEEP_BYTES and KEEP altogether, and given to an array of about that
size.

    result.base is a Lease on some Memory -> the last view dies -> Lease.__del__ -> _idle
"""

import math
from typing import Any

import numpy as np

from mlxconv.arrays import aligned_empty

LEAST_BYTES = 1 << 14  # smaller memory is reused by the C library
KEEP_BYTES = 64 << 20
KEEP = 32


class Memory(np.ndarray):
    """Bytes that start at a cache line.

    Of a type of its own, since NumPy takes the last array of type ndarray for the base of a view,
    however many there are on the way to it."""


_idle: list[np.ndarray] = []  # the oldest first


class Lease(np.ndarray):
    """Who owns memory while arrays look at it: a view of all of it."""

    def __del__(self, idle: list[Any] = _idle, most: int = KEEP_BYTES, keep: int = KEEP) -> None:
        idle.append(self.base)  # each step is one of the interpreter's, hence safe anywhere
        while len(idle) > keep or sum([memory.size for memory in idle]) > most:
            try:
                del idle[0]
            except IndexError:  # another thread was faster
                return


def array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An uninitialised C-contiguous array that starts at a cache line."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return aligned_empty(size, "uint8").view(dtype).reshape(shape)
    return np.ndarray(shape, dtype, _memory(size).view(Lease))


def _memory(size: int) -> np.ndarray:
    """At least `size` bytes, and less than twice as many if they are idle ones."""
    for i, memory in enumerate(tuple(_idle)):
        if size <= memory.size < 2 * size:
            try:
                taken = _idle.pop(i)
            except IndexError:
                break
            if size <= taken.size:  # another thread may have moved the list
                return taken
            _idle.append(taken)
    return aligned_empty(size, "uint8").view(Memory)
