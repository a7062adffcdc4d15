"""Gradients of convolutions, which are convolutions, on the same road.

With y = conv(x, w) and the gradient dy of a number by y, its gradients by x and w are

    dx[n, r, c] = sum over o, l, k that meet r of dy[n, l, o] * w[o, k, c]
    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - lo + k*dilation, c]

The first is a transposed convolution of dy, the second a sum of outer products (kernels/outer.py
and outer_grouped.py).
"""

from functools import lru_cache
from typing import Any

import numpy as np

from mlxconv import recycling, threads
from mlxconv.api import are_exact
from mlxconv.arrays import as_array, dtype_named, memory_of, result_dtype
from mlxconv.dispatch import AnyPlan, plan
from mlxconv.kernels import outer, outer_grouped
from mlxconv.kernels.reference import sums_mending
from mlxconv.kernels.schedule import Schedule
from mlxconv.parameters import Ints, Parameters
from mlxconv.plan import laid_out
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
    arguments = q, _shape("input_shape", input_shape), dy.dtype, w.shape, w.dtype
    p, gradient = (_known_by_input if are_exact(q) else _by_input)(*arguments)
    _check_cotangent(p, dy)
    view = _by_group(w, p.groups, not p.flip)
    computed = _reader(gradient, view)
    if p.groups == 1:
        filters = view[0]
    else:
        filters = view if computed.reads(view) else transposed(w, p.groups, not p.flip)
    return computed.run(dy, filters, resolve(stream).threads)


def _reader(gradient: Problem, view: np.ndarray) -> AnyPlan:
    """The plan of a gradient: one that reads such filters where they lie, if there is one, since to
    copy many of them takes longer than any variant gains."""
    computed = plan(gradient)
    if computed.variant == "dot" and not computed.reads(view):
        direct = plan(gradient, "direct")
        computed = direct if direct.reads(view) else computed
    return computed


def _by_input(
    q: Parameters, xs: Ints, dy_type: np.dtype[Any], ws: Ints, wt: np.dtype[Any]
) -> tuple[Problem, Problem]:
    """A convolution, and that of the cotangent which is its gradient by the input."""
    p = problem_of(q, xs, dy_type, ws, wt)
    return p, input_gradient(p)


def input_gradient(p: Problem) -> Problem:
    """The convolution of the cotangent of `p`, with `transposed` filters, that is the gradient of
    `p` by its input."""
    lo = tuple(n - 1 - lo for n, lo in zip(p.window, p.padding_lo, strict=True))
    gradient = p._replace(
        L=p.output_L,
        C=p.O,
        O=p.C,
        stride=p.input_dilation,
        input_dilation=p.stride,
        padding_lo=lo,
        padding_hi=(0,) * len(p.L),
        flip=False,
    )
    return _with_outputs(gradient, p.L)


_known_by_input = lru_cache(maxsize=1024)(_by_input)
_known_problem = lru_cache(maxsize=1024)(problem_of)


def weight_grad(
    q: Parameters, input: Any, cotangent: Any, weight_shape: Any, stream: Any = None
) -> np.ndarray:
    """The gradient by the filters of the convolution with parameters `q`."""
    x, dy = _real("input", input), _real("cotangent", cotangent)
    x_type, dy_type = x.dtype, dy.dtype
    arguments = q, x.shape, x_type, _shape("weight_shape", weight_shape), dy_type
    p = (_known_problem if are_exact(q) else problem_of)(*arguments)
    _check_cotangent(p, dy)
    dtype = np.result_type(dtype_named(p.dtype), np.float32)  # half types are rounded at the end
    p = p._replace(dtype=dtype.name, input_dtype=dtype.name, flip=False)
    x, dy = (np.ascontiguousarray(a, dtype) for a in (x, dy))
    dw = np.zeros(p.weight_shape, dtype)
    if dw.size and dy.size and x.size:
        dw = _undilated(p, x, dy, q.flip, resolve(stream).threads)
    return np.ascontiguousarray(dw, dtype_named(result_dtype(x_type, dy_type)))


def transposed(w: np.ndarray, groups: int, flip: bool) -> np.ndarray:
    """Filters (O, K, C / groups) as (C, K, O / groups), turned round if asked: a copy.  As many
    channels are copied at a time as share a cache line, which is then read from L2 for all but the
    first."""
    by_group = _by_group(w, groups, flip)
    _, C, *K, filters = by_group.shape
    turned = np.empty(by_group.shape, w.dtype)
    for tap in np.ndindex(*K):
        for c in range(0, C, 16):
            part = (slice(None), slice(c, c + 16), *tap)
            turned[part] = by_group[part]
    return turned.reshape(groups * C, *K, filters)


def _by_group(w: np.ndarray, groups: int, flip: bool) -> np.ndarray:
    """The same, (groups, C / groups, K, O / groups), as a view."""
    view = w[(slice(None), *(slice(None, None, -1 if flip else 1),) * (w.ndim - 2))]
    view = view.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return np.moveaxis(view, (1, -1), (-1, 1))


def _undilated(
    p: Problem, x: np.ndarray, dy: np.ndarray, flip: bool, workers: int | None
) -> np.ndarray:
    """The gradient by the filters, turned round if asked, of an input that may be dilated: as that
    of the transposed convolution, in which input and result change places, or else with zeros
    between the input's elements, where outputs are a step apart as well."""
    if max(p.input_dilation) > 1 and max(p.stride) == 1:
        return _swapped(p, x, dy, flip, workers)
    if max(p.input_dilation) == 1:
        by_channel = p.groups > 1 and 1 < p.C // p.groups <= NARROW and not outer_grouped.takes(p)
        dw = _by_channel(p, x, dy, workers) if by_channel else _summed(p, p, x, x, dy, workers)
    else:
        spread = np.zeros((p.N, *p.dilated_L, p.C), x.dtype)
        spread[(slice(None), *(slice(None, None, step) for step in p.input_dilation))] = x
        whole = p._replace(L=p.dilated_L, input_dilation=(1,) * len(p.L))
        dw = _summed(whole, p, spread, x, dy, workers)
    return np.flip(dw, tuple(range(1, dw.ndim - 1))) if flip else dw


NARROW = 4  # channels of a group, at the most, that are taken one by one: 0.9-6x the speed


def _by_channel(p: Problem, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
    """The gradient by the filters of narrow groups: the first channels of all groups are a
    depthwise problem, and so are the second ones, ..."""
    q, channels = p._replace(C=p.groups), p.C // p.groups
    parts = (x[..., c::channels] for c in range(channels))
    return np.concatenate([_summed(q, q, part, part, dy, workers) for part in parts], axis=-1)


def _swapped(
    p: Problem, x: np.ndarray, dy: np.ndarray, flip: bool, workers: int | None
) -> np.ndarray:
    """The same, as the gradient of the convolution of `dy` that has the result `x`: of its filters
    channels and filters have changed places, and taps are turned round."""
    swapped = p._replace(
        L=p.output_L,
        C=p.O,
        O=p.C,
        padding_lo=tuple(n - 1 - lo for n, lo in zip(p.window, p.padding_lo, strict=True)),
        stride=p.input_dilation,
        input_dilation=(1,) * len(p.L),
    )
    swapped = _with_outputs(swapped, p.L)
    if not outer_grouped.takes(swapped):
        mode = outer.TURNED | (0 if flip else outer.FLIPPED)
        dw, suspect = _sums(swapped, dy, x, workers, mode)
        if not suspect:
            return dw.reshape(p.weight_shape)
    return transposed(_summed(swapped, swapped, dy, dy, x, workers), p.groups, not flip)


def _summed(
    p: Problem, q: Problem, x: np.ndarray, given: np.ndarray, dy: np.ndarray, workers: int | None
) -> np.ndarray:
    """The gradient of `p`.  NaN that a zero may have made are computed anew, from the problem `q`
    as it was asked and the input as it was `given`."""
    dw, suspect = _sums(p, x, dy, workers)
    if suspect or (p is not q and np.isnan(dw).any()):
        mending = sums_mending(q)
        threads.run(mending, mending.compile(), (given.ravel(), dy.ravel(), dw.ravel()), workers)
    return dw


def _sums(
    p: Problem, x: np.ndarray, dy: np.ndarray, workers: int | None, mode: int = 0
) -> tuple[np.ndarray, bool]:
    """The gradient of `p` in the order of the `mode`, see `outer`, and whether some NaN may be of a
    zero's making."""
    sums, memory = _schedule(p, mode), memory_of(x)
    pieces = dict(sums.split)["pieces"]
    parts = recycling.array((pieces, *p.weight_shape), dy.dtype)
    arrays = (memory.flat, dy.ravel(), parts.reshape(-1))
    suspect = threads.run(sums, laid_out(sums, memory), arrays, workers)
    dw: np.ndarray = parts[0] if pieces == 1 else parts.sum(axis=0)
    return dw, suspect and sums.suspects


@lru_cache(maxsize=1024)
def _schedule(p: Problem, mode: int = 0) -> Schedule:
    return outer_grouped.schedule(p) if outer_grouped.takes(p) else outer.schedule(p, mode)


def _with_outputs(p: Problem, extents: Ints) -> Problem:
    """`p` with as much padding at the high ends as makes outputs of these extents."""
    axes = zip(extents, p.stride, p.window, p.dilated_L, p.padding_lo, strict=True)
    return p._replace(
        padding_hi=tuple((n - 1) * s + window - L - lo for n, s, window, L, lo in axes)
    )


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
