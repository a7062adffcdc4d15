"""The promise on bits: they depend on the numbers and the problem, on nothing else."""

import numpy as np
import pytest

import mlxconv
from tests import helpers
from tests.problems import random_cases

CASES = random_cases(30, 7)


def bits(y):
    return y.tobytes()


def data(case, seed=0, dtype="float32"):
    return case.data(np.random.default_rng(seed), dtype, helpers.random_array)


@pytest.mark.parametrize("dtype", ("float32", "float16", "complex64"))
def test_threads(dtype, always_parallel):
    for case in CASES:
        x, w = data(case, dtype=dtype)
        runs = {bits(case.run(x, w, stream=mlxconv.Stream(t))) for t in (1, 2, 3, 4)}
        assert len(runs) == 1, case


@pytest.mark.parametrize("mode", ("serial", "pool", "numba"))
def test_threading_modes(mode, always_parallel, monkeypatch):
    for case in CASES:
        x, w = data(case)
        expected = bits(case.run(x, w))
        monkeypatch.setenv("MLXCONV_THREADING", mode)
        assert bits(case.run(x, w)) == expected, case
        monkeypatch.delenv("MLXCONV_THREADING")


def test_batch_position():
    """Few outputs of the whole batch may take another kernel than more of them."""
    for case in CASES:
        x, w = data(case)
        if case.outputs < 8:
            continue
        batch = np.concatenate([x[:1], x[:1] * 2, x[:1]])
        y = case.run(batch, w)
        assert bits(y[0]) == bits(y[2]) == bits(case.run(x[:1], w)[0]), case


@pytest.mark.parametrize("variant", mlxconv.variants())
def test_memory_layout(variant):
    rng = np.random.default_rng(0)
    x = helpers.random_array(rng, (2, 3 if variant == "dot" else 150, 24), np.float32)
    w = helpers.random_array(rng, (24, 5, 1), np.float32)
    expected = bits(mlxconv.conv1d(x, w, padding=3, groups=24, variant=variant))
    for copy in layouts(x):
        y = mlxconv.conv1d(copy, w, padding=3, groups=24, variant=variant)
        assert bits(y) == expected, copy.strides


def layouts(x):
    """`x` in other clothes."""
    yield np.asfortranarray(x)
    yield np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    yield np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    yield np.repeat(x, 2, axis=1)[:, ::2]
    yield np.repeat(x, 3, axis=2)[..., ::3]
    yield np.pad(x, ((0, 0), (1, 2), (3, 4)))[:, 1:-2, 3:-4]
    yield x.astype(x.dtype.newbyteorder())
    yield misaligned(x)


def misaligned(x):
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw.view(x.dtype).reshape(x.shape)


def test_runs():
    """Fresh memory each time, so that nothing may depend on what was in it."""
    for case in CASES:
        x, w = data(case)
        assert len({bits(case.run(x.copy(), w.copy())) for _ in range(3)}) == 1, case


def test_neighbours_in_a_line():
    """An output has the same bits whichever tile and block it falls in."""
    rng = np.random.default_rng(0)
    x = helpers.random_array(rng, (1, 400, 7), np.float32)
    w = helpers.random_array(rng, (19, 4, 7), np.float32)
    whole = mlxconv.conv1d(x, w)
    for first in (0, 1, 5, 17, 100, 389):
        part = mlxconv.conv1d(x[:, first:], w)
        assert bits(part) == bits(whole[:, first:])
