"""Gradients of convolutions, which are convolutions, on the same road.

With y = conv(x, w) and the gradient dy of a number by y, its gradient by x is a transposed
convolution of dy (input_gradient.py), and that by w a sum of outer products (weight_gradient.py).
"""

from functools import lru_cache
from typing import Any

import numpy as np

from mlxconv.api import are_exact
from mlxconv.arrays import as_array, result_dtype
from mlxconv.input_gradient import InputGradient
from mlxconv.parameters import Ints, Parameters
from mlxconv.problem import problem_of
from mlxconv.stream import resolve
from mlxconv.weight_gradient import WeightGradient


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
    arguments = q, _shape("input_shape", input_shape), dy.dtype, w.shape, w.dtype
    gradient = (_known_by_input if are_exact(q) else _by_input)(*arguments)
    _check_cotangent(gradient.cotangent_shape, dy)
    return gradient.run(dy, w, resolve(stream).threads)


def weight_grad(
    q: Parameters, input: Any, cotangent: Any, weight_shape: Any, stream: Any = None
) -> np.ndarray:
    """The gradient by the filters of the convolution with parameters `q`."""
    x, dy = _real("input", input), _real("cotangent", cotangent)
    arguments = q, x.shape, x.dtype, _shape("weight_shape", weight_shape), dy.dtype
    gradient = (_known_by_weight if are_exact(q) else _by_weight)(*arguments)
    _check_cotangent(gradient.cotangent_shape, dy)
    return gradient.run(x, dy, resolve(stream).threads)


def _by_input(
    q: Parameters, xs: Ints, dy_type: np.dtype[Any], ws: Ints, wt: np.dtype[Any]
) -> InputGradient:
    return InputGradient(problem_of(q, xs, dy_type, ws, wt))


def _by_weight(
    q: Parameters, xs: Ints, xt: np.dtype[Any], ws: Ints, dy_type: np.dtype[Any]
) -> WeightGradient:
    return WeightGradient(problem_of(q, xs, xt, ws, dy_type))


_known_by_input = lru_cache(maxsize=1024)(_by_input)
_known_by_weight = lru_cache(maxsize=1024)(_by_weight)


def _real(name: str, value: Any) -> np.ndarray:
    a = as_array(name, value)
    if a.dtype.kind == "c":
        raise TypeError(f"{name} is complex; only real convolutions have gradients here")
    return a


def _shape(name: str, value: Any) -> Ints:
    if isinstance(value, tuple | list) and all(isinstance(n, int) and n >= 0 for n in value):
        return tuple(value)
    raise TypeError(f"{name} takes a tuple of ints, got {value!r}")


def _check_cotangent(shape: Ints, dy: np.ndarray) -> None:
    result_dtype(dy.dtype, dy.dtype)
    if dy.shape != shape:
        raise ValueError(
            f"cotangent has shape {dy.shape}, but the convolution's result has {shape}"
        )
