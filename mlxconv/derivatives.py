"""Derivatives of functions made of convolutions: `vjp` and `jvp` in MLX's form.

Also the gradients of each public function under its own name, `conv2d_weight_grad` and so on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlxconv.api import convolution_of
from mlxconv.arrays import as_array
from mlxconv.gradients import input_grad, weight_grad
from mlxconv.parameters import Ints, Parameters
from mlxconv.tracing import Traced


def vjp(
    fn: Callable[..., Any], primals: Sequence[Any], cotangents: Sequence[Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results of `fn`, and the gradients of what `cotangents` weigh of them.

    Parameters
    ----------
    fn : callable
        Takes the primals and returns an array or a sequence of arrays.  It may use this package's
        convolutions, one after the other too, on its arguments and on constants; NumPy refuses
        the arguments, so that no part of the derivative is missing.
    primals : sequence of array_like
        The arguments of `fn`.
    cotangents : sequence of array_like
        For each result, of its shape, the gradient by it.

    Returns
    -------
    (list of numpy.ndarray, list of numpy.ndarray)
        The results, and for each primal the gradient by it, of its shape and type.

    Raises
    ------
    TypeError, ValueError
        As the convolutions; also if `fn` uses anything else, or counts or shapes do not fit.

    Notes
    -----
    After ``mlx.core.vjp``.

    Examples
    --------
    >>> import numpy as np, mlxconv
    >>> x, w = np.ones((1, 4, 1)), np.ones((1, 2, 1))
    >>> _, (dx, dw) = mlxconv.vjp(mlxconv.conv1d, [x, w], [np.ones((1, 3, 1))])
    >>> dx.ravel(), dw.ravel()
    (array([1., 2., 2., 1.]), array([3., 3.]))
    """
    sources, results = _traced(fn, primals)
    if len(cotangents) != len(results):
        raise ValueError(
            f"fn has {len(results)} results, but there are {len(cotangents)} cotangents"
        )
    gradients: dict[Traced, np.ndarray] = {}
    for result, given in zip(results, cotangents, strict=True):
        cotangent = as_array("cotangent", given)
        if cotangent.shape != result.shape:
            raise ValueError(f"a cotangent has shape {cotangent.shape}, its result {result.shape}")
        _add(gradients, result, cotangent)
    for y in _latest_first(results):
        if y.origin is not None and y in gradients:
            _pull_back(gradients, y)
    found = [
        gradients[a].astype(a.dtype, copy=False) if a in gradients else np.zeros(a.shape, a.dtype)
        for a in sources
    ]
    return [result.value for result in results], found


def jvp(
    fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results of `fn`, and how they change when its arguments change along `tangents`.

    Parameters
    ----------
    fn, primals
        See `vjp`.
    tangents : sequence of array_like
        For each primal, of its shape, the direction in which it changes.

    Returns
    -------
    (list of numpy.ndarray, list of numpy.ndarray)
        The results, and the derivative of each.

    Raises
    ------
    TypeError, ValueError
        See `vjp`.

    Examples
    --------
    >>> import numpy as np, mlxconv
    >>> x, w = np.ones((1, 4, 1)), np.ones((1, 2, 1))
    >>> _, (dy,) = mlxconv.jvp(mlxconv.conv1d, [x, w], [np.zeros_like(x), w])
    >>> dy.ravel()
    array([2., 2., 2.])
    """
    sources, results = _traced(fn, primals)
    if len(tangents) != len(sources):
        raise ValueError(f"there are {len(sources)} primals, but {len(tangents)} tangents")
    moved: dict[Traced, np.ndarray] = {}
    for source, given in zip(sources, tangents, strict=True):
        tangent = as_array("tangent", given)
        if tangent.shape != source.shape:
            raise ValueError(f"a tangent has shape {tangent.shape}, its primal {source.shape}")
        _add(moved, source, tangent)
    for y in reversed(_latest_first(results)):
        if y.origin is not None:
            _push_forward(moved, y)
    found = [moved[y] if y in moved else np.zeros(y.shape, y.dtype) for y in results]
    return [result.value for result in results], found


def _traced(fn: Callable[..., Any], primals: Sequence[Any]) -> tuple[list[Traced], list[Traced]]:
    """The primals as `fn` saw them, and its results."""
    sources = [Traced(as_array("primal", a)) for a in primals]
    if any(a.dtype.kind == "c" for a in sources):
        raise TypeError("a primal is complex; only real convolutions have derivatives here")
    returned = fn(*sources)
    results = list(returned) if isinstance(returned, tuple | list) else [returned]
    for result in results:
        if not isinstance(result, Traced):
            raise TypeError(
                f"fn returned {type(result).__name__}, which was made neither of its arguments "
                "nor by a convolution of them"
            )
    return sources, results


def _latest_first(results: list[Traced]) -> list[Traced]:
    """The results and all they were made of, each before what it was made of."""
    seen: dict[Traced, None] = {}
    waiting = list(results)
    while waiting:
        y = waiting.pop()
        if y not in seen:
            seen[y] = None
            operands = y.origin.operands if y.origin is not None else ()
            waiting += [a for a in operands if isinstance(a, Traced)]
    return sorted(seen, key=lambda y: y.order, reverse=True)


def _pull_back(gradients: dict[Traced, np.ndarray], y: Traced) -> None:
    """Add to the gradients by the operands of `y` what the gradient by `y` makes of them."""
    assert y.origin is not None
    origin, dy = y.origin, gradients[y]
    (x, w), (xv, wv) = origin.operands, origin.values
    q, stream = origin.parameters, origin.stream
    if isinstance(x, Traced):
        _add(gradients, x, input_grad(q, dy, wv, xv.shape, stream))
    if isinstance(w, Traced):
        _add(gradients, w, weight_grad(q, xv, dy, wv.shape, stream))


def _push_forward(moved: dict[Traced, np.ndarray], y: Traced) -> None:
    """The derivative of `y`, from those of its operands: a convolution is linear in both."""
    assert y.origin is not None
    origin = y.origin
    (x, w), (xv, wv) = origin.operands, origin.values
    if x in moved:
        _add(moved, y, convolution_of(origin.parameters, moved[x], wv, origin.stream))
    if w in moved:
        _add(moved, y, convolution_of(origin.parameters, xv, moved[w], origin.stream))


def _add(sums: dict[Traced, np.ndarray], key: Traced, value: np.ndarray) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _of_convolution(function: str) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    def by_input(
        cotangent: Any,
        weight: Any,
        input_shape: Ints,
        /,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        stream: Any = None,
    ) -> np.ndarray:
        q = Parameters(function, stride, padding, dilation, 1, groups, False)
        return input_grad(q, cotangent, weight, input_shape, stream)

    def by_weight(
        input: Any,
        cotangent: Any,
        weight_shape: Ints,
        /,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        stream: Any = None,
    ) -> np.ndarray:
        q = Parameters(function, stride, padding, dilation, 1, groups, False)
        return weight_grad(q, input, cotangent, weight_shape, stream)

    return _named(by_input, function, "input"), _named(by_weight, function, "weight")


def _of_transposed(function: str) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    def by_input(
        cotangent: Any,
        weight: Any,
        input_shape: Ints,
        /,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        output_padding: Any = 0,
        groups: int = 1,
        *,
        stream: Any = None,
    ) -> np.ndarray:
        q = Parameters(function, stride, padding, dilation, 1, groups, True, output_padding)
        return input_grad(q, cotangent, weight, input_shape, stream)

    def by_weight(
        input: Any,
        cotangent: Any,
        weight_shape: Ints,
        /,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        output_padding: Any = 0,
        groups: int = 1,
        *,
        stream: Any = None,
    ) -> np.ndarray:
        q = Parameters(function, stride, padding, dilation, 1, groups, True, output_padding)
        return weight_grad(q, input, cotangent, weight_shape, stream)

    return _named(by_input, function, "input"), _named(by_weight, function, "weight")


def _named(
    gradient: Callable[..., np.ndarray], function: str, by: str
) -> Callable[..., np.ndarray]:
    gradient.__name__ = gradient.__qualname__ = f"{function}_{by}_grad"
    gradient.__doc__ = (
        f"Gradient of `{function}` by its {by}: see `conv_general_{by}_grad`; parameters are those "
        f"of `{function}`."
    )
    return gradient


conv1d_input_grad, conv1d_weight_grad = _of_convolution("conv1d")
conv2d_input_grad, conv2d_weight_grad = _of_convolution("conv2d")
conv3d_input_grad, conv3d_weight_grad = _of_convolution("conv3d")
conv_transpose1d_input_grad, conv_transpose1d_weight_grad = _of_transposed("conv_transpose1d")
conv_transpose2d_input_grad, conv_transpose2d_weight_grad = _of_transposed("conv_transpose2d")
conv_transpose3d_input_grad, conv_transpose3d_weight_grad = _of_transposed("conv_transpose3d")
