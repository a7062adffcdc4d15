"""Errors: raised before any work, in MLX's order and words, and clear about what would fit."""

import re

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv import conv1d, conv_general


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


x5, w2 = zeros(1, 5, 4), zeros(4, 2, 4)

VALUE_ERRORS = {
    "rank of conv1d's input": (
        lambda: conv1d(zeros(1, 5, 5, 2), zeros(3, 2, 2, 2)),
        "format [N, ..., C_in], here [N, L, C_in], but got one with 4 dimensions, of shape "
        "(1,5,5,2)",
    ),
    "rank of conv_general's input": (
        lambda: conv_general(zeros(1, 5), zeros(3, 2)),
        "[N, L, C_in] or [N, H, W, C_in] or [N, D, H, W, C_in], but got one with 2 dimensions",
    ),
    "an integer input": (
        lambda: conv1d(zeros(1, 5, 2, dtype=np.int32), zeros(3, 2, 2)),
        "[conv] Invalid input array with type int32. Convolution currently only supports "
        "floating point types (hint: input.astype(numpy.float32) converts it)",
    ),
    "a bool input": (
        lambda: conv1d(zeros(1, 5, 2, dtype=bool), zeros(3, 2, 2)),
        "[conv] Invalid input array with type bool.",
    ),
    "an input of objects": (
        lambda: conv1d(zeros(1, 5, 2, dtype=object), zeros(3, 2, 2)),
        "[conv] Invalid input array with type object.",
    ),
    "a weight of strings": (
        lambda: conv1d(x5, np.full((4, 2, 4), "a")),
        "[conv] Invalid weight array with type str",
    ),
    "rank of the weight": (
        lambda: conv1d(x5, zeros(3, 2)),
        "[conv] Invalid weight array with 2 dimensions for 1D convolution. Expected an array "
        "with 3 dimensions following the format [C_out, ..., C_in].",
    ),
    "no groups": (lambda: conv1d(x5, w2, groups=0), "number of groups must be positive. Got 0"),
    "channels by groups": (
        lambda: conv1d(x5, zeros(3, 2, 1), groups=3),
        "[conv] The input channels must be divisible by the number of groups. Got input with "
        "shape (1,5,4) and 3 groups.",
    ),
    "filters by groups": (
        lambda: conv1d(x5, zeros(3, 2, 2), groups=2),
        "[conv] If groups > 1, the output channels must be divisible by the number of groups. "
        "Got 3 output channels and 2 groups.",
    ),
    "channels": (
        lambda: conv1d(zeros(1, 5, 3), zeros(3, 2, 2)),
        "[conv] Expect the input channels in the input and weight array to match but got shapes "
        "- input: (1,5,3) and weight: (3,2,2)",
    ),
    "channels of groups": (
        lambda: conv1d(x5, zeros(4, 2, 4), groups=2),
        "Given groups=2 and weights of shape (4,2,4), expected to have 8 input channels but got "
        "4 input channels instead.",
    ),
    "dilation": (
        lambda: conv1d(x5, w2, dilation=0),
        "[conv] Kernel dilation sizes must be positive. Got kernel dilation (0).",
    ),
    "input dilation": (
        lambda: conv_general(x5, w2, input_dilation=-1),
        "[conv] Input dilation sizes must be positive. Got input dilation (-1).",
    ),
    "stride": (
        lambda: conv1d(x5, w2, stride=0),
        "[conv] Stride sizes must be positive. Got strides (0).",
    ),
    "window": (
        lambda: conv1d(zeros(1, 5, 2), zeros(3, 6, 2)),
        "[conv] Spatial dimensions of input after padding cannot be smaller than weight spatial "
        "dimensions. Got error at axis 1 for input with shape (1,5,2), padding low (0), padding "
        "high (0), and weight of shape (3,6,2).",
    ),
    "negative padding of conv1d": (
        lambda: conv1d(x5, w2, padding=-3),
        "crops more than the input has",
    ),
    "a name of padding": (lambda: conv1d(x5, w2, padding="full"), "'full'"),
    "length of a sequence": (
        lambda: conv_general(zeros(1, 5, 5, 2), zeros(3, 2, 2, 2), stride=(1, 2, 3)),
        "stride has 3 values, [1, 2, 3], but the convolution has 2 spatial axes",
    ),
    "an unknown variant": (lambda: conv1d(x5, w2, variant="fastest"), "takes one of"),
    "a variant that cannot": (
        lambda: conv1d(x5, w2, variant="depthwise"),
        "variant 'depthwise' cannot compute this problem: each filter sums over 4 channels",
    ),
}

TYPE_ERRORS = {
    "input by name": (lambda: conv1d(input=x5, weight=w2), "input"),
    "weight by name": (lambda: conv1d(x5, weight=w2), "weight"),
    "stream by position": (lambda: conv1d(x5, w2, 1, 0, 1, 1, None), "positional"),
    "a float stride": (lambda: conv1d(x5, w2, stride=1.0), "stride takes an int, got 1.0 of type"),
    "a string": (lambda: conv1d(x5, w2, dilation="1"), "dilation takes an int, got '1'"),
    "None": (lambda: conv1d(x5, w2, groups=None), "groups takes an int, got None"),
    "a sequence for conv1d": (lambda: conv1d(x5, w2, stride=(1,)), "stride takes an int"),
    "float padding": (lambda: conv1d(x5, w2, padding=0.0), "padding takes"),
    "a float in a pair": (lambda: conv1d(x5, w2, padding=(0, 1.0)), "padding"),
    "a float in a sequence": (
        lambda: conv_general(x5, w2, kernel_dilation=[1.5]),
        "kernel_dilation[0] takes an int, got 1.5",
    ),
    "flip that is no bool": (lambda: conv_general(x5, w2, flip=1), "flip takes a bool, got 1"),
    "a stream that is none": (lambda: conv1d(x5, w2, stream=1), "stream takes None, an mlxconv"),
    "a masked array": (
        lambda: conv1d(np.ma.masked_array(x5, x5 > 0), w2),
        "input is a masked array",
    ),
    "a ragged list": (lambda: conv1d([[[1.0], [1.0, 2.0]]], w2), "input must be something NumPy"),
    "a ragged weight": (lambda: conv1d(x5, [[[1.0], [1.0, 2.0]]]), "weight must be something"),
}


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_value_errors(case):
    call, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_type_errors(case):
    call, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_equal_numbers_of_other_types_are_not_confused():
    """1 == 1.0 == True; what was once computed for one must not answer for the other."""
    for good in (1, True, np.int64(1), np.uint8(1)):
        assert conv1d(x5, w2, stride=good).shape == (1, 4, 4)
        with pytest.raises(TypeError, match="stride"):
            conv1d(x5, w2, stride=1.0)
    assert conv1d(x5, w2, padding=(0, 1)).shape == (1, 5, 4)
    with pytest.raises(TypeError, match="padding"):
        conv1d(x5, w2, padding=(0, 1.0))


ORDER = (  # each call has its own fault and those of all later rows
    ("[N, L, C_in]", lambda: conv1d(zeros(1, 5, dtype=int), zeros(3, 2), stride=0, groups=0)),
    (
        "Invalid input array with type",
        lambda: conv1d(zeros(1, 5, 4, dtype=int), zeros(3, 2), stride=0, groups=0),
    ),
    ("Invalid weight array with 2", lambda: conv1d(x5, zeros(3, 2), stride=0, groups=0)),
    ("groups must be positive", lambda: conv1d(x5, zeros(3, 9, 2), stride=0, groups=0)),
    ("input channels must be divisible", lambda: conv1d(x5, zeros(4, 9, 2), stride=0, groups=3)),
    ("output channels must be", lambda: conv1d(x5, zeros(3, 9, 9), stride=0, groups=2)),
    ("expected to have 18 input", lambda: conv1d(x5, zeros(4, 9, 9), stride=0, groups=2)),
    ("Kernel dilation", lambda: conv_general(x5, zeros(4, 9, 4), 0, 0, 0, 0)),
    ("Input dilation", lambda: conv_general(x5, zeros(4, 9, 4), 0, 0, 1, 0)),
    ("Stride", lambda: conv_general(x5, zeros(4, 9, 4), 0, 0, 1, 1)),
    ("after padding cannot", lambda: conv_general(x5, zeros(4, 9, 4), 1, 0, 1, 1)),
)


@pytest.mark.parametrize("row", range(len(ORDER)))
def test_the_first_fault_is_named(row):
    message, call = ORDER[row]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_channels_first_data_is_recognised():
    with pytest.raises(ValueError, match=r"channels-first.*axis 1 has 16.*moveaxis"):
        conv1d(zeros(2, 16, 100), zeros(8, 3, 16))
    with pytest.raises(ValueError, match="channels-first"):
        conv_general(zeros(2, 16, 30, 30), zeros(8, 3, 3, 16))


def test_no_false_hint():
    with pytest.raises(ValueError, match="match") as error:
        conv1d(zeros(2, 10, 5), zeros(8, 3, 4))
    assert "channels-first" not in str(error.value)


@pytest.mark.parametrize(("name", "lo", "hi"), [("valid", 0, 0), ("causal", 4, 0), ("same", 2, 2)])
def test_names_of_padding(name, lo, hi):
    x, w = np.arange(7.0).reshape(1, 7, 1), np.arange(1.0, 4.0).reshape(1, 3, 1)
    expected = conv_general(x, w, padding=([lo], [hi]), kernel_dilation=2)
    assert np.array_equal(conv1d(x, w, padding=name, dilation=2), expected)
    assert np.array_equal(conv1d(x, w, padding=(lo, hi), dilation=2), expected)


@pytest.mark.parametrize("L", range(1, 12))
@pytest.mark.parametrize("stride", (1, 2, 3, 5))
@pytest.mark.parametrize("K", (1, 2, 5))
def test_same_padding(L, stride, K):
    """ceil(L / stride) outputs, the odd row of padding on the high side."""
    x, w = np.arange(1.0, L + 1).reshape(1, L, 1), np.arange(1.0, K + 1).reshape(1, K, 1)
    total = max(0, (-(-L // stride) - 1) * stride + K - L)
    y = conv1d(x, w, stride=stride, padding="same")
    assert y.shape[1] == -(-L // stride)
    lo, hi = total // 2, total - total // 2
    assert np.array_equal(y, conv1d(x, w, stride=stride, padding=(lo, hi)))


def test_sequences_of_conv_general():
    x, w = zeros(1, 9, 9, 2), zeros(3, 2, 2, 2)
    assert conv_general(x, w, stride=(1, 2)).shape == (1, 8, 4, 3)
    assert conv_general(x, w, stride=[2]).shape == (1, 4, 4, 3)
    assert conv_general(x, w, stride=[]).shape == (1, 8, 8, 3)
    assert conv_general(x, w, padding=(0, 1)).shape == (1, 8, 10, 3)
    assert conv_general(x, w, padding=((0, 1), (1, 0))).shape == (1, 9, 9, 3)
    assert conv_general(x, w, stride=np.array([1, 2])).shape == (1, 8, 4, 3)


@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        ("float16", "float16", "float16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "float32"),
        ("bfloat16", "float16", "float32"),
        ("float16", "float32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float16", "float64"),
        ("bfloat16", "float64", "float64"),
        ("float32", "int64", "float32"),
        ("float16", "uint8", "float16"),
        ("bfloat16", "bool", "bfloat16"),
        ("float64", "int8", "float64"),
        ("complex64", "float32", "complex64"),
        ("complex64", "float64", "complex128"),
        ("float64", "complex64", "complex128"),
        ("float16", "complex64", "complex64"),
        ("complex64", "bfloat16", "complex64"),
        ("complex128", "int32", "complex128"),
    ],
)
def test_promotion(x, w, y):
    def array(name):
        dtype = getattr(ml_dtypes, name) if name == "bfloat16" else name
        return (np.arange(12).reshape(1, 6, 2) % 2).astype(dtype)

    result = conv1d(array(x), array(w)[:, :3])
    assert result.dtype.name == y and result.dtype.isnative
    assert (result == np.full((1, 4, 1), 3)).all()


def test_complex_is_complex():
    """MLX drops the imaginary part."""
    rng = np.random.default_rng(0)
    z = rng.integers(-5, 6, (2, 1, 30, 3)) + 1j * rng.integers(-5, 6, (2, 1, 30, 3))
    x, w = z[0], z[1][:, :4]
    expected = [sum((x[0, n + k] * w[0, k]).sum() for k in range(4)) for n in range(27)]
    assert conv1d(x, w).ravel().tolist() == expected
    assert conv1d(x.real, w).ravel().real.tolist() == conv1d(x.real, w.real).ravel().tolist()
    assert conv1d(x, w.real).imag.ravel().tolist() == conv1d(x.imag, w.real).ravel().tolist()


def test_signature_is_mlx():
    import inspect

    mlx = "(input, weight, /, stride=1, padding=0, dilation=1, groups=1, *, stream=None"
    names = [
        f"{p.name}={p.default}" if p.default is not p.empty else p.name
        for p in inspect.signature(mlxconv.conv1d).parameters.values()
    ]
    assert ", ".join([*names[:2], "/", *names[2:6], "*", names[6]]) == mlx[1:]
    kinds = [p.kind.name for p in inspect.signature(mlxconv.conv1d).parameters.values()]
    assert kinds[:2] == ["POSITIONAL_ONLY"] * 2 and set(kinds[6:]) == {"KEYWORD_ONLY"}
    general = list(inspect.signature(mlxconv.conv_general).parameters)
    assert general[:9] == [
        "input",
        "weight",
        "stride",
        "padding",
        "kernel_dilation",
        "input_dilation",
        "groups",
        "flip",
        "stream",
    ]
