"""The words that ask the system: cores are those the system names, threads are told apart."""

import os
import sys
import threading

import numba
import numpy as np
import pytest

from mlxconv.simd.static import kernel
from mlxconv.simd.system import allow_cores, allowed_cores, core, give_way, thread

TELLS = sys.platform == "linux" and not numba.config.DISABLE_JIT
linux = pytest.mark.skipif(not TELLS, reason="only Linux tells of cores, and only compiled code")
WORDS = 20


@kernel(no_cpython_wrapper=False)
def this_core():
    return core()


@kernel(no_cpython_wrapper=False)
def this_thread():
    return thread()


@kernel(no_cpython_wrapper=False)
def let_others_run(times):
    for _ in range(times):
        give_way()


@kernel(no_cpython_wrapper=False)
def get_cores(a, i, n):
    return allowed_cores(a, i, n)


@kernel(no_cpython_wrapper=False)
def set_cores(a, i, n):
    return allow_cores(a, i, n)


def in_a_thread(function):
    """What `function` returns in a thread of its own, whose cores are nobody else's concern."""
    found = []
    runner = threading.Thread(target=lambda: found.append(function()))
    runner.start()
    runner.join()
    return found[0]


def bits(cores):
    """The set of cores as elements of an array, WORDS of them."""
    value = sum(1 << c for c in cores)
    words = [value >> 64 * i & (1 << 64) - 1 for i in range(WORDS)]
    return np.array(words, np.uint64).view(np.int64)


@linux
def test_a_thread_is_on_a_core_that_it_may_run_on():
    def pinned(to):
        os.sched_setaffinity(0, {to})
        return this_core()

    for c in os.sched_getaffinity(0):
        assert in_a_thread(lambda c=c: pinned(c)) == c


def test_threads_are_told_apart():
    assert this_thread() == this_thread()
    others = {in_a_thread(this_thread)}
    assert this_thread() not in others


def test_to_give_way_returns():
    let_others_run(10)


@linux
def test_the_cores_a_thread_may_run_on_are_those_the_system_names():
    a = np.full(2 + WORDS, -7)
    assert get_cores(a, 1, WORDS)
    assert a[[0, -1]].tolist() == [-7, -7]
    np.testing.assert_array_equal(a[1:-1], bits(os.sched_getaffinity(0)))


@linux
def test_a_thread_runs_where_it_is_allowed_to():
    def restricted(to):
        a = bits({to})
        return set_cores(a, 0, WORDS), os.sched_getaffinity(0), this_core()

    for c in os.sched_getaffinity(0):
        assert in_a_thread(lambda c=c: restricted(c)) == (True, {c}, c)


@linux
def test_no_core_at_all_is_refused():
    before = os.sched_getaffinity(0)
    assert not set_cores(np.zeros(WORDS, np.int64), 0, WORDS)
    assert os.sched_getaffinity(0) == before
