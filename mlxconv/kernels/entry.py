"""Where Python enters a range kernel: on the calling thread, or on Numba's.

Compiled once for each combination of types, not for each kernel: those are called by the addresses
in the geometry.  Python calls the compiled code itself, not Numba's dispatcher, which would look
at the types of eight arrays in each call.

A call may have several parts, each with a geometry of its own, whose jobs are counted one part
after the other: threads are woken once for all of them.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

from numba import prange, types

from mlxconv.kernels.gathering import come, expect, leave, some_are_late
from mlxconv.kernels.geometry import COPIED, PACKED, PART, SUSPECT, Data, data_type, range_call
from mlxconv.simd.address import c_function, entry_point
from mlxconv.simd.openmp import launch_team, member_of, runtime
from mlxconv.simd.passing import Held, held
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


class Shared(NamedTuple):
    """What the workers of a launch are told: the arrays, the work, the address of what tells each
    its number."""

    data: Any
    s: int
    chunks: int
    turns: int
    lo: int
    hi: int
    member: int  # 0 where it is not asked


@lru_cache
def takes_share(elements):
    """take_share for these types."""
    take_jobs = takes(elements)

    @kernel
    def take_share(shared, c):
        """take_jobs with worker c's part of the scratch and of the runs."""
        d, chunks = shared.data, shared.chunks
        size, length = d.scratch.size // chunks // 16 * 16, d.runs.size // chunks
        scratch = d.scratch[c * size : (c + 1) * size]
        runs = d.runs[c * length : (c + 1) * length]
        own = held(Data(d.geometry, d.x, d.w, d.y, d.panels, scratch, runs, d.counters))
        take_jobs(own, shared.s, c, chunks, shared.turns, shared.lo, shared.hi)

    return take_share


@lru_cache
def worker(elements):
    """What runs jobs of step s on one of several threads of our own, called as
    worker(*arrays, s, c, chunks, turns, lo, hi) with arrays that all share."""
    take_share = takes_share(elements)

    @kernel(no_cpython_wrapper=False)
    def on_one_of_many(
        geometry, x, w, y, panels, scratch, runs, counters, s, c, chunks, turns, lo, hi
    ):
        data = Data(geometry, x, w, y, panels, scratch, runs, counters)
        take_share(held(Shared(data, s, chunks, turns, lo, hi, 0)), c)

    return entry_point(on_one_of_many, (*data_type(elements).content.types, *(types.intp,) * 6))


@lru_cache
def parallel(elements):
    """What runs the steps on the threads of Numba: called as `serial` is, with the number of
    `chunks` as well, in which scratch and runs are shared out, and that of `turns`."""
    take_share = takes_share(elements)

    @kernel(no_cpython_wrapper=False, parallel=True)
    def on_threads(
        geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi, chunks, turns
    ):
        counters[SUSPECT] = 0
        for s in range(first, last):
            top = min(hi, count_jobs(geometry, s))
            share_out(counters, chunks, lo, top)
            for c in prange(chunks):
                data = Data(geometry, x, w, y, panels, scratch, runs, counters)
                take_share(held(Shared(data, s, chunks, turns, lo, top, 0)), c)
        return counters[SUSPECT]

    return entry_point(on_threads, (*data_type(elements).content.types, *(types.intp,) * 6))


@lru_cache
def team(elements):
    """The same without prange, which waits for all threads twice in a launch: on those of OpenMP,
    0.45 us where prange takes 0.93.  Called as `parallel` is."""
    take_share = takes_share(elements)

    @kernel(no_cfunc_wrapper=False)
    def on_member(shared):
        take_share(shared, member_of(shared.member))

    @kernel(no_cpython_wrapper=False)
    def on_team(
        launch, member, work,
        geometry, x, w, y, panels, scratch, runs, counters, first, last, lo, hi, chunks, turns,
    ):  # fmt: skip
        data = Data(geometry, x, w, y, panels, scratch, runs, counters)
        counters[SUSPECT] = 0
        for s in range(first, last):
            top = min(hi, count_jobs(geometry, s))
            share_out(counters, chunks, lo, top)
            shared = held(Shared(data, s, chunks, turns, lo, top, member))
            launch_team(launch, work, shared, chunks)
        return counters[SUSPECT]

    data, number = data_type(elements).content, types.intp
    work = c_function(on_member, (Held(types.NamedTuple((data, *(number,) * 6), Shared)),))
    entry = entry_point(on_team, (*(number,) * 3, *data.types, *(number,) * 6))
    return partial(entry, *runtime(), work)
