"""Memory of arrays that nobody holds any longer, for the next result or workspace.

The first write to fresh memory goes through the kernel of the operating system, which zeroes it
page by page: for 20 MB that takes as long as a convolution that fills them, and the C library gives
back to it what is larger than a few pages.  So the memory of an array is kept when the last one
that looks at it is gone, and given to an array of about that size.

    result.base is a Lease on some Memory -> the last view dies -> its End joins a queue

No line of Python runs when an array dies: an interrupt that arrived then would be lost.

Where in memory a result starts matters as well.  A load waits for a store before it whose address
has the same last 12 bits, as if it read what that writes.  So depthwise convolutions of 512, 1024
or 1536 channels took up to twice as long: the rows they wrote lay, in a page, 48 bytes behind those
that they read next.
"""

import math
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from mlxconv.arrays import CACHE_LINE_BYTES, aligned_empty

LEAST_BYTES = 1 << 15  # smaller memory is reused by the C library
MOST_BYTES = 256 << 20  # larger memory is given back
PAGE_BYTES = 1 << 12  # of addresses whose last bits differ
BEFORE_BYTES = 1 << 9  # its input a result starts, in a page
PLACES = PAGE_BYTES - CACHE_LINE_BYTES  # the bits of a place in a page where a line starts
# Arrays kept of the sizes below each power of two from 64 KB to 8 MB, and of all larger ones.
KEPT = (8, 8, 8, 8, 4, 2, 2, 1, 1)


class Memory(np.ndarray):
    """Bytes that start at a page.

    Of a type of its own, since NumPy takes the last array of type ndarray for the base of a view,
    however many there are on the way to it."""


class Token:
    """What dies with a lease."""

    __slots__ = ("__weakref__",)


class End(weakref.ref[Token]):
    """What joins the queue of idle memory when a token dies."""

    __slots__ = ("join", "memory")
    memory: np.ndarray
    join: Callable[["End"], None]


class Lease(np.ndarray):
    """Who owns memory while arrays look at it: a view of all of it."""

    end: tuple[End, Token]  # dies from behind, so that the first is there when the second is gone


_idle: tuple[deque[End], ...] = tuple(deque(maxlen=count) for count in KEPT)


def array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An uninitialised C-contiguous array that starts at a cache line."""
    size = math.prod(shape) * dtype.itemsize
    if not LEAST_BYTES <= size <= MOST_BYTES:
        return aligned_empty(size, "uint8").view(dtype).reshape(shape)
    return _leased(shape, dtype, size, _idle[_kind(size)], 0)


def maker(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    addresses: Callable[[], Callable[[np.ndarray], int]] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """What makes such arrays for the results of an input.  All but the smallest start at a cache
    line, since vectors that straddle two are written at half the speed; and where loads might wait
    for stores, before the input in a page: what `addresses` returns tells where that starts."""
    empty, size = np.empty, math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return lambda x: empty(shape, dtype)
    if size > MOST_BYTES:
        return lambda x: array(shape, dtype)
    size, queue = size + PAGE_BYTES, _idle[_kind(size + PAGE_BYTES)]
    if addresses is None:
        return lambda x: _leased(shape, dtype, size, queue, PAGE_BYTES - BEFORE_BYTES)
    address_of = addresses()
    return lambda x: _leased(shape, dtype, size, queue, address_of(x) - BEFORE_BYTES & PLACES)


def _leased(
    shape: tuple[int, ...], dtype: np.dtype[Any], size: int, queue: deque[End], at: int
) -> np.ndarray:
    """An array that starts `at` so many bytes of `size`, of memory of the `queue` of that size if
    some is idle.

    Takes 1.1 us, half of it in NumPy."""
    end = _last(queue, size) or _last(_idle[_kind(2 * size - 1)], size)
    if end is None:
        memory: np.ndarray = aligned_empty(size, "uint8", PAGE_BYTES).view(Memory)
        join = _idle[_kind(size)].append
    else:
        memory, join = end.memory, end.join
    lease, token = memory.view(Lease), Token()
    end = End(token, join)
    end.memory, end.join, lease.end = memory, join, (end, token)
    return np.ndarray(shape, dtype, lease, at)


def _last(queue: deque[End], size: int) -> End | None:
    """Of memory of at least `size` bytes, and less than twice as many, the last that came in, which
    is in the caches."""
    for _ in range(len(queue)):
        try:
            end = queue.pop()  # each step is one of the interpreter's, hence safe anywhere
        except IndexError:  # another thread was faster
            break
        if size <= end.memory.size < 2 * size:
            return end
        queue.appendleft(end)
    return None


def _kind(size: int) -> int:
    """The queue in which memory of so many bytes waits."""
    kind = size.bit_length() - LEAST_BYTES.bit_length()
    return kind if kind < len(KEPT) else -1


def idle_bytes() -> int:
    """How much memory waits for its next use."""
    return sum(end.memory.size for queue in _idle for end in tuple(queue))


def forget() -> None:
    """Give back all memory that nobody uses."""
    for queue in _idle:
        queue.clear()
