"""Outputs that are written past the caches: the same bits, wherever they lie."""

import numpy as np
import pytest

import mlxconv
from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES, aligned_empty
from mlxconv.dispatch import plan
from tests.helpers import integer_array

PERIOD = 1000  # rows after which the input repeats
# dtype, channels, groups, filters, taps: of whole lines, and of others
STREAMED = [
    ("float32", 2, 1, 128, 3),
    ("float64", 3, 1, 64, 2),
    ("float32", 256, 64, 256, 3),
    ("float32", 64, 64, 64, 4),
]
STORED = [("float32", 2, 1, 130, 3), ("float32", 40, 40, 40, 4), ("float16", 2, 1, 128, 3)]


def streams(x, w, groups):
    parts = plan(mlxconv.explain(x, w, groups=groups).problem).schedule.parts
    (tile,) = (part for part in parts if part.field == "tile")
    return "STREAMS1" in tile.kernel.__name__


def large(dtype, channels, groups, filters, taps):
    """A problem whose arrays no cache holds, of numbers that repeat."""
    L3 = processor.caches().L3_bytes
    if L3 > 1 << 28:
        pytest.skip(f"a cache of {L3 >> 20} MB would take an array as large")
    rng = np.random.default_rng(0)
    times = 1 + L3 // (PERIOD * (channels + filters) * np.dtype(dtype).itemsize)
    x = np.tile(integer_array(rng, (1, PERIOD, channels), dtype), (1, times, 1))
    return x, integer_array(rng, (filters, taps, channels // groups), dtype)


@pytest.mark.parametrize(("dtype", "channels", "groups", "filters", "taps"), STREAMED + STORED)
def test_large_outputs(dtype, channels, groups, filters, taps):
    """They equal those of the first rows, which caches hold, again and again; at the start of a
    cache line and anywhere."""
    x, w = large(dtype, channels, groups, filters, taps)
    avx512 = processor.vector_bytes() == CACHE_LINE_BYTES
    expected = (dtype, channels, groups, filters, taps) in STREAMED and (avx512 or groups == 1)
    assert streams(x, w, groups) == expected
    period = mlxconv.conv1d(x[:, : PERIOD + taps - 1], w, groups=groups)
    assert not streams(x[:, : PERIOD + taps - 1], w, groups)
    L, O = x.shape[1] - taps + 1, len(w)
    for shift in (0, 1):
        memory, first = aligned_empty(L * O + 128, dtype), 64 + shift
        memory[:] = 0
        out = memory[first : first + L * O].reshape(1, L, O)
        assert mlxconv.conv1d(x, w, groups=groups, out=out) is out
        for start in range(0, L, PERIOD):
            piece = out[:, start : start + PERIOD]
            assert np.array_equal(piece, period[:, : piece.shape[1]]), start
        assert not memory[:first].any() and not memory[first + L * O :].any()
