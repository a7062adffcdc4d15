"""The error of a result, against sums in extended precision: of all outputs, or of a sample."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mlxconv.arrays import REAL_OF
from mlxconv.problem import Problem

SAMPLES = 1000  # outputs checked at the most, some 20 us each


Exact = Callable[..., tuple[np.generic, np.generic]]  # (sum of products, of their magnitudes)


def largest_error(
    p: Problem, x: np.ndarray, w: np.ndarray, y: np.ndarray, exact_of: Exact | None = None
) -> float:
    """max |y - exact| / (u sum |x||w|) over sampled outputs, u the unit roundoff of y's type; or
    those that `exact_of` computes, as `exact_output` does.

    Below 1 every output is as good as one rounding of the exact sum may be."""
    worst, u = 0.0, unit_roundoff(p.dtype)
    for index in sample(y.shape):
        exact, magnitude = (exact_of or exact_output)(p, x, w, index)
        worst = max(worst, ratio(extended(y[index]), exact, u * float(magnitude)))
    return worst


def sample(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All indices if they are few, else the first, the last and random ones."""
    size = math.prod(shape)
    if size > SAMPLES:
        picks = [0, size - 1, *np.random.default_rng(0).integers(0, size, SAMPLES)]
    else:
        picks = list(range(size))
    return [tuple(map(int, np.unravel_index(pick, shape))) for pick in picks]


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
    a, b = extended(window), extended(filters)
    return (a * b).sum(), (abs(a) * abs(b)).sum()


def exact_weight(
    p: Problem, x: np.ndarray, dy: np.ndarray, index: tuple[int, ...]
) -> tuple[np.generic, np.generic]:
    """The same of an element of the gradient by the filters: an output of the convolution in which
    batch and channels, positions and taps, stride and dilation have changed places."""
    o, *taps, c = index
    channel = o // (p.O // p.groups) * (p.C // p.groups) + c
    turned = p._replace(
        N=1, C=p.N, O=1, groups=1, flip=False, K=p.output_L,
        stride=p.kernel_dilation, kernel_dilation=p.stride,
    )  # fmt: skip
    at = (n - 1 - k if p.flip else k for k, n in zip(taps, p.K, strict=True))
    rows, cotangents = (np.moveaxis(a, 0, -1)[None] for a in (x[..., channel], dy[..., o]))
    return exact_output(turned, rows, cotangents, (0, *at, 0))


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


def extended(a: Any) -> np.ndarray:
    """`a` in extended precision where NumPy has it."""
    wide = np.asarray(a)
    return wide.astype(np.clongdouble if wide.dtype.kind == "c" else np.longdouble)


def ratio(value: Any, exact: Any, bound: float) -> float:
    """|value - exact| / bound; equal values have no error, infinities and NaN included."""
    if value == exact or (np.isnan(value) and np.isnan(exact)):
        return 0.0
    error = float(abs(value - exact))
    return math.inf if bound == 0 or not math.isfinite(error) else error / bound
