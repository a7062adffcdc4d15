"""What convolution means, whatever computes it: laws that hold exactly on small integers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxconv
from tests.helpers import integer_array
from tests.problems import cases

seeds = st.integers(0, 2**32 - 1)
many = settings(max_examples=60, deadline=None)


@many
@given(cases(), seeds)
def test_linear_in_the_input(case, seed):
    rng = np.random.default_rng(seed)
    x, w = case.data(rng, "float64")
    other, _ = case.data(rng, "float64")
    assert np.array_equal(case.run(3 * x - other, w), 3 * case.run(x, w) - case.run(other, w))


@many
@given(cases(), seeds)
def test_linear_in_the_weight(case, seed):
    rng = np.random.default_rng(seed)
    x, w = case.data(rng, "float64")
    _, other = case.data(rng, "float64")
    assert np.array_equal(case.run(x, 3 * w - other), 3 * case.run(x, w) - case.run(x, other))


@many
@given(cases(), seeds, st.integers(1, 5))
def test_a_delayed_input_gives_a_delayed_output(case, seed, steps):
    x, w = case.data(np.random.default_rng(seed), "float64")
    delay = steps * case.stride[0]
    more = -(-delay // case.input_dilation[0])
    if more * case.input_dilation[0] != delay or not x.shape[1] or case.padding_lo[0] < 0:
        return
    delayed = np.concatenate([np.zeros((x.shape[0], more, x.shape[2])), x], axis=1)
    y = case.run(x, w)
    assert np.array_equal(case.run(delayed, w)[:, steps : steps + y.shape[1]], y)


@many
@given(cases(), seeds)
def test_groups_are_convolutions_of_slices(case, seed):
    x, w = case.data(np.random.default_rng(seed), "float32")
    alone = case._replace(groups=1)
    parts = zip(np.split(x, case.groups, -1), np.split(w, case.groups), strict=True)
    expected = np.concatenate([alone.run(*part) for part in parts], axis=-1)
    assert np.array_equal(case.run(x, w), expected)


@many
@given(cases(), seeds)
def test_flip_turns_the_filters_round(case, seed):
    x, w = case.data(np.random.default_rng(seed), "float32")
    turned = case._replace(flip=not case.flip)
    assert np.array_equal(turned.run(x, w[:, ::-1]), case.run(x, w))


@many
@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 20), st.integers(1, 9), seeds)
def test_a_delta_copies_the_input(N, L, C, K, seed):
    x = integer_array(np.random.default_rng(seed), (N, L, C), np.float32)
    at = seed % K
    delta = np.zeros((C, K, C), np.float32)
    delta[:, at] = np.eye(C)
    assert np.array_equal(mlxconv.conv1d(x, delta, padding=(at, K - 1 - at)), x)


@many
@given(cases(), seeds)
def test_the_batch_is_convolved_image_by_image(case, seed):
    x, w = case.data(np.random.default_rng(seed), "float32")
    alone = [case.run(x[n : n + 1], w) for n in range(x.shape[0])]
    together = case.run(x, w)
    assert all(np.array_equal(together[n : n + 1], y) for n, y in enumerate(alone))
