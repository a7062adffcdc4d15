"""How tiles write outputs that no cache holds.

A line of memory that is written to is read before, unless all of it is written past the caches.
Where some cache may hold it when somebody reads it, it is asked for before a tile's sums instead.

Writes past the caches are not in order with others, on x86 not even with those that release a lock;
an atomic instruction waits for them.  Each worker counts jobs by one, behind its last line too.
"""

from functools import lru_cache

from mlxconv import processor
from mlxconv.simd.static import kernel
from mlxconv.simd.words import starts_line


@lru_cache
def far_outputs(NR, STREAMS, vec):
    """are_far for tiles of NR filters, which may write past the caches if it STREAMS."""
    FAR = processor.far_bytes() // vec.dtype.itemsize

    @kernel(inline="always")
    def are_far(y, filters):
        """Whether the outputs in these Rows are to be written past the caches, and whether their
        lines are to be asked for before."""
        streams = False
        if STREAMS:
            whole = filters % NR == 0 == y.step % NR
            streams = whole and starts_line(vec, y.a, y.at)
        return streams, y.a.size > FAR and not streams

    return are_far
