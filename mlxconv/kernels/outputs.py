"""How tiles write outputs that no cache holds.

A line of memory that is written to is read before, unless all of it is written past the caches.
Where some cache may hold it when somebody reads it, it is asked for instead, a tile ahead, which
takes 0.5 to 0.9 of the time of asking before a tile's own sums.  Rows that do not fill lines are
kept until they do.

Writes past the caches are not in order with others, on x86 not even with those that release a lock;
an atomic instruction waits for them.  Each worker counts jobs by one, behind its last line too.
"""

from functools import lru_cache

from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES
from mlxconv.kernels.window import Rows
from mlxconv.simd.static import kernel
from mlxconv.simd.words import load, load_n, starts_line, store_n, stream


@lru_cache
def far_outputs(NR, STREAMS, vec):
    """are_far for tiles of NR filters, which may write past the caches if it STREAMS."""
    FAR = processor.far_bytes() // vec.dtype.itemsize

    @kernel(inline="always")
    def are_far(y, filters):
        """Whether the outputs in these Rows are to be written past the caches, and whether their
        lines are to be asked for."""
        streams = False
        if STREAMS:
            whole = filters % NR == 0 == y.step % NR
            streams = whole and starts_line(vec, y.a, y.at)
        return streams, y.a.size > FAR and not streams

    return are_far


AT_ONCE = 4  # vectors of filters, after which no more lines are written than stores may wait


@lru_cache
def computes_rows(vec, compute):
    """compute_rows for outputs of the type of `vec`, by way of this `compute`."""
    LANES, AT_ONCE_, MOST = vec.lanes, AT_ONCE, CACHE_LINE_BYTES // vec.dtype.itemsize

    @kernel
    def compute_rows(data, x, runs, panel, y, positions, filters):
        """`compute` for rows that lie one behind the other.  Those of a tile are kept in L1; while
        the next are computed, the lines of memory that they fill are written past the caches, a few
        at a time, and what does not fill one waits for the next."""
        g = data.geometry[0]
        MR, kept, room = g.rows, data.scratch, MOST + g.rows * filters
        piece = max(1, AT_ONCE_ * LANES // g.NR) * g.NR
        source, to, count, head = g.block_at, y.at, 0, 0  # what waits, and where it belongs
        while head < MOST and not starts_line(vec, y.a, to + head):
            head += 1
        for m in range(0, positions + MR, MR):
            new, written = min(MR, positions - m), 0  # the last rows are computed behind others
            x_m = Rows(x.a, x.at + (m + new - MR) * x.step, x.step)
            at = g.block_at + MOST + m // MR % 2 * room
            while m == MR and written < head:
                v = load_n(vec, kept, source + written, head - written)
                store_n(v, y.a, to + written, head - written)
                written = min(head, written + LANES)
            for o in range(0, filters, piece):
                some = min(piece, filters - o)
                if new > 0:
                    panel_o = Rows(panel.a, panel.at + o // g.NR * panel.step, panel.step)
                    compute(data, x_m, runs, panel_o, Rows(kept, at + o, filters), MR, some)
                until = min(count - LANES + 1, count * (o + some) // filters)
                while written < until:
                    stream(load(vec, kept, source + written), y.a, to + written)
                    written += LANES
            left = count - written
            v, to = load_n(vec, kept, source + written, left), to + written
            source, count = at + (MR - new) * filters - left, left + new * filters
            if new > 0:
                store_n(v, kept, source, left)
            else:
                store_n(v, y.a, to, left)

    return compute_rows
