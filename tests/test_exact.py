"""The exact tier: integers so small that every order of summation gives the same number.

Any variant, width, type, layout and number of threads must then equal a sum in int64 bit for bit.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxconv
from mlxconv import dispatch, processor
from mlxconv.kernels import blocking, few_positions
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of
from tests import helpers
from tests.problems import DTYPES, Case, cases, random_cases

# most seeds for the registers of this machine
SEEDS = {size: range(10 if size == processor.vector_bytes() else 2) for size in (16, 32, 64)}


def exact(case, x, w):
    """The convolution in integers, as the type of the result."""
    return helpers.reference(
        x, w, *case.parameters, dtype=np.int64 if x.dtype.kind != "c" else np.complex128
    ).astype(x.dtype)


def problem(case, dtype):
    padding = (case.padding_lo, case.padding_hi)
    q = Parameters(
        "conv_general",
        case.stride,
        padding,
        case.kernel_dilation,
        case.input_dilation,
        case.groups,
        case.flip,
    )
    return problem_of(q, case.x_shape, np.dtype(dtype), case.w_shape, np.dtype(dtype))


def able(case, dtype="float32"):
    """The variants that can compute `case`."""
    return dispatch.able(problem(case, dtype))


def test_filters_that_workers_share(monkeypatch, always_parallel):
    """Packed by the first step, for all: what only panels too large for L3 get otherwise."""
    monkeypatch.setattr(blocking, "fit_side_by_side", lambda panel_bytes: False)
    monkeypatch.setattr(few_positions, "meets_few", lambda *sizes: False)
    shared = 0
    for i, case in enumerate(random_cases(80, 0)):
        x, w = case.data(np.random.default_rng(i), DTYPES[i % len(DTYPES)])
        for variant in able(case, x.dtype):
            plan = dispatch.plan.__wrapped__(problem(case, x.dtype), variant)
            shared += getattr(getattr(plan, "schedule", None), "shared", 0) > 0
            assert np.array_equal(plan.run(x, w, 3), exact(case, x, w)), (case, variant)
    assert shared > 40


@pytest.mark.parametrize(
    ("vector_bytes", "seed"),
    [(size, seed) for size, seeds in SEEDS.items() for seed in seeds],
    indirect=["vector_bytes"],
)
def test_a_thousand_problems(vector_bytes, always_parallel, seed):
    """100 problems per seed and width, in every type, by every variant that can."""
    for i, case in enumerate(random_cases(100, seed)):
        rng = np.random.default_rng(i)
        x, w = case.data(rng, DTYPES[i % len(DTYPES)])
        expected = exact(case, x, w)
        assert_same(case.run(x, w), expected, case)
        for variant in able(case, x.dtype):
            assert_same(case.run(x, w, variant=variant), expected, (variant, case))


@pytest.mark.parametrize("seed", range(3))
def test_two_and_three_axes(always_parallel, seed):
    """Problem, plan and kernels take any number of axes."""
    for i, case in enumerate(random_cases(40, seed, ranks=(2, 3))):
        x, w = case.data(np.random.default_rng(i), DTYPES[i % 2])
        for variant in able(case, x.dtype):
            assert_same(case.run(x, w, variant=variant), exact(case, x, w), (variant, case))


@settings(max_examples=150, deadline=None)
@given(cases(ranks=(1, 1, 2, 3)), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
def test_any_problem(case, dtype, seed):
    """Hypothesis looks for the corner that the loops above miss, and shrinks what it finds."""
    x, w = case.data(np.random.default_rng(seed), dtype)
    assert_same(case.run(x, w), exact(case, x, w), case)


@pytest.mark.parametrize("variant", helpers.KERNELS)
@pytest.mark.parametrize("threads", (1, 2, 3, 4))
def test_large_enough_for_threads(variant, threads):
    """Lines of many blocks, more filters than one panel, a batch, a border: on real threads."""
    groups, filters = {"depthwise": (24, 24), "grouped": (12, 60)}.get(variant, (2, 70))
    rng = np.random.default_rng(0)
    x = helpers.integer_array(rng, (3, 700, 24), np.float32)
    w = helpers.integer_array(rng, (filters, 5, 24 // groups), "f4")
    if variant == "dot":
        x = x[:, :5]
    stream = mlxconv.Stream(threads=threads)
    y = mlxconv.conv1d(x, w, 2, 7, 3, groups, stream=stream, variant=variant)
    expected = helpers.reference(x, w, 2, 7, 7, 3, groups=groups, dtype=np.int64)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
@pytest.mark.parametrize("multiplier", (1, 2, 3))
def test_half_types_that_are_widened_once(dtype, multiplier):
    """Lines of many taps, of several filters of each channel; of one they are widened when read."""
    for K, stride, padding, dilation in [(6, 1, 2, 1), (7, 1, 0, 1), (9, 2, 4, 1), (20, 1, 30, 3)]:
        axis = ((stride,), (padding,), (padding,), (dilation,), (1,))
        case = Case((2, 150, 24), (24 * multiplier, K, 1), *axis, 24, False)
        x, w = case.data(np.random.default_rng(K), dtype)
        schedule = dispatch.plan(problem(case, x.dtype), "grouped").schedule
        once = multiplier > 1 and K >= 7
        assert (schedule.elements.window == schedule.elements.dtype) == once
        assert_same(case.run(x, w), exact(case, x, w), case)


def assert_same(y, expected, what):
    assert y.dtype == expected.dtype and y.shape == expected.shape, what
    assert np.array_equal(y, expected), what
