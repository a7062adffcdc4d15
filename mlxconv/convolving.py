"""convolve: the convolution of two sequences, by a kernel or, with long filters, by FFT."""

from typing import Any

import numpy as np

from mlxconv.api import conv1d
from mlxconv.arrays import FLOATING, as_array

VARIANTS = ("kernel", "fft")


def convolve(
    a: Any,
    v: Any,
    /,
    mode: str = "full",
    *,
    stream: Any = None,
    variant: str | None = None,
) -> np.ndarray:
    r"""Discrete convolution of two sequences.

    .. math:: y[n] = \sum_k a[n - k] \; v[k]

    Parameters
    ----------
    a, v : array_like, 1-D
        Floating or complex; the longer one is taken as the data and the other as the filter.
        Integers, bools and Python objects are left to `numpy.convolve`.
    mode : str
        ``"full"``: all ``M + N - 1`` points where they overlap; ``"same"``: the middle
        ``max(M, N)``; ``"valid"``: the ``max(M, N) - min(M, N) + 1`` where they overlap completely.
    stream
        See `conv1d`.
    variant : str, optional
        ``"kernel"`` or ``"fft"``; by default the faster one, which with filters of more than some
        thousand taps is the FFT, unless an element is infinite or NaN.

    Returns
    -------
    numpy.ndarray
        A new array of the promoted type.

    Raises
    ------
    TypeError, ValueError
        If an input is not 1-D, is empty or cannot be viewed, or `mode` is none of the three.

    Notes
    -----
    Kernels keep the bound and the bits of `conv1d`.  The FFT works in double precision, where an
    error is at most about ``1e-15 log2(n)`` of the product of the norms of a block and of the
    filter: not relative to each output.  After ``mlx.core.convolve`` and ``numpy.convolve``.

    Examples
    --------
    >>> import mlxconv
    >>> mlxconv.convolve([1.0, 2.0, 3.0], [0.0, 1.0, 0.5])
    array([0. , 1. , 2.5, 4. , 1.5])
    """
    a, v = as_array("a", a), as_array("v", v)
    if a.ndim != 1 or v.ndim != 1:
        raise ValueError(f"[convolve] Inputs must be 1D.  Got shapes {a.shape} and {v.shape}.")
    if a.size == 0 or v.size == 0:
        raise ValueError("[convolve] Inputs cannot be empty.")
    if mode not in ("full", "same", "valid"):
        raise ValueError(f'[convolve] Invalid mode. Got {mode!r}; it takes "full", "same", "valid"')
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant takes one of {', '.join(VARIANTS)}; got {variant!r}")
    if a.dtype.name not in FLOATING or v.dtype.name not in FLOATING:
        return np.asarray(np.convolve(a, v, mode))  # type: ignore[call-overload]
    if len(a) < len(v):
        a, v = v, a
    taps = len(v)
    lo, hi = {
        "full": (taps - 1, taps - 1),
        "same": (taps // 2, (taps - 1) // 2),
        "valid": (0, 0),
    }[mode]
    by_fft = variant == "fft" or (variant is None and _fft_wins(a, v))
    x, w = a[None, :, None], v[None, ::-1, None]
    row = "fft" if by_fft else None
    return conv1d(x, w, padding=(lo, hi), stream=stream, variant=row)[0, :, 0]


# From so many taps on the FFT is faster than the kernel on two threads, with 200,000 points on a
# Zen 4: see benchmarks/convolving.py.  (NumPy's FFT runs on one.)
CROSSOVER = {"float32": 2000, "float64": 1000, "complex64": 900, "complex128": 450}


def _fft_wins(a: np.ndarray, v: np.ndarray) -> bool:
    """Whether the FFT is the faster way, and one that keeps every finite output finite."""
    crossover = CROSSOVER.get(np.result_type(a.dtype, v.dtype).name, CROSSOVER["float32"])
    if min(len(a), len(v)) < crossover:
        return False
    return bool(np.isfinite(v).all() and np.isfinite(a).all())
