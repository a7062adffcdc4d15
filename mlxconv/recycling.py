"""Memory of large arrays that nobody holds any longer, for the next result or workspace.

The first write to fresh memory goes through the kernel of the operating system, which zeroes it
page by page: for 20 MB that takes as long as a convolution that fills them.  So the memory of a
large array is kept when the last one that looks at it is gone, up to KEEP_BYTES altogether, and
given to an array of about that size.

    result.base is a Lease  ->  the last view dies  ->  Lease.__del__ puts its memory into _idle
"""

import math
from typing import Any

import numpy as np

from mlxconv.arrays import aligned_empty

LEAST_BYTES = 1 << 20  # smaller memory is reused by the C library
KEEP_BYTES = 64 << 20

_idle: list[np.ndarray] = []  # the oldest first


class Lease:
    """Who owns the memory of a result while arrays look at it."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self, idle: list[np.ndarray] = _idle, most: int = KEEP_BYTES) -> None:
        idle.append(self.memory)  # each step is one of the interpreter's, hence safe anywhere
        while sum(memory.nbytes for memory in tuple(idle)) > most:
            try:
                idle.pop(0)
            except IndexError:  # another thread was faster
                return


def array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An uninitialised C-contiguous array that starts at a cache line."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return aligned_empty(size, "uint8").view(dtype).reshape(shape)
    memory = np.asarray(Lease(_memory(size)))
    return memory[:size].view(dtype).reshape(shape)


def _memory(size: int) -> np.ndarray:
    """At least `size` bytes, and less than twice as many if they are idle ones."""
    for i, memory in enumerate(tuple(_idle)):
        if size <= memory.nbytes < 2 * size:
            try:
                taken = _idle.pop(i)
            except IndexError:
                break
            if size <= taken.nbytes:  # another thread may have moved the list
                return taken
            _idle.append(taken)
    return aligned_empty(size, "uint8")
