"""The promise on bits: they depend on the numbers and the problem, on nothing else.

Of every variant, over a sweep of problems: not on the number of threads, nor on whose they are, the
batch, the memory layout, the place in a line, the run, or whether a kernel was compiled or loaded.
"""

import hashlib
import itertools
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, threads
from mlxconv.arrays import aligned_empty
from mlxconv.kernels.geometry import STAYS, STAYS_ALIGNED
from tests import helpers
from tests.conftest import forget_plans
from tests.problems import Case, random_cases
from tests.test_exact import able, problem

VARIANTS = helpers.KERNELS
PROBLEMS = 15  # of each variant
FEW = 4  # of these, where all kernels are compiled several times
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@lru_cache
def sweep(variant, dtype="float32"):
    """The first random cases that the variant can compute, with one and two spatial axes."""
    cases = random_cases(200, 7, ranks=(1, 2))
    found = [case for case in cases if variant in able(case, dtype)][:PROBLEMS]
    assert found or dtype == "complex64", variant  # whose channels are pairs: none for depthwise
    return found


def data(case, dtype="float32", seed=0):
    return case.data(np.random.default_rng(seed), dtype, helpers.random_array)


def bits(y):
    return y.tobytes()


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(v, d) for v in VARIANTS for d in ("float32", "float16", "complex64") if sweep(v, d)],
)
def test_threads(variant, dtype, always_parallel):
    for case in sweep(variant, dtype):
        x, w = data(case, dtype)
        streams = [mlxconv.Stream(count) for count in (1, 2, 3, 4)]
        runs = {bits(case.run(x, w, stream=s, variant=variant)) for s in streams}
        assert len(runs) == 1, case


@pytest.fixture
def not_shared():
    """A plan of a problem too small to share, which has run on one thread."""
    x, w = np.ones((4, 60, 8), np.float32), np.ones((40, 3, 8), np.float32)
    mlxconv.conv1d(x, w)
    found = dispatch.plan(mlxconv.explain(x, w).problem)
    assert threads._chunks(found.schedule, None) == 1
    return found.problem


def test_small_problems_are_shared(not_shared, always_parallel):
    """What the tests above are for; also after others have run."""
    schedule = dispatch.plan(not_shared).schedule
    assert threads._chunks(schedule, None) == min(3, schedule.steps[-1].jobs) > 1


@each_variant
@pytest.mark.parametrize("mode", ("omp", "pool"))
def test_threading_modes(variant, mode, always_parallel, monkeypatch):
    found = {}
    for layer in ("serial", mode):
        monkeypatch.setattr(threads, "layer", lambda layer=layer: layer)
        forget_plans()
        found[layer] = [bits(case.run(*data(case), variant=variant)) for case in sweep(variant)]
    assert found["serial"] == found[mode]


@each_variant
def test_batch_position(variant):
    for case in sweep(variant):
        x, w = data(case)
        batch = np.concatenate([x[:1], x[:1] * 2, x[:1]])
        y = case.run(batch, w, variant=variant)
        alone = case.run(x[:1], w, variant=variant)[0]
        assert bits(y[0]) == bits(y[2]) == bits(alone), case


@each_variant
def test_memory_layout(variant):
    for case in sweep(variant):
        x, w = data(case)
        expected = bits(case.run(x, w, variant=variant))
        for a in layouts(x):
            assert np.array_equal(a, x) and bits(case.run(a, w, variant=variant)) == expected
        for a in layouts(w):
            assert np.array_equal(a, w) and bits(case.run(x, a, variant=variant)) == expected


def layouts(a):
    """`a` in other clothes."""
    middle = range(1, a.ndim)
    yield np.asfortranarray(a)
    yield np.ascontiguousarray(a[:, ::-1])[:, ::-1]
    yield np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    yield np.repeat(a, 2, axis=1)[:, ::2]
    yield np.repeat(a, 3, axis=-1)[..., ::3]
    wider = np.pad(a, ((0, 0), *((i, 2) for i in middle)))
    yield wider[(slice(None), *(slice(i, -2) for i in middle))]
    yield a.astype(a.dtype.newbyteorder())
    yield misaligned(a)


def misaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(a.tobytes(), np.uint8)
    return raw.view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize("channels", (64, 67))
def test_where_an_input_starts(channels):
    """Depthwise windows are read in place always, never, or where a cache line starts with them."""
    case = Case((2, 90, channels), (channels, 9, 1), (1,), (4,), (4,), (1,), (1,), channels, False)
    x, w = data(case)
    expected = bits(case.run(x, w))
    memory = aligned_empty(x.size + 1, "float32")
    for shift in (0, 1):
        moved = memory[shift:][: x.size].reshape(x.shape)
        moved[...] = x
        for stays in (0, STAYS, STAYS_ALIGNED):
            plan = dispatch.plan.__wrapped__(problem(case, "float32"), "depthwise")
            plan.schedule.geometry["stays"] = stays
            assert bits(plan.run(moved, w, 1)) == expected, (shift, stays)


@each_variant
def test_runs(variant):
    """Fresh memory each time, so that nothing may depend on what was in it."""
    for case in sweep(variant):
        x, w = data(case)
        runs = {bits(case.run(x.copy(), w.copy(), variant=variant)) for _ in range(3)}
        assert len(runs) == 1, case


LINES = [
    Case((1, 400, groups * C), (19, 4, C), (1,), (0,), (0,), (1,), (1,), groups, False)
    for groups, C in ((19, 1), (1, 7))
]


@pytest.mark.parametrize(
    ("variant", "case"), [(v, case) for case in LINES for v in able(case, "float32")]
)
def test_neighbours_in_a_line(variant, case):
    """An output has the same bits whichever tile and block it falls in."""
    x, w = data(case)
    whole = case.run(x, w, variant=variant)
    for first in (0, 1, 5, 17, 100, 389):
        part = case.run(x[:, first:], w, variant=variant)
        assert bits(part) == bits(whole[:, first:])


# --- compiled, loaded ----------------------------------------------------------------------------


def digest():
    """Of the bits of every variant on some problems; complex64 takes float32's kernels."""
    bytes_of_all = hashlib.sha256()
    for variant, dtype in itertools.product(VARIANTS, ("float32", "complex64")):
        for case in sweep(variant, dtype)[:FEW]:
            bytes_of_all.update(bits(case.run(*data(case, dtype), variant=variant)))
    return bytes_of_all.hexdigest()


def digest_of_a_process(cache):
    program = "from tests.test_determinism import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MLXCONV_CACHE_DIR": str(cache)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compiled_and_loaded_kernels(tmp_path):
    """The second process loads what the first compiled; the third has no cache."""

    def kernels():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.kernel")}

    compiled = digest_of_a_process(tmp_path)
    before = kernels()
    loaded = digest_of_a_process(tmp_path)
    assert before and kernels() == before
    assert compiled == loaded == digest_of_a_process("")
