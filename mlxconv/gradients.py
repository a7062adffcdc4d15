"""Gradients of convolutions, which are convolutions, on the same road.

With y = conv(x, w) and the gradient dy of a number by y, its gradients by x and w are

    dx[n, r, c] = sum over o, l, k that meet r of dy[n, l, o] * w[o, k, c]
    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - lo + k*dilation, c]

The first is a transposed convolution of dy.  The second is a convolution of x with dy as filters,
where images take the place of channels, channels that of images, and stride and dilation change
places; its long windows are cut into pieces whose sums are added in a fixed order.
"""

import math
from typing import Any

import numpy as np

from mlxconv.arrays import as_array, dtype_named, result_dtype
from mlxconv.dispatch import plan
from mlxconv.parameters import Ints, Parameters
from mlxconv.problem import Problem, problem_of
from mlxconv.stream import resolve


def conv_general_input_grad(
    cotangent: Any,
    weight: Any,
    input_shape: Ints,
    /,
    stride: Any = 1,
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: Any = None,
) -> np.ndarray:
    r"""Gradient of `conv_general` by its input.

    .. math:: \bar x[n, r, c] = \sum_{l, k, o:\; l \cdot stride - lo + k \cdot dilation =
              r \cdot input\_dilation} \bar y[n, l, o] \; w[o, k, c]

    Parameters
    ----------
    cotangent : array_like, shape of the convolution's result
        The gradient by the result; real.
    weight : array_like
        The filters of the convolution.
    input_shape : tuple of int
        The shape of the convolution's input.
    stride, padding, kernel_dilation, input_dilation, groups, flip, stream
        Those of the convolution, see `conv_general`.

    Returns
    -------
    numpy.ndarray, shape `input_shape`
        Of the promoted type of cotangent and weight.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`; also if the shapes do not belong together.
    """
    q = (stride, padding, kernel_dilation, input_dilation, groups, flip)
    return input_grad(Parameters("conv_general", *q), cotangent, weight, input_shape, stream)


def conv_general_weight_grad(
    input: Any,
    cotangent: Any,
    weight_shape: Ints,
    /,
    stride: Any = 1,
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: Any = None,
) -> np.ndarray:
    r"""Gradient of `conv_general` by its filters.

    .. math:: \bar w[o, k, c] = \sum_n \sum_l \bar y[n, l, o] \;
              \tilde x[n, l \cdot stride - lo + k \cdot dilation, c_0(o) + c]

    Parameters
    ----------
    input : array_like
        The input of the convolution; real.
    cotangent : array_like, shape of the convolution's result
        The gradient by the result.
    weight_shape : tuple of int
        The shape of the convolution's filters.
    stride, padding, kernel_dilation, input_dilation, groups, flip, stream
        Those of the convolution, see `conv_general`.

    Returns
    -------
    numpy.ndarray, shape `weight_shape`
        Of the promoted type of input and cotangent; sums of half types are formed in float32.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`; also if the shapes do not belong together.
    """
    q = (stride, padding, kernel_dilation, input_dilation, groups, flip)
    return weight_grad(Parameters("conv_general", *q), input, cotangent, weight_shape, stream)


def input_grad(
    q: Parameters, cotangent: Any, weight: Any, input_shape: Any, stream: Any = None
) -> np.ndarray:
    """The gradient by the input of the convolution with parameters `q`."""
    dy, w = _real("cotangent", cotangent), _real("weight", weight)
    p = problem_of(q, _shape("input_shape", input_shape), dy.dtype, w.shape, w.dtype)
    _check_cotangent(p, dy)
    groups, rank = p.groups, len(p.L)
    transposed = w.reshape(groups, p.O // groups, *p.K, p.C // groups).swapaxes(1, -1)
    transposed = transposed.reshape(p.C, *p.K, p.O // groups)
    lo = tuple(n - 1 - lo for n, lo in zip(p.window, p.padding_lo, strict=True))
    gradient = p._replace(
        L=p.output_L,
        C=p.O,
        O=p.C,
        stride=p.input_dilation,
        input_dilation=p.stride,
        padding_lo=lo,
        padding_hi=(0,) * rank,
        flip=not p.flip,
    )
    return _run(_with_outputs(gradient, p.L), dy, transposed, stream)


def weight_grad(
    q: Parameters, input: Any, cotangent: Any, weight_shape: Any, stream: Any = None
) -> np.ndarray:
    """The gradient by the filters of the convolution with parameters `q`."""
    x, dy = _real("input", input), _real("cotangent", cotangent)
    p = problem_of(q, x.shape, x.dtype, _shape("weight_shape", weight_shape), dy.dtype)
    _check_cotangent(p, dy)
    dtype = np.result_type(dtype_named(p.dtype), np.float32)  # half types are rounded at the end
    groups, channels = p.groups, p.C // p.groups
    total = np.zeros((channels, *p.K, p.O), dtype)
    images, rows = _piece(p)
    for n in range(0, p.N, images):
        part = x[n : n + images]
        part = part.reshape(len(part), *p.L, groups, channels)
        part = _contiguous(np.moveaxis(np.moveaxis(part, -1, 0), 1, -1), dtype)
        part = part.reshape(channels, *p.L, groups * part.shape[-1])
        for l in range(0, p.output_L[0], rows):
            filters = np.moveaxis(dy[n : n + images, l : l + rows], 0, -1)
            filters = _contiguous(np.moveaxis(filters, -2, 0), dtype)
            gradient = p._replace(
                N=channels,
                C=part.shape[-1],
                K=filters.shape[1:-1],
                stride=p.kernel_dilation,
                kernel_dilation=p.stride,
                padding_lo=(p.padding_lo[0] - l * p.stride[0], *p.padding_lo[1:]),
                flip=False,
                dtype=dtype.name,
                input_dtype=dtype.name,
            )
            total += _run(_with_outputs(gradient, p.K), part, filters, stream)
    if p.flip:
        total = np.flip(total, tuple(range(1, total.ndim - 1)))
    return np.ascontiguousarray(np.moveaxis(total, (0, -1), (-1, 0)), dtype_named(p.dtype))


SUM = 2048  # terms of a piece: so many filters of a panel fit L2
PIECE_FLOP = 5e7  # of a piece at least: 0.3 ms, beside 0.1 ms in Python


def _piece(p: Problem) -> tuple[int, int]:
    """(images, rows of the first axis) of the cotangent whose products are summed at a time."""
    row = max(1, math.prod(p.output_L[1:]))
    per_term = 2 * max(1, p.O * math.prod(p.K) * (p.C // p.groups))
    terms = max(SUM, int(PIECE_FLOP / per_term))
    images = 1 if p.groups == p.C else max(1, min(p.N, terms // row))
    return images, max(1, terms // (row * images))


def _contiguous(a: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A C-contiguous copy of `a`, whose first axis was its last: as many of its elements at a time
    as share a cache line, which is then read from L2 for all but the first."""
    copy = np.empty(a.shape, dtype)
    for i in range(0, len(a), 16):
        copy[i : i + 16] = a[i : i + 16]
    return copy


def _with_outputs(p: Problem, extents: Ints) -> Problem:
    """`p` with as much padding at the high ends as makes outputs of these extents."""
    axes = zip(extents, p.stride, p.window, p.dilated_L, p.padding_lo, strict=True)
    return p._replace(
        padding_hi=tuple((n - 1) * s + window - L - lo for n, s, window, L, lo in axes)
    )


def _run(p: Problem, x: np.ndarray, w: np.ndarray, stream: Any) -> np.ndarray:
    return plan(p).run(x, w, resolve(stream).threads)


def _real(name: str, value: Any) -> np.ndarray:
    a = as_array(name, value)
    if a.dtype.kind == "c":
        raise TypeError(f"{name} is complex; only real convolutions have gradients here")
    return a


def _shape(name: str, value: Any) -> Ints:
    if isinstance(value, tuple | list) and all(isinstance(n, int) and n >= 0 for n in value):
        return tuple(value)
    raise TypeError(f"{name} takes a tuple of ints, got {value!r}")


def _check_cotangent(p: Problem, dy: np.ndarray) -> None:
    result_dtype(dy.dtype, dy.dtype)
    if dy.shape != p.output_shape:
        raise ValueError(
            f"cotangent has shape {dy.shape}, but the convolution's result has {p.output_shape}"
        )
