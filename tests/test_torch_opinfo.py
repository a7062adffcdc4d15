"""torch's own samples of conv1d, conv2d, conv3d and of the transposed ones, through mlxconv.

They come from the table torch tests itself with: strides, named paddings, dilations, groups,
biases, inputs without a batch, in every type.  Results are held against torch in float64.
"""

import importlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import mlxconv
from tests.helpers import accumulations, assert_within, magnitude, per_axis

torch = pytest.importorskip("torch")

NAMES = ("conv1d", "conv2d", "conv3d")
DTYPES = ("float32", "float64", "complex64", "complex128", "float16", "bfloat16")


class Sample(NamedTuple):
    """The arguments of torch.nn.functional.conv1d, conv2d or conv3d."""

    input: Any
    weight: Any
    bias: Any = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1


@pytest.fixture(scope="module")
def op_infos():
    """torch's table of operators by name; a private module of torch, with needs of its own."""
    module = "torch.testing._internal.common_methods_invocations"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = importlib.import_module(module).op_db
        except ImportError as missing:
            pytest.skip(f"{module} cannot be imported: {missing} (pip install expecttest)")
    return {op.name: op for op in table}


def samples(op_infos, name, dtype):
    info = op_infos[f"nn.functional.{name}"]
    for s in info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=False):
        yield Sample(s.input, *s.args, **s.kwargs)


def in_torch(name, sample):
    """The result in float64 or complex128, channels last, with a batch and without the bias."""
    exact = torch.complex128 if sample.input.is_complex() else torch.float64
    wide = [None if t is None else t.to(exact) for t in sample[:3]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "same" may copy the input, torch says
        y = getattr(torch.nn.functional, name)(*wide, *sample[3:])
    return np.moveaxis(batched(y, sample.weight.ndim).numpy(), 1, -1) - in_double(bias_of(sample))


def bias_of(sample):
    return np.zeros(len(sample.weight)) if sample.bias is None else sample.bias


def batched(tensor, ndim):
    return tensor if tensor.ndim == ndim else tensor[None]


def as_numpy(tensor):
    """Channels last, in NumPy's view; bfloat16, which torch does not hand over, as its bits."""
    tensor = torch.movedim(tensor, 1, -1)
    if tensor.dtype == torch.bfloat16:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def low_and_high(padding, L, K, stride, dilation):
    """Padding per axis, and at which end: torch's "same" has the odd one on the high side."""
    rank = len(L)
    if padding == "valid":
        padding = 0
    if padding != "same":
        return per_axis(padding, rank), per_axis(padding, rank)
    assert stride == (1,) * rank, "torch has no 'same' with a stride"
    total = [d * (k - 1) for d, k in zip(dilation, K, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def calls(name, sample, stride, dilation, lo, hi):
    """(function, arguments) of the public functions that can say `sample`."""
    yield mlxconv.conv_general, (stride, (lo, hi), dilation, 1, sample.groups)
    if name == "conv1d":
        padding = sample.padding if isinstance(sample.padding, str) else lo[0]
        yield mlxconv.conv1d, (stride[0], padding, dilation[0], sample.groups)
    elif function := getattr(mlxconv, name, None):
        padding = sample.padding if isinstance(sample.padding, str) else lo
        yield function, (stride, padding, dilation, sample.groups)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_samples(op_infos, name, dtype):
    seen = []
    for sample in samples(op_infos, name, dtype):
        x, w = as_numpy(batched(sample.input, sample.weight.ndim)), as_numpy(sample.weight)
        rank = w.ndim - 2
        stride, dilation = per_axis(sample.stride, rank), per_axis(sample.dilation, rank)
        lo, hi = low_and_high(sample.padding, x.shape[1:-1], w.shape[1:-1], stride, dilation)
        bias = 2 * np.abs(in_double(bias_of(sample)))  # added by torch, and taken off again
        sums = magnitude(x, w, stride, lo, hi, dilation, 1, sample.groups) + bias
        expected, n = in_torch(name, sample), accumulations(w) + 2
        for function, arguments in calls(name, sample, stride, dilation, lo, hi):
            y = function(x, w, *arguments)
            assert y.dtype == x.dtype
            what = f"{function.__name__} {x.shape} {w.shape} {arguments}"
            assert_within(y, expected, sums, n, what=what)
        seen.append(sample)
    assert_varied(seen)


def in_double(a):
    """A tensor or an array in float64 or complex128."""
    if isinstance(a, torch.Tensor):
        return a.to(torch.complex128 if a.is_complex() else torch.float64).numpy()
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def assert_varied(seen):
    """That nothing passed by running nothing."""
    assert len(seen) >= 8
    assert {sample.input.ndim - sample.weight.ndim for sample in seen} == {0, -1}
    assert {"same", "valid"} <= {s.padding for s in seen if isinstance(s.padding, str)}
    assert max(sample.groups for sample in seen) > 1
    assert any(sample.bias is not None for sample in seen)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_need_no_conversion(op_infos, name):
    """Tensors themselves, channels moved last without a copy, give what their arrays give."""
    sample = next(samples(op_infos, name, "float32"))
    x, w = (torch.movedim(t, 1, -1) for t in (sample.input, sample.weight))
    y = mlxconv.conv_general(x, w)
    assert type(y) is np.ndarray
    assert np.array_equal(y, mlxconv.conv_general(x.numpy().copy(), w.numpy().copy()))


class TransposedSample(NamedTuple):
    """The arguments of torch.nn.functional.conv_transpose1d, conv_transpose2d, ..."""

    input: Any
    weight: Any
    bias: Any = None
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    groups: int = 1
    dilation: Any = 1


@pytest.mark.parametrize("dtype", ("float32", "complex64", "bfloat16"))
@pytest.mark.parametrize("rank", (1, 2, 3))
def test_transposed_samples(op_infos, rank, dtype):
    name, seen = f"conv_transpose{rank}d", []
    info = op_infos[f"nn.functional.{name}"]
    for s in info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=False):
        sample = TransposedSample(s.input, *s.args, **s.kwargs)
        g, C = sample.groups, sample.weight.shape[0]
        w = sample.weight.reshape(g, C // g, *sample.weight.shape[1:]).transpose(1, 2)
        x, w = as_numpy(batched(sample.input, rank + 2)), as_numpy(w.flatten(0, 1))
        stride, padding, extra, dilation = (
            per_axis(value, rank)
            for value in (sample.stride, sample.padding, sample.output_padding, sample.dilation)
        )
        call = (stride, padding, dilation, extra)
        call = call if rank > 1 else tuple(v[0] for v in call)
        y = getattr(mlxconv, name)(x, w, *call, g)
        window = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[1:-1], strict=True)]
        lo = tuple(k - 1 - p for k, p in zip(window, padding, strict=True))
        hi = tuple(n + e for n, e in zip(lo, extra, strict=True))
        bias = np.zeros(len(w)) if sample.bias is None else in_double(sample.bias)
        sums = magnitude(x, w, 1, lo, hi, dilation, stride, g, True) + 2 * np.abs(bias)
        expected = np.moveaxis(in_torch_transposed(name, sample), 1, -1) - bias
        assert y.dtype == x.dtype
        assert_within(y, expected, sums, accumulations(w) + 2, what=f"{name} {sample[3:]}")
        seen.append(sample)
    assert len(seen) >= 5 and max(sample.groups for sample in seen) > 1


def in_torch_transposed(name, sample):
    exact = torch.complex128 if sample.input.is_complex() else torch.float64
    wide = [None if t is None else t.to(exact) for t in sample[:3]]
    y = getattr(torch.nn.functional, name)(*wide, *sample[3:])
    return batched(y, sample.weight.ndim).numpy()
