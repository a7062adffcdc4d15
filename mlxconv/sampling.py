"""The error of a result, against sums in extended precision: of all outputs, or of a sample."""

import math

import numpy as np

from mlxconv.arrays import REAL_OF
from mlxconv.problem import Problem

SAMPLES = 1000  # outputs checked at the most, some 20 us each


def largest_error(p: Problem, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> float:
    """max |y - exact| / (u sum |x||w|) over the sampled outputs, u the unit roundoff of y's type.

    Below 1 every output is as good as one rounding of the exact sum may be."""
    worst, rng = 0.0, np.random.default_rng(0)
    corners = (tuple(0 for _ in y.shape), tuple(n - 1 for n in y.shape))
    picks = range(y.size) if y.size <= SAMPLES else rng.integers(0, y.size, SAMPLES)
    at = (*corners, *zip(*np.unravel_index(np.asarray(picks), y.shape), strict=True))
    for index in at if y.size else ():
        exact, magnitude = exact_output(p, x, w, index)
        error = abs(_wide(y[index]) - exact)
        worst = max(worst, _ratio(float(error), unit_roundoff(p.dtype) * float(magnitude)))
    return worst


def exact_output(
    p: Problem, x: np.ndarray, w: np.ndarray, index: tuple[int, ...]
) -> tuple[np.generic, np.generic]:
    """(sum of x w, sum of |x||w|) of one output, in extended precision where NumPy has it."""
    n, *position, o = index
    rows, taps = zip(*(_met(p, axis, at) for axis, at in enumerate(position)), strict=True)
    C = p.C // p.groups
    first = o // (p.O // p.groups) * C
    window = x[n][np.ix_(*rows, np.arange(first, first + C))]
    filters = w[o][np.ix_(*taps, np.arange(C))]
    a, b = _wide(window), _wide(filters)
    return (a * b).sum(), (abs(a) * abs(b)).sum()


def _met(p: Problem, axis: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    """The input rows that one output position meets along an axis, and the taps they meet."""
    K, idil = p.K[axis], p.input_dilation[axis]
    taps = np.arange(K)
    at = position * p.stride[axis] - p.padding_lo[axis] + taps * p.kernel_dilation[axis]
    inside = (at >= 0) & (at < p.dilated_L[axis]) & (at % idil == 0)
    return at[inside] // idil, (K - 1 - taps if p.flip else taps)[inside]


def unit_roundoff(dtype: str) -> float:
    """Half the distance from 1 to the next number."""
    bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
    return math.ldexp(1.0, -bits[REAL_OF.get(dtype, dtype)])


def _wide(a: np.ndarray) -> np.ndarray:
    wide = np.asarray(a)
    return wide.astype(np.clongdouble if wide.dtype.kind == "c" else np.longdouble)


def _ratio(error: float, bound: float) -> float:
    """error / bound; nothing on nothing is no error."""
    if bound == 0:
        return 0.0 if error == 0 else math.inf
    return error / bound
