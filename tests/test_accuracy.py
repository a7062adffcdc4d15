"""The gamma-n tier: real numbers, and the bound that no summation in that type can exceed."""

import numpy as np
import pytest

import mlxconv
from tests import helpers
from tests.problems import DTYPES, random_cases

# long windows, where errors have room to grow: (N, L, C), (O, K, C / groups), groups
LONG = (
    ((1, 300, 96), (16, 64, 96), 1),
    ((2, 900, 1), (5, 700, 1), 1),
    ((1, 400, 64), (64, 128, 1), 64),
    ((1, 200, 48), (24, 100, 12), 4),
    ((1, 125, 40), (9, 128, 40), 1),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_every_element_is_within_gamma_n(dtype, seed, always_parallel):
    for i, case in enumerate(random_cases(40, (1, seed))):
        x, w = case.data(np.random.default_rng(i), dtype, helpers.random_array)
        helpers.assert_close(case.run(x, w), x, w, *case.parameters)


@pytest.mark.parametrize("variant", helpers.KERNELS)
@pytest.mark.parametrize("dtype", ("float32", "float64", "float16"))
@pytest.mark.parametrize(("x_shape", "w_shape", "groups"), LONG)
def test_long_sums(x_shape, w_shape, groups, dtype, variant):
    helpers.skip_unless_able(variant, x_shape, w_shape, padding=3, groups=groups, dtype=dtype)
    rng = np.random.default_rng(0)
    x, w = (helpers.random_array(rng, shape, dtype) for shape in (x_shape, w_shape))
    y = mlxconv.conv1d(x, w, padding=3, groups=groups, variant=variant)
    helpers.assert_close(y, x, w, 1, 3, 3, groups=groups)


@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_float32_errors_look_random(variant):
    """An alarm well below the hard bound: rounding errors of a chain grow like sqrt(n)."""
    rng = np.random.default_rng(0)
    groups = 8 if variant == "depthwise" else 1
    L = 56 if variant == "dot" else 500
    x, w = helpers.random_array(rng, (1, L, 8), "f4"), helpers.random_array(rng, (8, 50, 8), "f4")
    w = w[..., : 8 // groups]
    y = mlxconv.conv1d(x, w, groups=groups, variant=variant)
    error = np.abs(y - helpers.reference(x, w, groups=groups))
    n = 50 * 8 // groups
    allowed = (3 + np.sqrt(n)) * 2.0**-24 * helpers.magnitude(x, w, groups=groups)
    assert (error <= allowed).all()


def test_float64_is_true_float64():
    """MLX computes float64 in float32; a difference below float32's resolution must survive."""
    x = np.array([1.0, 1.0 + 2**-40]).reshape(1, 2, 1)
    w = np.array([-1.0, 1.0]).reshape(1, 2, 1)
    assert mlxconv.conv1d(x, w).item() == 2**-40


@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_halves_are_summed_in_float32(variant):
    """4096 + 1 is no float16: a sum kept in float16 would lose every one of these ones."""
    x = np.ones((1, 2048, 1), np.float16)
    w = np.ones((helpers.least_filters(variant), 2048, 1), np.float16)
    w[:, 0] = 2048
    assert (mlxconv.conv1d(x, w, variant=variant) == 2048 + 2047 + 1).all()


@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_subnormals_are_kept(variant):
    tiny = np.float32(2.0**-149)
    x, w = np.full((1, 7, 1), tiny), np.ones((helpers.least_filters(variant), 1, 1), np.float32)
    assert (mlxconv.conv1d(x, w, variant=variant) == tiny).all()
