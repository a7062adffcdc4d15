"""Teams of OpenMP's threads: each member has its number, and work is done whoever comes."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba import types

from mlxconv import threads
from mlxconv.simd import openmp
from mlxconv.simd.address import c_function
from mlxconv.simd.passing import Held, held
from mlxconv.simd.static import kernel
from mlxconv.simd.system import thread

has_runtime = pytest.mark.skipif(openmp.runtime() is None, reason="Numba has no omp layer")


class Told(NamedTuple):
    threads: Any
    member: int


@kernel(no_cfunc_wrapper=False)
def note_thread(told):
    told.threads[openmp.member_of(told.member)] = thread()


@kernel(no_cpython_wrapper=False)
def note_threads(launch, member, work, threads, count):
    openmp.launch_team(launch, work, held(Told(threads, member)), count)
    return thread()


@has_runtime
@pytest.mark.parametrize("count", [1, 2, 5])
def test_members_are_threads_of_their_own(count):
    """Each has a number, the caller 0, and no one else is there."""
    told = types.NamedTuple((types.Array(types.int64, 1, "C"), types.intp), Told)
    work = c_function(note_thread, (Held(told),))
    threads = np.zeros(8, np.int64)
    caller = note_threads(*openmp.runtime(), work, threads, count)
    assert threads[0] == caller
    assert len(set(threads[:count])) == count
    assert not threads[count:].any()


def test_without_a_runtime_prange_launches(monkeypatch):
    monkeypatch.setattr(threads, "runtime", lambda: None)
    monkeypatch.setattr(threads, "parallel", lambda elements: "prange")
    threads._has_team.cache_clear()
    assert threads._launcher(None) == "prange"
    monkeypatch.undo()
    threads._has_team.cache_clear()
    threads._launcher.cache_clear()


def test_python_alone_has_none(monkeypatch):
    openmp.runtime.cache_clear()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert openmp.runtime() is None
    monkeypatch.undo()
    openmp.runtime.cache_clear()
    for word in (lambda: openmp.launch_team(0, 0, 0, 2), lambda: openmp.member_of(0)):
        with pytest.raises(NotImplementedError, match="no team"):
            word()


FEWER = """
import numpy as np
import mlxconv
from mlxconv import threads

X = (np.arange(2 * 4000 * 64) % 11 - 5).reshape(2, 4000, 64).astype(np.float32)
W = (np.arange(64 * 3 * 64) % 7 - 3).reshape(64, 3, 64).astype(np.float32)
assert threads.layer() == "omp" and threads._has_team() and threads.default_threads() == 2
one, many = (mlxconv.conv1d(X, W, stream=mlxconv.Stream(n)) for n in (1, 2))
assert np.array_equal(one, many)
print("right")
"""


@has_runtime
@pytest.mark.skipif(threads.default_threads() < 2, reason="needs two cores")
def test_fewer_members_than_asked_for():
    """A limit of the environment leaves one thread: it does the work of both."""
    limited = {"OMP_THREAD_LIMIT": "1", "NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FEWER],
        env={**os.environ, **limited},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("right\n")
