"""The public functions of transposed convolutions: MLX's signatures, on NumPy arrays."""

from typing import Any

import numpy as np

from mlxconv.api import are_exact, convolution


def conv_transpose1d(
    input: Any,
    weight: Any,
    /,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""1-D transposed convolution over channels-last data.

    .. math:: y[n, m, o] = \sum_{l, k, c:\; l \cdot stride + k \cdot dilation - padding = m}
              x[n, l, c_0(o) + c] \; w[o, k, c]

    so that every input row is spread over K output rows: the gradient of `conv1d` by its input.

    Parameters
    ----------
    input : array_like, shape (N, L, C_in)
        See `conv1d`.
    weight : array_like, shape (C_out, K, C_in / groups)
        In the order of `conv1d`, filters first (torch has the input's channels first).
    stride : int
        Output rows from one input row to the next.
    padding : int
        Rows cut off at both ends of the output.
    dilation : int
        Output rows from one tap to the next.
    output_padding : int
        Rows added to the output at the high end.
    groups, stream, variant, out
        See `conv1d`.

    Returns
    -------
    numpy.ndarray, shape (N, L_out, C_out)
        ``L_out = (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1``.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    Computed as `stride` convolutions of the input as it is, one for each residue of m, and never
    on an input with zeros between its rows.  After ``mlx.core.conv_transpose1d`` of MLX 0.32; with
    more padding than the window reaches, where MLX is wrong, this follows torch and JAX.

    Examples
    --------
    >>> import numpy as np, mlxconv
    >>> x = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> mlxconv.conv_transpose1d(x, np.ones((1, 2, 1)), stride=2).ravel()
    array([1., 1., 2., 2., 3., 3.])
    """
    q = ("conv_transpose1d", stride, padding, dilation, 1, groups, True, output_padding)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)


def conv_transpose2d(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = 0,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""2-D transposed convolution over channels-last data.

    .. math:: y[n, m, o] = \sum_{l, k, c:\; l \cdot stride + k \cdot dilation - padding = m}
              x[n, l, c_0(o) + c] \; w[o, k, c]

    with positions l, m and taps k that have 2 coordinates.

    Parameters
    ----------
    input : array_like, shape (N, H, W, C_in)
        See `conv1d`.
    weight : array_like, shape (C_out, KH, KW, C_in / groups)
        See `conv1d`.
    stride, padding, dilation, output_padding : int or (int, int)
        See `conv_transpose1d`; one value for all axes, or one for each.
    groups, stream, variant, out
        See `conv1d`.

    Returns
    -------
    numpy.ndarray, shape (N, H_out, W_out, C_out)
        Extents as that of `conv_transpose1d`, per axis.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    After ``mlx.core.conv_transpose2d`` of MLX 0.32; see `conv_transpose1d`.
    """
    q = ("conv_transpose2d", stride, padding, dilation, 1, groups, True, output_padding)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)


def conv_transpose3d(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = 0,
    groups: int = 1,
    *,
    stream: Any = None,
    variant: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""3-D transposed convolution over channels-last data.

    .. math:: y[n, m, o] = \sum_{l, k, c:\; l \cdot stride + k \cdot dilation - padding = m}
              x[n, l, c_0(o) + c] \; w[o, k, c]

    with positions l, m and taps k that have 3 coordinates.

    Parameters
    ----------
    input : array_like, shape (N, D, H, W, C_in)
        See `conv1d`.
    weight : array_like, shape (C_out, KD, KH, KW, C_in / groups)
        See `conv1d`.
    stride, padding, dilation, output_padding : int or (int, int, int)
        See `conv_transpose1d`; one value for all axes, or one for each.
    groups, stream, variant, out
        See `conv1d`.

    Returns
    -------
    numpy.ndarray, shape (N, D_out, H_out, W_out, C_out)
        Extents as that of `conv_transpose1d`, per axis.

    Raises
    ------
    TypeError, ValueError, OverflowError, MemoryError
        See `conv1d`.

    Notes
    -----
    After ``mlx.core.conv_transpose3d`` of MLX 0.32; see `conv_transpose1d`.
    """
    q = ("conv_transpose3d", stride, padding, dilation, 1, groups, True, output_padding)
    return convolution(q, are_exact(q), input, weight, stream, variant, out)
