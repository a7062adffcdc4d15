"""Where Python enters a range kernel: on the calling thread, or on Numba's.

Compiled once for each combination of types, not for each kernel: those are called by the addresses
in the geometry.  Python calls the compiled code itself, not Numba's dispatcher, which would look
at the types of eight arrays in each call.

A call may have several parts, each with a geometry of its own, whose jobs are counted one part
after the other: threads are woken once for all of them.
"""

from functools import lru_cache

from numba import prange, types

from mlxconv.kernels.gathering import come, expect, leave, some_are_late
from mlxconv.kernels.geometry import COPIED, PACKED, PART, SUSPECT, Data, data_type, range_call
from mlxconv.simd.address import entry_point
from mlxconv.simd.passing import held
from mlxconv.simd.static import kernel
from mlxconv.simd.words import fetch_add
from mlxconv.workspace import STATE

PIECES = 8  # in which a thread takes its share of the jobs of a step


@kernel
def count_jobs(geometry, s):
    """The jobs of step `s`, of all parts."""
    jobs = 0
    for i in range(geometry.size):
        jobs += geometry[i].jobs[s]
    return jobs


@lru_cache(1)
def addresses():
    """What tells where the memory of an array starts: NumPy takes a microsecond to say so."""

    @kernel(no_cpython_wrapper=False)
    def address_of(a):
        return a.ctypes.data

    return entry_point(address_of, (types.Array(types.uint8, 1, "C"),))


@lru_cache
def runs_jobs(elements):
    """run_jobs for these types."""
    call = range_call(elements)

    @kernel
    def run_jobs(data, s, lo, hi):
        """Run jobs [lo, hi) of step `s`."""
        first = 0
        for i in range(data.geometry.size):
            g, runs = data.geometry[i], data.runs
            last = first + g.jobs[s]
            if lo < last and first < hi:
                if runs[PART] != i:
                    runs[PART], runs[PACKED], runs[COPIED] = i, 0, 0
                own, arrays = data.geometry[i : i + 1], (data.x, data.w, data.y, data.panels)
                part = held(Data(own, *arrays, data.scratch, runs, data.counters))
                call(g.step[s], part, max(lo, first) - first, min(hi, last) - first)
            first = last

    return run_jobs


@lru_cache
def serial(elements):
    """What runs jobs [lo, hi) of the steps [first, last) on the calling thread, called as
    serial(*arrays, first, last, lo, hi); not 0 if a zero of the padding may have met a weight it
    must not."""
    run_jobs = runs_jobs(elements)

    @kernel(no_cpython_wrapper=False)
    def on_one_thread(geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi):
        data = held(Data(geometry, x, w, y, panels, scratch, runs, counters))
        counters[SUSPECT], runs[PART] = 0, -1
        for s in range(first, last):
            run_jobs(data, s, lo, hi)
        return counters[SUSPECT]

    return entry_point(on_one_thread, (*data_type(elements).content.types, *(types.intp,) * 4))


@kernel(no_cpython_wrapper=False)
def share_out(counters, chunks, lo, hi):
    """Give each of `chunks` workers its share of the jobs [lo, hi): a counter of those that are
    taken already.  In every call it is the same share, whose memory its core has in its caches."""
    expect(counters, chunks)
    for c in range(chunks):
        counters[(1 + c) * STATE] = lo + (hi - lo) * c // chunks


@lru_cache
def takes(elements):
    """take_jobs for these types."""
    run_jobs, STATE_, PIECES_ = runs_jobs(elements), STATE, PIECES

    @kernel
    def take_jobs(data, s, c, chunks, turns, lo, hi):
        """Run the jobs of step `s` that are worker c's share of [lo, hi), a piece of them at a
        time, then those that others have not come to: one that loses its core for a while leaves
        them to these.  Give way to those that are late up to `turns` times."""
        piece = max(1, (hi - lo) // (PIECES_ * chunks))
        data.runs[PART] = -1
        come(data.counters, c, chunks)
        for i in range(chunks):
            of = (c + i) % chunks
            end = lo + (hi - lo) * (of + 1) // chunks
            job = fetch_add(data.counters, (1 + of) * STATE_, piece)
            while job < end:
                run_jobs(data, s, job, min(job + piece, end))
                if turns > 0:
                    turns = turns - 1 if some_are_late(data.counters, chunks) else 0
                job = fetch_add(data.counters, (1 + of) * STATE_, piece)
        leave(data.counters, c)

    return take_jobs


@lru_cache
def worker(elements):
    """What runs jobs of step s on one of several threads of our own, called as
    worker(*arrays, s, c, chunks, turns, lo, hi) with counters that they share."""
    take_jobs = takes(elements)

    @kernel(no_cpython_wrapper=False)
    def on_one_of_many(
        geometry, x, w, y, panels, scratch, runs, counters, s, c, chunks, turns, lo, hi
    ):
        data = held(Data(geometry, x, w, y, panels, scratch, runs, counters))
        take_jobs(data, s, c, chunks, turns, lo, hi)

    return entry_point(on_one_of_many, (*data_type(elements).content.types, *(types.intp,) * 6))


@lru_cache
def parallel(elements):
    """What runs the steps on the threads of Numba: called as `serial` is, with the number of
    `chunks` as well, in which scratch and runs are shared out, and that of `turns`."""
    take_jobs = takes(elements)

    @kernel(no_cpython_wrapper=False, parallel=True)
    def on_threads(
        geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi, chunks, turns
    ):
        size, length = scratch.size // chunks // 16 * 16, runs.size // chunks
        counters[SUSPECT] = 0
        for s in range(first, last):
            top = min(hi, count_jobs(geometry, s))
            share_out(counters, chunks, lo, top)
            for c in prange(chunks):
                own_scratch = scratch[c * size : (c + 1) * size]
                own_runs = runs[c * length : (c + 1) * length]
                data = held(Data(geometry, x, w, y, panels, own_scratch, own_runs, counters))
                take_jobs(data, s, c, chunks, turns, lo, top)
        return counters[SUSPECT]

    return entry_point(on_threads, (*data_type(elements).content.types, *(types.intp,) * 6))
