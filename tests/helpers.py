"""What the tests measure against: the definition in plain NumPy, and the bound on its rounding.

    y[n, l, o] = sum over taps k, channels c of x[n, (l*stride - lo + k*dilation) / idil, c]
                 * w[o, k, c]

over those taps whose row is an element of the input, per group, on one to three spatial axes.
Padding is never multiplied, so a NaN among the weights stays away from outputs that only meet it
in padding; negative padding crops the dilated input.
"""

import itertools
import math

import numpy as np
import pytest

import mlxconv
from mlxconv.dispatch import VARIANTS, able

HALF = ("float16", "bfloat16")
KERNELS = tuple(row.name for row in VARIANTS if row.keeps_bits)  # all but the FFT


def per_axis(value, rank):
    """`value` as one int per spatial axis."""
    return (int(value),) * rank if np.ndim(value) == 0 else tuple(map(int, value))


def output_extents(L, K, stride=1, padding_lo=0, padding_hi=0, kernel_dilation=1, input_dilation=1):
    """Output positions per axis, for input extents L and taps K."""
    parameters = (stride, padding_lo, padding_hi, kernel_dilation, input_dilation)
    axes = zip(L, K, *(per_axis(p, len(L)) for p in parameters), strict=True)
    return tuple(
        ((1 + idil * (n - 1) if n else 0) + lo + hi - (1 + d * (k - 1))) // s + 1
        for n, k, s, lo, hi, d, idil in axes
    )


def reference(
    x,
    w,
    stride=1,
    padding_lo=0,
    padding_hi=0,
    kernel_dilation=1,
    input_dilation=1,
    groups=1,
    flip=False,
    dtype=np.longdouble,
):
    """The convolution of `x` (N, ..., C) with `w` (O, ..., C / groups), summed in `dtype`.

    int64 makes it exact for data of small integers; complex data is summed in complex longdouble.
    """
    dtype = _sum_type(dtype, x, w)
    rank, N, C, O = x.ndim - 2, x.shape[0], x.shape[-1], w.shape[0]
    L, K = x.shape[1:-1], w.shape[1:-1]
    stride, lo = per_axis(stride, rank), per_axis(padding_lo, rank)
    dilation, idil = per_axis(kernel_dilation, rank), per_axis(input_dilation, rank)
    out = output_extents(L, K, stride, lo, padding_hi, dilation, idil)
    assert min(out) > 0, "the window is longer than the padded input"
    x = _widened(x, dtype).reshape(N, *L, groups, C // groups)
    w = _widened(w, dtype).reshape(groups, O // groups, *K, C // groups)
    if flip:
        w = np.flip(w, tuple(range(2, 2 + rank)))
    y = np.zeros((N, *out, groups, O // groups), dtype)
    for taps in itertools.product(*map(range, K)):
        axes = (out, L, stride, lo, dilation, idil)
        met = [rows_met(k, *sizes) for k, *sizes in zip(taps, *axes, strict=True)]
        positions, rows = np.ix_(*(p for p, _ in met)), np.ix_(*(r for _, r in met))
        products = np.einsum(
            "n...gc,goc->n...go", x[(slice(None), *rows)], w[(slice(None), slice(None), *taps)]
        )
        y[(slice(None), *positions)] += products
    return y.reshape(N, *out, O)


def rows_met(k, out, L, stride, lo, dilation, idil):
    """(output positions whose tap k meets an element of the input, the rows it meets)."""
    positions = np.arange(out)
    at = positions * stride - lo + k * dilation
    inside = (at >= 0) & (at % idil == 0) & (at // idil < L)
    return positions[inside], at[inside] // idil


def magnitude(x, w, *parameters, **named):
    """The same sum over absolute values: what the error of a convolution is measured by.

    In double precision, which is quick and for a bound enough, unless the data are double too.
    """
    double = any(sum_dtype(a.dtype).itemsize > 4 for a in (x, w))
    dtype = np.longdouble if double else np.float64
    return reference(_absolute(x), _absolute(w), *parameters, **{"dtype": dtype, **named})


def accumulations(w):
    """Terms in the sum of one output component: K * C / groups, twice that of complex numbers."""
    return math.prod(w.shape[1:]) * (2 if np.dtype(w.dtype).kind == "c" else 1)


def gamma(n, dtype):
    """n u / (1 - n u): the relative error of n accumulations in the arithmetic of `dtype`."""
    nu = n * unit_roundoff(sum_dtype(dtype))
    assert nu < 1, f"{n} accumulations in {dtype} have no error bound"
    return nu / (1 - nu)


def unit_roundoff(dtype):
    return np.longdouble(_finfo(dtype).eps) / 2


def sum_dtype(dtype):
    """The real type in which sums of `dtype` are formed: float32 for the half types."""
    if np.dtype(dtype).name in HALF:
        return np.dtype(np.float32)
    return np.zeros(0, dtype).real.dtype


def bound(exact, sums, n, dtype):
    """The largest error of a convolution computed in, and returned as, `dtype`.

    gamma_n of the arithmetic, half a subnormal for each product and sum that may underflow, and
    one rounding of `exact` where the result is narrower than the arithmetic.
    """
    arithmetic = sum_dtype(dtype)
    error = gamma(n, arithmetic) * sums
    error += n * np.longdouble(_finfo(arithmetic).smallest_subnormal)
    if np.dtype(dtype).name in HALF:
        error += unit_roundoff(dtype) * (np.abs(exact) + error)
        error += np.longdouble(_finfo(dtype).smallest_subnormal) / 2
    return error


def assert_within(y, expected, sums, n, dtype=None, what=""):
    """Assert |y - expected| <= bound, element by element and per part of complex numbers.

    `expected` was computed in its own type and may be as wrong as that allows.  NaN must be NaN
    and infinities must agree; a sum too large for its type may also be infinite.
    """
    dtype = np.dtype(y.dtype if dtype is None else dtype)
    assert y.shape == expected.shape, f"{what} shape {y.shape}, expected {expected.shape}"
    if np.iscomplexobj(y) or np.iscomplexobj(expected):
        for part in ("real", "imag"):
            y_part, expected_part = getattr(y, part), getattr(expected, part)
            part_dtype = np.zeros(0, dtype).real.dtype
            assert_within(y_part, expected_part, sums, n, part_dtype, f"{what} {part} part:")
        return
    wide, expected_wide = _widened(y, np.longdouble), _widened(expected, np.longdouble)
    finite = np.isfinite(expected_wide) & np.isfinite(sums)
    exact, sums = np.where(finite, expected_wide, 0), np.where(finite, sums, 0)
    allowed = bound(exact, sums, n, dtype) + bound(exact, sums, n, expected.dtype)
    with np.errstate(invalid="ignore"):
        error = np.abs(wide - expected_wide)
    same = (wide == expected_wide) | (np.isnan(wide) & np.isnan(expected_wide))
    largest = np.longdouble(_finfo(dtype).max)
    overflows = np.isinf(wide) & finite & (np.sign(wide) * expected_wide + allowed >= largest)
    good = same | overflows | (finite & (error <= allowed))
    assert good.all(), _worst(wide, expected_wide, error, allowed, good, what)


def assert_close(
    y,
    x,
    w,
    stride=1,
    padding_lo=0,
    padding_hi=0,
    kernel_dilation=1,
    input_dilation=1,
    groups=1,
    flip=False,
):
    """Assert that `y` is the convolution of `x` with `w` within the bound for y's type."""
    parameters = (stride, padding_lo, padding_hi, kernel_dilation, input_dilation, groups, flip)
    with np.errstate(invalid="ignore"):  # inf - inf among the data is NaN, here as in any kernel
        expected = reference(x, w, *parameters)
        sums = magnitude(x, w, *parameters)
    assert_within(y, expected, sums, accumulations(w))


def random_array(rng, shape, dtype):
    """Standard normal numbers of `dtype`, complex if it is."""
    dtype = np.dtype(dtype)
    values = rng.standard_normal(shape)
    if dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def integer_array(rng, shape, dtype, largest=8):
    """Integers of `dtype` so small that every order of summation is exact."""
    dtype = np.dtype(dtype)
    values = rng.integers(-largest, largest + 1, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.integers(-largest, largest + 1, shape)
    return values.astype(dtype)


def _sum_type(dtype, x, w):
    complex_data = np.iscomplexobj(x) or np.iscomplexobj(w)
    wider = {"longdouble": np.clongdouble, np.dtype(np.longdouble).name: np.clongdouble}
    return wider.get(np.dtype(dtype).name, dtype) if complex_data else dtype


def _widened(a, dtype):
    """`a` in `dtype`, by way of float32 where NumPy has no direct road (bfloat16)."""
    return (a.astype(np.float32) if a.dtype.name in HALF else a).astype(dtype)


def _absolute(a):
    return np.abs(_widened(a, np.clongdouble if np.iscomplexobj(a) else np.longdouble))


def _finfo(dtype):
    if np.dtype(dtype).name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.finfo(dtype)
    return np.finfo(dtype)


def _worst(y, expected, error, allowed, good, what):
    """Where and by how much the worst element is out of bounds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(good, -1, np.nan_to_num(error / allowed, nan=np.inf))
    at = np.unravel_index(np.argmax(excess), y.shape)
    index = tuple(map(int, at))
    return (
        f"{what} {np.count_nonzero(~good)} of {y.size} elements are out of bounds; worst at "
        f"{index}: got {y[at]}, expected {expected[at]}, error {error[at]:.3g} = "
        f"{excess[at]:.3g} times the bound {allowed[at]:.3g}"
    )


def least_filters(variant):
    """Of a group, that this kernel computes on any machine."""
    return 8 if variant == "channels_first" else 1


def skip_unless_able(variant, x, w, **named):
    """Skip the test where this kernel does not compute the problem."""
    if variant not in able(mlxconv.explain(x, w, **named).problem):
        pytest.skip(f"{variant} does not compute this problem")
