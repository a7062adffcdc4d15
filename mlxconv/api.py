"""The public functions: MLX's signatures, on NumPy arrays.

Each body names its axes and hands over to `convolution`, which every convolution goes through.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from mlxconv.arrays import as_array
from mlxconv.forks import no_fork
from mlxconv.parameters import Ints, Parameters
from mlxconv.problem import Problem, problem_of
from mlxconv.stream import resolve
from mlxconv.tracing import Origin, Traced


def conv1d(
    input: Any,
    weight: Any,
    /,
    stride: int = 1,
    padding: Any = 0,
    dilation: int = 1,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""1-D convolution over channels-last data.

    .. math:: y[n, l, o] = \sum_{k<K} \sum_{c<C/g}
              x[n, l \cdot stride - lo + k \cdot dilation, c_0(o) + c] \; w[o, k, c]

    where rows outside the input count as nothing, and :math:`c_0(o)` is the first channel of the
    group of filter :math:`o`.

    Parameters
    ----------
    input : array_like, shape (N, L, C_in)
        float16, bfloat16, float32, float64, complex64 or complex128.  Anything NumPy can view:
        any memory layout, other libraries' CPU arrays, lists.  Never written to.
    weight : array_like, shape (C_out, K, C_in / groups)
        Floating or complex as `input`, or of integers.
    stride : int
        Input rows from one output position to the next.
    padding : int, (int, int) or str
        Rows added at both ends; ``(lo, hi)`` gives each end its own, ``"valid"`` adds none,
        ``"same"`` as many as make ``ceil(L / stride)`` outputs, ``"causal"`` all of the window's
        reach at the start, so that no output depends on a later input.
    dilation : int
        Input rows from one tap to the next.
    groups : int
        Groups of channels that are convolved apart from each other.
    stream : Stream, Device, or an MLX CPU device or stream, optional
        How many threads the call may use.
    variant : str, optional
        The kernel to take, one of `variants()`, instead of the one the table picks.
    out : numpy.ndarray, optional
        Where to put the result: of its shape and type, C-contiguous, apart from `input` and
        `weight` in memory.

    Returns
    -------
    numpy.ndarray, shape (N, L_out, C_out)
        ``L_out = (L + lo + hi - dilation * (K - 1) - 1) // stride + 1``; a new C-contiguous array
        of the promoted type (float16 with bfloat16 gives float32; an integer weight takes the type
        of the input).  Half types are summed in float32 and rounded once.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the arguments do not fit together; the message names MLX's reason and the shapes.
    OverflowError, MemoryError
        If the output is larger than memory.

    Notes
    -----
    Each output is one chain of operations in a fixed order: its bits do not depend on the number
    of threads, the batch, the memory layout or the run.  With ``n = K * C_in / groups`` the error
    is at most ``n u / (1 - n u)`` times the same sum over absolute values, ``u`` being the unit
    roundoff of the arithmetic, plus one rounding to the type of the result.

    After ``mlx.core.conv1d`` of MLX 0.32.

    Examples
    --------
    >>> import numpy as np, mlxconv
    >>> x = np.arange(5.0).reshape(1, 5, 1)
    >>> mlxconv.conv1d(x, np.ones((1, 3, 1)), padding=1).ravel()
    array([1., 3., 6., 9., 7.])
    """
    exact = type(stride) is type(padding) is type(dilation) is type(groups) is int
    q = ("conv1d", stride, padding, dilation, 1, groups, False)
    return convolution(q, exact, input, weight, stream, variant, out)


def conv2d(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""2-D convolution over channels-last data.

    .. math:: y[n, i, j, o] = \sum_{k, l, c}
              x[n, i \cdot stride_0 - lo_0 + k \cdot dilation_0,
              j \cdot stride_1 - lo_1 + l \cdot dilation_1, c_0(o) + c] \; w[o, k, l, c]

    Parameters
    ----------
    input : array_like, shape (N, H, W, C_in)
        See `conv1d`.
    weight : array_like, shape (C_out, KH, KW, C_in / groups)
        See `conv1d`.
    stride, dilation : int or (int, int)
        One value for both axes, or one for each.
    padding : int, (int, int), ((int, int), (int, int)) or str
        Rows added at both ends of each axis; a pair of pairs is (lo, hi) of each axis; "valid"
        adds none, "same" as many as make ``ceil(L / stride)`` outputs.
    groups, stream, variant, out
        See `conv1d`.

    Returns
    -------
    numpy.ndarray, shape (N, H_out, W_out, C_out)
        Extents as those of `conv1d`, per axis.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    After ``mlx.core.conv2d`` of MLX 0.32.
    """
    q = ("conv2d", stride, padding, dilation, 1, groups, False)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)


def conv3d(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""3-D convolution over channels-last data: `conv2d` with one axis more.

    .. math:: y[n, p, o] = \sum_k \sum_c x[n, p \cdot stride - lo + k \cdot dilation, c_0(o) + c]
              \; w[o, k, c]

    with positions p and taps k that are triples.

    Parameters
    ----------
    input : array_like, shape (N, D, H, W, C_in)
        See `conv1d`.
    weight : array_like, shape (C_out, KD, KH, KW, C_in / groups)
        See `conv1d`.
    stride, dilation : int or (int, int, int)
        One value for all axes, or one for each.
    padding : int, (int, int, int), three pairs (lo, hi), or str
        See `conv2d`.
    groups, stream, variant, out
        See `conv1d` and `conv2d`.

    Returns
    -------
    numpy.ndarray, shape (N, D_out, H_out, W_out, C_out)

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    After ``mlx.core.conv3d`` of MLX 0.32, which has no groups.
    """
    q = ("conv3d", stride, padding, dilation, 1, groups, False)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)


def conv_general(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Convolution over one to three spatial axes, with every parameter there is.

    .. math:: y[n, l, o] = \sum_k \sum_c \tilde x[n, l \cdot stride - lo + k \cdot dilation, c] \;
              w[o, k, c]

    where :math:`\tilde x` is the input with its elements `input_dilation` apart and zeros between.

    Parameters
    ----------
    input : array_like, shape (N, ..., C_in), with one to three spatial axes
        See `conv1d`.
    weight : array_like, shape (C_out, ..., C_in / groups)
        See `conv1d`.
    stride, kernel_dilation, input_dilation : int or sequence of int
        One value for all axes, or one per axis.
    padding : int, sequence of int, or (sequence, sequence)
        Rows added at both ends of each axis; a pair of sequences gives the low and the high ends.
        Negative padding crops, the dilated input if it is dilated.
    groups : int
        Groups of channels that are convolved apart from each other.
    flip : bool
        Turn the filters round along every spatial axis: convolution in the mathematician's sense.
    stream, variant, out
        See `conv1d`.

    Returns
    -------
    numpy.ndarray, shape (N, ..., C_out)
        Per axis ``(1 + input_dilation * (L - 1) + lo + hi - dilation * (K - 1) - 1) // stride + 1``
        positions.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    After ``mlx.core.conv_general`` of MLX 0.32; where MLX crops a dilated input too early, this
    follows ``jax.lax.conv_general_dilated``.
    """
    q = ("conv_general", stride, padding, kernel_dilation, input_dilation, groups, flip)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)


def convolution(
    q: tuple[Any, ...],
    exact: bool,
    input: Any,
    weight: Any,
    stream: Any,
    variant: str | None,
    out: np.ndarray | None,
) -> np.ndarray:
    """The road: arrays -> problem -> plan -> run, for the fields `q` of Parameters.  Where they are
    `exact`, so that equal ones mean the same (1.0 == 1 would pass for it), all but the last is
    known from the time before."""
    if type(input) is type(weight) is np.ndarray:
        x, w = input, weight
    elif isinstance(input, Traced) or isinstance(weight, Traced):
        origin = Origin(Parameters(*q), input, weight, stream)
        y = convolution(q, exact, *origin.values, stream, variant, out)
        return Traced(y, origin)  # type: ignore[return-value]
    else:
        x, w = as_array("input", input), as_array("weight", weight)
    threads = resolve(stream).threads
    if exact:
        return _known_runner(q, x.shape, x.dtype, w.shape, w.dtype, variant)(x, w, threads, out)
    problem = problem_of(Parameters(*q), x.shape, x.dtype, w.shape, w.dtype)
    return _runner(problem, variant)(x, w, threads, out)


def convolution_of(q: Parameters, input: Any, weight: Any, stream: Any) -> np.ndarray:
    """The convolution with parameters `q`."""
    return convolution(tuple(q), False, input, weight, stream, None, None)


def are_exact(q: tuple[Any, ...]) -> bool:
    """Whether all parameters are ints, names, or tuples of ints, and `flip` a bool."""
    return type(q[6]) is bool and all(map(_is_exact, q))


def _is_exact(value: Any) -> bool:
    kind = type(value)
    if kind is tuple:
        return all(map(_is_exact, value))
    return kind is int or kind is str or kind is bool


@lru_cache(maxsize=4096)
def _known_runner(
    q: tuple[Any, ...], xs: Ints, xt: np.dtype, ws: Ints, wt: np.dtype, variant: str | None
) -> Callable[..., np.ndarray]:
    return _runner(problem_of(Parameters(*q), xs, xt, ws, wt), variant)


@lru_cache(maxsize=4096)
def _runner(problem: Problem, variant: str | None) -> Callable[..., np.ndarray]:
    """What runs `problem` on (x, w, threads).  Numba is loaded here, at the first call."""
    with no_fork:
        from mlxconv.dispatch import plan

    return plan(problem, variant).run
