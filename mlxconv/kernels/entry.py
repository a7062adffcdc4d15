"""Where Python enters a range kernel: on the calling thread, or on Numba's.

Compiled once for each combination of types, not for each kernel, which comes as an address.
"""

from functools import lru_cache

from numba import prange

from mlxconv.kernels.geometry import Data, range_call
from mlxconv.simd.static import kernel
from mlxconv.simd.words import fetch_add


@lru_cache
def serial(elements):
    """Jobs [lo, hi) of the range kernel at `address`, on the calling thread."""
    call = range_call(elements)

    @kernel(no_cpython_wrapper=False)
    def on_one_thread(address, geometry, x, w, panels, finite, y, scratch, runs, lo, hi):
        call(address, Data(geometry, x, w, panels, finite, y, scratch, runs), lo, hi)

    return on_one_thread


@lru_cache
def parallel(elements):
    """The same on Numba's threads; scratch and runs are shared out in equal chunks.

    Jobs are taken `piece` at a time from counter[0] on, so that a thread which loses its core for
    a while leaves its share to the others."""
    call = range_call(elements)

    @kernel
    def take_jobs(address, data, counter, hi, piece):
        lo = fetch_add(counter, 0, piece)
        while lo < hi:
            call(address, data, lo, min(lo + piece, hi))
            lo = fetch_add(counter, 0, piece)

    @kernel(no_cpython_wrapper=False, parallel=True)
    def on_threads(
        address, geometry, x, w, panels, finite, y, scratch, runs, counter, hi, piece, chunks
    ):
        size, length = scratch.size // chunks, runs.size // chunks
        for c in prange(chunks):
            own_scratch = scratch[c * size : (c + 1) * size]
            own_runs = runs[c * length : (c + 1) * length]
            data = Data(geometry, x, w, panels, finite, y, own_scratch, own_runs)
            take_jobs(address, data, counter, hi, piece)

    return on_threads
