"""The half types: widened for every bit pattern there is, rounded at and around every halfway."""

import os
import platform
import subprocess
import sys

import ml_dtypes
import numba
import numpy as np
import pytest

from mlxconv.arrays import BITS
from mlxconv.kernels import elements
from mlxconv.kernels.elements import Elements
from mlxconv.simd.static import kernel

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ALL_BITS = np.arange(1 << 16, dtype=np.uint16)
half_types = pytest.mark.parametrize("half", HALVES)


def applied(convert):
    """`convert` in the loop it stands in, which LLVM turns into vectors."""
    convert_run = elements.converts_runs(convert)

    @kernel(no_cpython_wrapper=False)
    def apply(values, results):
        convert_run(values, 0, results, 0, values.size)

    return apply


def widened(half, bits):
    results = np.empty(bits.shape, np.float32)
    applied(Elements(half, half).widen)(bits.view(BITS[half]), results)
    return results


def narrowed(half, values):
    results = np.empty(values.shape, np.uint16)
    applied(Elements(half, half).narrow)(values, results.view(BITS[half]))
    return results


def as_floats(half, bits):
    """What the peer library makes of the bits of a half type."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        return bits.view(HALVES[half]).astype(np.float32)


def as_halves(half, values):
    """... and of float32 numbers."""
    with np.errstate(all="ignore"):
        return values.astype(HALVES[half]).view(np.uint16)


def near_all_halves(half):
    """float32 numbers: every half, every halfway to its neighbour, and what lies 1 ulp beside."""
    finite = ALL_BITS[np.isfinite(as_floats(half, ALL_BITS))]
    exact = as_floats(half, finite)
    above, below = (as_floats(half, finite + np.uint16(step)) for step in (1, -1 & 0xFFFF))
    following = np.where(np.isinf(above), 2.0 * exact.astype(np.float64) - below, above)
    halfway = ((exact + following) / 2).astype(np.float32)
    assert np.isfinite(halfway).all()
    points = np.concatenate([exact, halfway])
    bits = points.view(np.int32)
    return np.concatenate([points, (bits + 1).view(np.float32), (bits - 1).view(np.float32)])


def special_floats():
    """Infinities, NaN of all kinds, the ends of the range, subnormals, and random bits."""
    bits = [0x7F800000, 0x7F800001, 0x7F801FFF, 0x7F802000, 0x7F80FFFF, 0x7FBFFFFF, 0x7FC00000]
    bits += [0x7FFFFFFF, 0x7F7FFFFF, 0x00000001, 0x007FFFFF, 0x00800000, 0x00000000]
    positive = np.array(bits, np.uint32)
    random = np.random.default_rng(0).integers(0, 2**32, 300_000, np.uint32)
    return np.concatenate([positive, positive | np.uint32(1 << 31), random]).view(np.float32)


def assert_same(got, expected, number):
    """Equal bits; NaN for NaN, of the same sign.  `number` says what the bits stand for."""
    with np.errstate(invalid="ignore"):
        nan, expected_nan = np.isnan(number(got)), np.isnan(number(expected))
    top = got.dtype.type(1 << (8 * got.itemsize - 1))
    same = np.where(expected_nan, nan & ((got ^ expected) & top == 0), got == expected)
    wrong = [f"{got[i]:#x}, expected {expected[i]:#x}" for i in np.flatnonzero(~same)[:5]]
    assert same.all(), f"{np.count_nonzero(~same)} wrong, such as {wrong}"


@half_types
def test_widening_all_bit_patterns(half):
    got, expected = widened(half, ALL_BITS), as_floats(half, ALL_BITS)
    assert_same(got.view(np.uint32), expected.view(np.uint32), lambda b: b.view(np.float32))


@half_types
def test_arrays_widen_as_their_elements(half):
    a = ALL_BITS.view(HALVES[half]).reshape(4, -1)
    got, expected = elements.converted(a, np.dtype("f4")), widened(half, ALL_BITS)
    assert np.array_equal(got.view(np.uint32).ravel(), expected.view(np.uint32))
    ones = np.ones((3, 4), HALVES[half])[:, ::2]
    assert np.array_equal(elements.converted(ones, np.dtype("f8")), np.ones((3, 2)))
    assert elements.converted(a, HALVES[half]) is a


@half_types
def test_rounding_near_all_halfways(half):
    values = near_all_halves(half)
    assert len(values) > 6 * 63000
    got, expected = narrowed(half, values), as_halves(half, values)
    assert_same(got, expected, lambda bits: as_floats(half, bits))


@half_types
def test_rounding_specials(half):
    values = special_floats()
    got, expected = narrowed(half, values), as_halves(half, values)
    assert_same(got, expected, lambda bits: as_floats(half, bits))


@half_types
def test_there_and_back(half):
    """Rounding what a half stands for gives the half."""
    numbers = ALL_BITS[~np.isnan(as_floats(half, ALL_BITS))]
    assert np.array_equal(narrowed(half, widened(half, numbers)), numbers)


def test_overflow_and_underflow_of_float16():
    """Halfway between the largest number and the next is infinity; half the smallest is 0."""
    values = np.array([65504, 65519.996, 65520, 1e6, 2.0**-25, 2.0**-25 * 1.0001], np.float32)
    expected = [0x7BFF, 0x7BFF, 0x7C00, 0x7C00, 0x0000, 0x0001]
    assert narrowed("float16", values).tolist() == expected
    assert narrowed("float16", -values).tolist() == [0x8000 | bits for bits in expected]


def test_overflow_of_bfloat16():
    largest = np.array([0x7F7F7FFF, 0x7F7F8000], np.uint32).view(np.float32)
    assert narrowed("bfloat16", largest).tolist() == [0x7F7F, 0x7F80]


@half_types
@np.errstate(all="ignore")
def test_as_plain_python(half):
    """The same functions without Numba, on a part of the same numbers."""
    plain = [
        getattr(f, "py_func", f) for f in (Elements(half, half).widen, Elements(half, half).narrow)
    ]
    widen, narrow = plain
    bits = ALL_BITS[::37]
    got = np.array([widen(b) for b in bits.view(BITS[half])], np.float32)
    assert_same(
        got.view(np.uint32), as_floats(half, bits).view(np.uint32), lambda b: b.view(np.float32)
    )
    values = np.concatenate([near_all_halves(half)[::211], special_floats()[:26]])
    got = np.array([narrow(v) for v in values], BITS[half]).view(np.uint16)
    assert_same(got, as_halves(half, values), lambda b: as_floats(half, b))


ROLES = [  # input, output -> arithmetic, types in memory of x and of w and y, of windows in vectors
    ("float32", "float32", "float32", "float32", "float32", "float32"),
    ("float64", "float64", "float64", "float64", "float64", "float64"),
    ("float16", "float16", "float32", "uint16", "uint16", "uint16"),
    ("bfloat16", "bfloat16", "float32", "int16", "int16", "int16"),
    ("float16", "float32", "float32", "uint16", "float32", "uint16"),
    ("bfloat16", "float64", "float64", "int16", "float64", "float64"),
    ("float32", "float64", "float64", "float32", "float64", "float64"),
]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: f"{role[0]} to {role[1]}")
def test_roles_of_types(role):
    given, result, arithmetic, x, y, window = role
    types, in_vectors = Elements(given, result), Elements(given, result, in_vectors=True)
    assert types.dtype == types.window == arithmetic and in_vectors.window == window
    assert types.converts == (given != arithmetic) and in_vectors.converts == (x != window)
    assert (types.name == in_vectors.name) == (window == arithmetic)
    assert [types.arrays()[name] for name in "xwy"] == [x, y, y]
    assert {types.arrays()[name] for name in ("panels", "scratch")} == {arithmetic}
    assert (types.widen is elements.unchanged) == (given not in HALVES)
    assert (types.narrow is elements.unchanged) == (result not in HALVES)


@pytest.mark.skipif(
    numba.config.DISABLE_JIT or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="compiles for another x86 processor",
)
def test_without_conversion_instructions():
    """All of the above on a processor that has SSE2 and nothing else."""
    tests = ["-k", "widening or rounding or flow"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, __file__],
        env={**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
