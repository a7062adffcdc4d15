"""Rows of the input as strips and copied windows hold them: zeros where they lie outside, of the
type that tiles read, with their channels side by side.

LLVM makes vectors of few of these loops: it cannot tell that offsets are not negative, nor that one
array does not lie over another.  So they are written in vectors.
"""

from functools import lru_cache

from mlxconv.kernels.elements import converts_runs, unchanged
from mlxconv.simd.static import kernel
from mlxconv.simd.words import load, load_n, store, store_n, zero


@lru_cache
def clears(vec):
    """clear for numbers of the type of `vec`."""
    LANES = vec.lanes

    @kernel(inline="always")
    def clear(a, first, count):
        """a[first + i] = 0 for i < count."""
        whole = count // LANES * LANES
        for i in range(0, whole, LANES):
            store(zero(vec), a, first + i)
        store_n(zero(vec), a, first + whole, count - whole)

    return clear


@lru_cache
def row_copies(elements, vec):
    """copy_rows for inputs of this type."""
    ONE_BY_ONE = int(elements.one_by_one)
    widen, LANES = elements.widen if elements.converts else unchanged, vec.lanes
    clear, widen_run = clears(vec), converts_runs(widen)

    @kernel(inline="always")
    def copy_run(x, scratch, source, to, count):
        """scratch[to + i] = x[source + i] for i < count."""
        if not ONE_BY_ONE:
            for i in range(0, count - LANES + 1, LANES):
                store(load(vec, x, source + i), scratch, to + i)
            i = count // LANES * LANES
            if i < count:
                store_n(load_n(vec, x, source + i, count - i), scratch, to + i, count - i)
        else:
            widen_run(x, source, scratch, to, count)

    @kernel(inline="always")
    def copy_row(x, scratch, source, to, channels, apart):
        """scratch[to + c] = x[source + c * apart] for the channels of a row."""
        if apart == 1:
            copy_run(x, scratch, source, to, channels)
        else:
            for c in range(channels):
                scratch[to + c] = widen(x[source + c * apart])

    @kernel(inline="always")
    def copy_rows(g, x, scratch, base, first, rows, c0, at):
        """scratch[at + i*width + c] = x[base + (first+i)*x_step + channel c0 + c],
        0 outside the input."""  # to pass all of `data` would take longer than to copy a few rows
        lo = min(rows, max(0, -first))
        hi = max(lo, min(rows, g.L[2] - first))
        width, step, channels, apart = g.width, g.x_step[2], g.channels, g.x_channel
        source = base + first * step + c0 * apart
        clear(scratch, at, lo * width)
        clear(scratch, at + hi * width, (rows - hi) * width)
        if apart == 1 and width == channels and width == step:
            lo, hi = lo * width, hi * width  # rows without gaps
            copy_run(x, scratch, source + lo, at + lo, hi - lo)
        else:
            for i in range(lo, hi):
                copy_row(x, scratch, source + i * step, at + i * width, channels, apart)
                if width > channels:
                    clear(scratch, at + i * width + channels, width - channels)

    return copy_rows
