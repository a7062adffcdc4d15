"""Memory: nothing is read or written outside the arrays, and no size is beyond us."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import mlxconv
from mlxconv import workspace
from mlxconv.dispatch import plan
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of
from tests.guard import needs_guard_pages


def fuzz(cases, seed):
    arguments = ["-m", "tests.memory_fuzz", "--cases", str(cases), "--seed", str(seed)]
    return subprocess.run(
        [sys.executable, *arguments, "--verbose"],
        capture_output=True,
        text=True,
        timeout=7200,
        check=False,
    )


@needs_guard_pages
def test_guard_pages():
    run = fuzz(300, 0)
    assert run.returncode == 0, (run.stdout[-600:], run.stderr)
    assert "300 cases, none out of bounds" in run.stdout


@needs_guard_pages
@pytest.mark.slow
def test_guard_pages_nightly():
    run = fuzz(20_000, 1)
    assert run.returncode == 0, (run.stdout[-600:], run.stderr)


def scratch(N, L):
    q = Parameters("conv1d", 2, 3, 1, 1, 1, False)
    types = np.dtype("f4")
    return plan(problem_of(q, (N, L, 64), types, (64, 7, 64), types)).schedule.scratch


def test_scratch_does_not_grow_with_the_input():
    """A block is as long as L2 allows, or shorter where that shares the line more evenly, or where
    the tile has few rows: of many lines it is a line, by the tile that fits it."""
    limit = max(scratch(1000, L) for L in (*range(900, 1100), 5000))  # of one block, and of several
    assert limit * 4 < 2**20
    for L in (1000, 10**5, 10**7, 10**12):
        assert limit / 4 < scratch(1, L) <= limit * 1.1
        assert scratch(1000, L) <= limit * 1.1


def test_nothing_of_the_size_of_the_input_is_allocated():
    """No im2col, no padded copy: beside the output a call takes filters and scratch."""
    x, w = np.ones((8, 20_000, 16), np.float32), np.ones((4, 5, 16), np.float32)
    views = {"contiguous": x, "strided": x[:, ::2], "reversed": x[:, ::-1], "half": x.astype("f2")}
    for name, view in views.items():
        mlxconv.conv1d(view, w, padding=2)
        tracemalloc.start()
        y = mlxconv.conv1d(view, w, padding=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < y.nbytes + 2**20, name


def test_more_than_2_to_the_31_elements():
    """An input and an output whose offsets do not fit 32 bits; float16 makes them 5 GB each."""
    rows = 2**31 + 2**20
    if free_bytes() < 3 * 2 * rows:
        pytest.skip("needs 13 GB of free memory")
    x = np.zeros((1, rows, 1), np.float16)
    x[0, -5:, 0] = 1, 2, 3, 4, 5
    w = np.array([1, 10], np.float16).reshape(1, 2, 1)
    y = mlxconv.conv1d(x, w)
    assert y.shape == (1, rows - 1, 1)
    assert y[0, -6:, 0].tolist() == [0, 10, 21, 32, 43, 54]


def free_bytes():
    try:
        with open("/proc/meminfo") as file:
            return 1024 * int(next(line for line in file if "MemAvailable" in line).split()[1])
    except (OSError, StopIteration):
        return 0


@pytest.mark.parametrize("failing", range(6))  # the output, and four arrays of a workspace
def test_memory_error_leaves_everything_as_it_was(failing, monkeypatch):
    """Whichever allocation fails, the error comes out, and the next call is right."""
    x, w = np.ones((2, 50, 8), np.float32), np.ones((9, 3, 8), np.float32)
    expected = mlxconv.conv1d(x, w, padding=1)
    before = x.tobytes(), w.tobytes()
    monkeypatch.setattr(workspace, "_kept", {"float32": []})  # so that one is allocated
    plain, calls = np.empty, iter(range(100))

    def sometimes(*arguments, **named):
        if next(calls) == failing:
            raise MemoryError
        return plain(*arguments, **named)

    monkeypatch.setattr(np, "empty", sometimes)
    try:
        y = mlxconv.conv1d(x, w, padding=1)
    except MemoryError:
        y = expected
    monkeypatch.undo()
    assert np.array_equal(y, expected) and (x.tobytes(), w.tobytes()) == before
    assert np.array_equal(mlxconv.conv1d(x, w, padding=1), expected)
