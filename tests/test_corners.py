"""The corners: empty extents, windows as long as the input, padding that must not count."""

import numpy as np
import pytest

from mlxconv import conv1d, conv_general, processor
from tests import helpers
from tests.problems import random_cases

FLOATS = ("float16", "float32", "float64", "complex64", "complex128")


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        ((0, 5, 3), (2, 2, 3), (0, 4, 2)),  # N = 0
        ((2, 5, 0), (4, 2, 0), (2, 4, 4)),  # C_in = 0: MLX dies of SIGFPE
        ((2, 5, 3), (0, 2, 3), (2, 4, 0)),  # C_out = 0: MLX ends the process
        ((0, 5, 0), (0, 2, 0), (0, 4, 0)),
    ],
)
def test_empty_extents(x, w, y, dtype):
    result = conv1d(ones(*x, dtype=dtype), ones(*w, dtype=dtype))
    assert result.shape == y and result.dtype == dtype and not result.any()


def test_no_taps():
    with pytest.raises(ValueError, match="at least one tap"):
        conv1d(ones(1, 5, 2), ones(3, 0, 2))


def test_no_input_for_filters_that_no_cache_holds():
    filters = processor.far_bytes() // (4 * 1024) + 16
    y = conv1d(ones(0, 60, 1024), ones(filters, 1, 1024), variant="direct")
    assert y.shape == (0, 60, filters)


@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_empty_input_with_padding(variant):
    filters = helpers.least_filters(variant)
    y = conv1d(ones(2, 0, 1), ones(filters, 3, 1), padding=2, variant=variant)
    assert y.shape == (2, 2, filters) and not y.any()


@pytest.mark.parametrize(
    "arguments",
    [
        dict(K=2, padding=5),  # padding >= K
        dict(K=3, padding=20),  # padding > L
        dict(K=5),  # window = input
        dict(K=9, padding=2),  # window = padded input
        dict(K=5, stride=3),  # L_out = 1 with a stride
        dict(K=4, padding=1, stride=4),
        dict(K=2, padding=9, dilation=7),  # dilation > L
        dict(K=1, padding=3, stride=7),  # steps over all of the input
        dict(K=3, padding=(0, 4)),
        dict(K=3, padding=(4, 0), dilation=2, stride=3),
    ],
)
@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_the_formula_holds(arguments, variant):
    arguments = dict(arguments)
    K = arguments.pop("K")
    rng = np.random.default_rng(0)
    x = helpers.integer_array(rng, (2, 5, 6), np.float32)
    w = helpers.integer_array(rng, (6, K, 1), np.float32)
    helpers.skip_unless_able(variant, x, w, groups=6, **arguments)
    y = conv1d(x, w, groups=6, variant=variant, **arguments)
    pad = arguments.pop("padding", 0)
    lo, hi = pad if isinstance(pad, tuple) else (pad, pad)
    stride, dilation = arguments.get("stride", 1), arguments.get("dilation", 1)
    expected = helpers.reference(x, w, stride, lo, hi, dilation, groups=6, dtype=np.int64)
    assert np.array_equal(y, expected)


def test_window_too_long_by_less_than_the_stride():
    """Floor division decides; MLX reads the next image of the batch here."""
    with pytest.raises(ValueError, match="cannot be smaller"):
        conv1d(ones(2, 4, 1), ones(1, 5, 1), stride=3)


def test_negative_padding_crops():
    x = np.arange(10.0).reshape(1, 10, 1)
    y = conv_general(x, ones(1, 1, 1), padding=([-2], [-3]))
    assert y.ravel().tolist() == [2, 3, 4, 5, 6]


def test_negative_padding_crops_the_dilated_input():
    """JAX's rule; MLX crops the input before dilating it."""
    x = np.arange(1.0, 5.0).reshape(1, 4, 1)  # dilated: 1 0 0 2 0 0 3 0 0 4
    y = conv_general(x, ones(1, 1, 1), padding=([-1], [-2]), input_dilation=3)
    assert y.ravel().tolist() == [0, 0, 2, 0, 0, 3, 0]


@pytest.mark.parametrize("padding", [([-3], [-3]), ([-6], [0]), ([-6], [9]), ([0], [-6])])
def test_cropping_more_than_there_is(padding):
    with pytest.raises(ValueError, match="crops more than the input has"):
        conv_general(ones(1, 5, 1), ones(1, 1, 1), padding=padding)


def test_over_padded_transposed_convolution():
    """conv_transpose with s = 2, p = 1, K = 1 as the conv_general it stands for; MLX is wrong."""
    y = conv_general(ones(1, 5, 1), ones(1, 1, 1), padding=-1, input_dilation=2, flip=True)
    assert y.ravel().tolist() == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_weights_that_only_meet_padding(variant, bad):
    """0 * inf never happens: each output is as if its padding were not there."""
    rng = np.random.default_rng(0)
    for case in random_cases(60, 3):
        if variant == "depthwise":
            case = case._replace(
                x_shape=(*case.x_shape[:2], case.groups),
                w_shape=(case.groups, case.w_shape[1], 1),
            )
        if variant != "reference":
            case = case._replace(input_dilation=(1,))
        x, w = case.data(rng, "float32")
        w[:, rng.integers(w.shape[1])] = bad
        try:
            y = case.run(x, w, variant=variant)
        except ValueError:
            continue  # not this kernel's, or without input dilation the window no longer fits
        met = helpers.reference(np.ones_like(x), np.where(np.isfinite(w), 0, 1.0), *case.parameters)
        assert np.array_equal(np.isfinite(y), met == 0), case


@pytest.mark.parametrize("bad", (np.nan, np.inf))
@pytest.mark.parametrize("variant", helpers.KERNELS)
def test_bad_inputs_reach_just_the_outputs_that_meet_them(variant, bad):
    L, l = (6, 3) if variant == "dot" else (60, 33)
    x = ones(2, L, 20)
    x[1, l, 7] = bad
    filters = helpers.least_filters(variant)  # of each channel
    w = np.ones((20 * filters, 3, 1), np.float32)
    y = conv1d(x, w, padding=1, groups=20, variant=variant)
    where = np.zeros(y.shape, bool)
    where[1, l - 1 : l + 2, 7 * filters : 8 * filters] = True
    assert np.array_equal(~np.isfinite(y), where)


def test_the_cancelling_infinity():
    x = np.array([np.inf, np.inf], np.float32).reshape(1, 2, 1)
    w = np.array([1, -1], np.float32).reshape(1, 2, 1)
    assert np.isnan(conv1d(x, w)).all()


def test_negative_zero():
    """A sum of nothing but -0 is what IEEE makes of 0 + -0."""
    assert not conv1d(ones(1, 3, 1) * -0.0, ones(1, 2, 1)).any()


def test_inputs_are_not_written_to():
    rng = np.random.default_rng(0)
    x, w = helpers.random_array(rng, (2, 50, 8), "f4"), helpers.random_array(rng, (9, 3, 8), "f4")
    before = x.tobytes(), w.tobytes()
    x.flags.writeable = w.flags.writeable = False
    y = conv1d(x, w, padding=2)
    assert (x.tobytes(), w.tobytes()) == before
    assert y.flags.c_contiguous and y.flags.owndata and y.flags.writeable


def test_a_far_larger_stride_than_extent():
    y = conv1d(ones(1, 9, 2), ones(3, 2, 2), stride=10**12)
    assert y.shape == (1, 1, 3) and (y == 4).all()


def test_a_window_far_apart():
    """Taps 2**40 rows apart, of which one at a time meets the input."""
    x = np.arange(1.0, 4.0).reshape(1, 3, 1)
    w = np.array([10.0, 1.0]).reshape(1, 2, 1)
    y = conv_general(x, w, padding=([0], [2**40]), kernel_dilation=2**40)
    assert y.ravel().tolist() == [10, 20, 30]


def test_results_larger_than_memory():
    x, w = ones(1, 5, 1), ones(1, 1, 1)
    with pytest.raises(OverflowError, match="larger than any memory"):
        conv1d(x, w, padding=2**62)
    with pytest.raises(MemoryError):
        conv1d(x, w, padding=2**57)
