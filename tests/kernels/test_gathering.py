"""Threads of a launch: who comes to a core that another is on moves over, but not the caller."""

import os
import threading

import numpy as np
import pytest

from mlxconv.kernels import gathering
from mlxconv.kernels.gathering import CALLER, CALLERS_CORE, CORE, GONE, MAY, NOT_COME, WORDS
from mlxconv.simd.static import kernel
from mlxconv.simd.system import core, thread
from mlxconv.workspace import STATE
from tests.simd.test_system import TELLS, bits, in_a_thread

CHUNKS = 3
UNTOUCHED = -7
several_cores = pytest.mark.skipif(
    not TELLS or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and to be told of them"
)


@kernel(no_cpython_wrapper=False)
def expect(counters, chunks):
    gathering.expect(counters, chunks)


@kernel(no_cpython_wrapper=False)
def some_are_late(counters, chunks):
    return gathering.some_are_late(counters, chunks)


@kernel(no_cpython_wrapper=False)
def come_where_caller_is(counters, c, chunks, is_caller):
    """The core that this thread came to, where the caller is said to be, and that it is on after;
    whether it is the caller."""
    counters[CALLERS_CORE], counters[CALLER] = core(), thread() if is_caller else 0
    gathering.come(counters, c, chunks)
    return counters[CALLERS_CORE], counters[(1 + c) * STATE + CORE]


@kernel(no_cpython_wrapper=False)
def come_and_leave(counters, c, chunks):
    gathering.come(counters, c, chunks)
    gathering.leave(counters, c)


def expected():
    counters = np.full((1 + CHUNKS) * STATE, UNTOUCHED)
    expect(counters, CHUNKS)
    return counters


def of_workers(counters):
    return counters[STATE + CORE :: STATE].tolist()


def test_all_are_late_until_they_have_come():
    counters = expected()
    assert of_workers(counters) == [NOT_COME] * CHUNKS
    for c in range(CHUNKS):
        assert some_are_late(counters, CHUNKS)
        come_and_leave(counters, c, CHUNKS)
    assert not some_are_late(counters, CHUNKS)
    assert of_workers(counters) == [GONE] * CHUNKS


@several_cores
def test_a_worker_moves_over_from_the_core_of_the_caller():
    def moved():
        before = os.sched_getaffinity(0)
        came_to, is_on = come_where_caller_is(expected(), 1, CHUNKS, False)
        return came_to != is_on, os.sched_getaffinity(0) == before

    tries = [in_a_thread(moved) for _ in range(20)]
    assert all(same for _, same in tries)
    assert sum(left for left, _ in tries) > 5  # the system may move it back at once


@several_cores
def test_a_worker_moves_over_from_the_core_of_another():
    """The first of the cores is taken by worker 2, and the caller is nowhere."""
    first, *others = sorted(os.sched_getaffinity(0))

    @kernel(no_cpython_wrapper=False)
    def move_over(counters, c, chunks):
        gathering.move_over(counters, c, chunks)
        return core()

    counters = expected()
    counters[CALLERS_CORE] = -1
    counters[(1 + 2) * STATE + CORE] = first
    assert in_a_thread(lambda: move_over(counters, 1, CHUNKS)) in others
    may = counters[2 * STATE + MAY :][:WORDS]
    now = counters[2 * STATE + gathering.NOW :][:WORDS]
    np.testing.assert_array_equal(may, bits([first, *others]))
    np.testing.assert_array_equal(now, bits(others))


@several_cores
def test_the_thread_of_the_caller_stays():
    counters = expected()
    come_where_caller_is(counters, 1, CHUNKS, True)
    assert set(counters[2 * STATE + MAY : 3 * STATE]) == {UNTOUCHED}


@several_cores
def test_a_worker_with_one_core_stays_and_keeps_it():
    (only, *_) = os.sched_getaffinity(0)

    def pinned():
        os.sched_setaffinity(0, {only})
        return *come_where_caller_is(expected(), 1, CHUNKS, False), os.sched_getaffinity(0)

    assert in_a_thread(pinned) == (only, only, {only})


@several_cores
def test_a_worker_on_a_core_of_its_own_stays():
    def alone():
        counters = expected()
        counters[CALLERS_CORE] = -1
        come_and_leave(counters, 1, CHUNKS)
        return set(counters[2 * STATE + MAY : 3 * STATE])

    assert in_a_thread(alone) == {UNTOUCHED}


def test_threads_meet_without_losing_one():
    """As many as there are workers, at the same time and on whatever core: none is late after."""
    for _ in range(20):
        counters = expected()
        threads = [
            threading.Thread(target=come_and_leave, args=(counters, c, CHUNKS))
            for c in range(CHUNKS)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert of_workers(counters) == [GONE] * CHUNKS
