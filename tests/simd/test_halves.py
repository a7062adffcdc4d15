"""Words on memory of half types: every bit pattern widened, and rounding at every halfway, by the
instructions of this machine and in integer arithmetic, against NumPy and ml_dtypes."""

import numba
import numpy as np
import pytest

from mlxconv import processor
from mlxconv.arrays import BITS
from mlxconv.simd.shuffles import broadcast_each
from mlxconv.simd.static import kernel
from mlxconv.simd.vector import VECTORS
from mlxconv.simd.words import broadcast, load, load_n, store, store_n
from tests.guard import fate, guarded, needs_guard_pages
from tests.kernels.test_elements import (
    ALL_BITS,
    as_floats,
    as_halves,
    assert_same,
    half_types,
    near_all_halves,
    special_floats,
)

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is lowered without a JIT")
singles = pytest.mark.parametrize(
    "vec", [v for v in VECTORS.values() if v.dtype == np.float32], ids=str
)
INTEGER = (False, True)  # whether conversions are done in integer arithmetic


@pytest.fixture(params=INTEGER, ids=("instructions", "integers"))
def by(request, monkeypatch):
    """How: 1 if in integer arithmetic, part of the names of the kernels that are compiled so."""
    if request.param:
        for instruction in ("converts_float16", "rounds_to_bfloat16"):
            monkeypatch.setattr(processor, instruction, lambda: False)
    return int(request.param)


def copying(vec, BY):
    """A kernel that copies vectors, and what is left."""
    LANES = vec.lanes

    def copy_probe(a, b):
        whole = a.size // LANES * LANES
        for i in range(0, whole, LANES):
            store(load(vec, a, i), b, i)
        store_n(load_n(vec, a, whole, a.size - whole), b, whole, a.size - whole)
        return BY

    return kernel(copy_probe, no_cpython_wrapper=False)


@singles
@half_types
def test_all_bit_patterns(half, vec, by):
    got, bits = np.empty(ALL_BITS.size - 3, np.float32), ALL_BITS[3:].view(BITS[half])
    copying(vec, by)(bits, got)
    expected = as_floats(half, ALL_BITS[3:])
    assert_same(got.view(np.uint32), expected.view(np.uint32), lambda b: b.view(np.float32))
    meant = np.empty_like(got)
    copying(vec, by).py_func(bits, meant)
    assert np.array_equal(meant, expected, equal_nan=True)


@singles
@half_types
def test_rounding(half, vec, by):
    values = np.concatenate([special_floats(), near_all_halves(half)])
    got, meant = np.empty((2, values.size), BITS[half])
    copying(vec, by)(values, got)
    copying(vec, by).py_func(values, meant)
    expected = as_halves(half, values)
    for bits in (got, meant):
        assert_same(bits.view(np.uint16), expected, lambda b: as_floats(half, b))


@singles
@half_types
def test_repeated_elements(half, vec):
    """broadcast, and broadcast_each with a step that one load brings, and with any."""
    LANES, HALF = vec.lanes, vec.lanes // 2

    def repeat_probe(a, step, b):
        store(broadcast(vec, a, 1), b, 0)
        store(broadcast_each(vec, a, 0, 3, HALF, 0, 1), b, LANES)
        store(broadcast_each(vec, a, 0, step, HALF, 1, 2), b, 2 * LANES)
        store(broadcast_each(vec, a, 0, 2, HALF, 1, 2), b, 3 * LANES)

    numbers = np.array([1.5, -2.0, 4.0, 0.25])
    bits = as_halves(half, numbers.astype(np.float32)).view(BITS[half])
    probe, got = kernel(repeat_probe, no_cpython_wrapper=False), np.empty(4 * LANES, np.float32)
    for compute in (probe, probe.py_func):
        compute(bits, 2, got)
        expected = [(-2.0, -2.0), (1.5, 0.25), (-2.0, 0.25), (-2.0, 0.25)]
        assert np.array_equal(got, np.repeat(np.ravel(expected), HALF))


@needs_guard_pages
@singles
@half_types
def test_nothing_else_is_touched(half, vec):
    copy = copying(vec, 0)
    copy(np.zeros(1, BITS[half]), np.zeros(1, BITS[half]))
    for size in (1, vec.lanes - 1, vec.lanes, 2 * vec.lanes + 1):
        a, b = (guarded(np.ones(size, BITS[half]), side) for side in ("end", "end"))
        assert fate(lambda a=a, b=b: copy(a, b)) == "ok"
        copy(a, b)
        assert np.array_equal(a, b)


def test_bits_are_lanes_of_float32_only():
    double = VECTORS["f64x4"]
    for bits in BITS.values():
        with pytest.raises(numba.TypingError, match="f64x4 needs a flat C-contiguous float64"):
            copying(double, 0)(np.zeros(8, bits), np.zeros(8))
