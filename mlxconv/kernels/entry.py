"""Where Python enters a range kernel: on the calling thread, or on Numba's.

Compiled once for each combination of types, not for each kernel, which comes as an address.
"""

from functools import lru_cache

from numba import prange

from mlxconv.kernels.geometry import Data, range_call
from mlxconv.simd.static import kernel


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
    """The same on Numba's threads, in equal chunks; scratch and runs are shared out."""
    call = range_call(elements)

    @kernel(no_cpython_wrapper=False, parallel=True)
    def on_threads(address, geometry, x, w, panels, finite, y, scratch, runs, lo, hi, chunks):
        jobs, size, length = hi - lo, scratch.size // chunks, runs.size // chunks
        for c in prange(chunks):
            own_scratch = scratch[c * size : (c + 1) * size]
            own_runs = runs[c * length : (c + 1) * length]
            data = Data(geometry, x, w, panels, finite, y, own_scratch, own_runs)
            call(address, data, lo + jobs * c // chunks, lo + jobs * (c + 1) // chunks)

    return on_threads
