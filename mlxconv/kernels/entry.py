"""Where Python enters a range kernel: on the calling thread, or on Numba's.

Compiled once for each combination of types, not for each kernel: those are called by the addresses
in the geometry.  Python calls the compiled code itself, not Numba's dispatcher, which would look
at the types of eight arrays in each call.
"""

from functools import lru_cache

from numba import prange, types

from mlxconv.kernels.geometry import SUSPECT, Data, data_type, range_call
from mlxconv.simd.address import entry_point
from mlxconv.simd.static import kernel
from mlxconv.simd.words import fetch_add


@lru_cache
def serial(elements):
    """What runs jobs [lo, hi) of the steps [first, last) on the calling thread, called as
    serial(*arrays, first, last, lo, hi); not 0 if a zero of the padding may have met a weight it
    must not."""
    call = range_call(elements)

    @kernel(no_cpython_wrapper=False)
    def on_one_thread(geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi):
        data, g = Data(geometry, x, w, y, panels, scratch, runs, counters), geometry[0]
        counters[SUSPECT] = 0
        for s in range(first, last):
            call(g.step[s], data, lo, min(hi, g.jobs[s]))
        return counters[SUSPECT]

    return entry_point(on_one_thread, (*data_type(elements).types, *(types.intp,) * 4))


@lru_cache
def parallel(elements):
    """The same on the threads of Numba.

    Called with the number of `chunks` as well, in which scratch and runs are shared out.

    Jobs are taken an eighth of a thread's share at a time, so that a thread which loses its core
    for a while leaves its share to the others."""
    call = range_call(elements)

    @kernel
    def take_jobs(data, s, hi, piece):
        address, lo = data.geometry[0].step[s], fetch_add(data.counters, s, piece)
        while lo < hi:
            call(address, data, lo, min(lo + piece, hi))
            lo = fetch_add(data.counters, s, piece)

    @kernel(no_cpython_wrapper=False, parallel=True)
    def on_threads(geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi, chunks):
        g = geometry[0]
        size, length = scratch.size // chunks // 16 * 16, runs.size // chunks
        counters[SUSPECT] = 0
        for s in range(first, last):
            top = min(hi, g.jobs[s])
            piece = max(1, (top - lo) // (8 * chunks))
            counters[s] = lo
            for c in prange(min(chunks, top - lo)):
                own_scratch = scratch[c * size : (c + 1) * size]
                own_runs = runs[c * length : (c + 1) * length]
                data = Data(geometry, x, w, y, panels, own_scratch, own_runs, counters)
                take_jobs(data, s, top, piece)
        return counters[SUSPECT]

    return entry_point(on_threads, (*data_type(elements).types, *(types.intp,) * 5))
