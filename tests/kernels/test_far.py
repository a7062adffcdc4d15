"""Arrays that no cache holds, written past the caches or read ahead: the same bits as of others."""

import re

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES, aligned_empty
from mlxconv.dispatch import plan
from mlxconv.kernels import blocking
from mlxconv.kernels.dot_tiling import tiles_ahead
from tests.conftest import forget_plans
from tests.helpers import integer_array

AHEAD = re.compile(r"[A-Z]+_AHEAD[1-9]\d*")  # in the name of a micro-kernel
PERIOD = 1000  # rows after which the input repeats
# dtype, channels, groups, filters, taps: of whole lines, and of others
STREAMED = [
    ("float32", 2, 1, 128, 3),
    ("float64", 3, 1, 64, 2),
    ("float32", 256, 64, 256, 3),
    ("float32", 64, 64, 64, 4),
]
STORED = [("float32", 2, 1, 130, 3), ("float32", 40, 40, 40, 4), ("float16", 2, 1, 128, 3)]


def tile_of(x, w, variant=None, **parameters):
    """The name of the micro-kernel, which says how it was made."""
    parts = plan(mlxconv.explain(x, w, **parameters).problem, variant).schedule.parts
    (tile,) = (part for part in parts if part.field == "tile")
    return tile.kernel.__name__


def streams(x, w, groups):
    return "STREAMS1" in tile_of(x, w, groups=groups)


def large(dtype, channels, groups, filters, taps):
    """A problem whose arrays no cache holds, of numbers that repeat."""
    L3 = processor.caches().L3_bytes
    if L3 > 1 << 28:
        pytest.skip(f"a cache of {L3 >> 20} MB would take an array as large")
    rng = np.random.default_rng(0)
    far = max(L3, processor.streamed_bytes())
    times = 1 + far // (PERIOD * (channels + filters) * np.dtype(dtype).itemsize)
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


@pytest.mark.parametrize(
    ("variant", "dtype", "groups", "channels", "filters", "ahead"),
    [
        ("direct", "float32", 12, 18, 20, "GROUPS_AHEAD2"),
        ("direct", "float64", 12, 16, 20, "GROUPS_AHEAD2"),
        ("direct", "float16", 12, 18, 20, ""),
        ("direct", "float32", 12, 40, 20, "TILES_AHEAD1"),
        ("direct", "float64", 12, 17, 12, "TILES_AHEAD1"),
        ("direct", "float64", 1, 17, 8, "TILES_AHEAD1"),
        ("direct", "float32", 1, 18, 20, "TILES_AHEAD1"),
        ("grouped", "float32", 6, 4, 4, "TILES_AHEAD1"),
        ("grouped", "float32", 6, 9, 3, "TILES_AHEAD1"),
        ("grouped", "float16", 6, 4, 4, "TILES_AHEAD1"),
        ("depthwise", "float32", 40, 1, 1, "TILES_AHEAD1"),
        ("depthwise", "bfloat16", 40, 1, 1, "TILES_AHEAD1"),
        ("depthwise", "float64", 500, 1, 1, "TILES_AHEAD1"),
        ("depthwise", "float64", 1024, 1, 1, ""),
        ("dot", "float32", 1, 128, 3, "TILES_AHEAD"),
        ("dot", "float32", 1, 48, 3, "TILES_AHEAD"),
        ("dot", "float32", 1, 480, 3, "TILES_AHEAD"),
        ("dot", "float32", 1, 112, 2, "TILES_AHEAD"),
        ("dot", "float32", 1, 64, 1, "TILES_AHEAD"),
    ],
)
@pytest.mark.parametrize("far", (True, False))
@pytest.mark.parametrize(("stride", "dilation", "padding"), ((1, 1, 1), (3, 2, 0), (1, 5, 12)))
def test_input_that_is_asked_for(
    monkeypatch, variant, dtype, groups, channels, filters, ahead, far, stride, dilation, padding
):
    """It is where it is far, behind its end as well; the outputs are what they are without."""
    rng = np.random.default_rng(1)
    kind = np.dtype(getattr(ml_dtypes, dtype)) if dtype == "bfloat16" else dtype
    x = integer_array(rng, (2, 90, groups * channels), kind, 2)
    w = integer_array(rng, (groups * filters, 4, channels), kind, 2)
    parameters = dict(stride=stride, dilation=dilation, padding=padding, groups=groups)
    expected = mlxconv.conv1d(x, w, variant="reference", **parameters)
    for size in ("far_bytes", "read_bytes"):
        monkeypatch.setattr(processor, size, lambda: 1 if far else 1 << 40)
    forget_plans()
    try:
        problem = mlxconv.explain(x, w, **parameters).problem
        ahead += str(tiles_ahead(problem)) if variant == "dot" else ""  # by the size of rows
        picked = plan(problem).variant
        assert picked == variant or (picked, variant) == ("channels_first", "direct")
        name = tile_of(x, w, variant, **parameters)
        assert AHEAD.findall(name) == ([ahead] if far and ahead else [])
        q = mlxconv.Conv1d(w, **parameters, variant=variant)
        assert np.array_equal(q(x), expected)
    finally:
        forget_plans()


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("filters", (97, 102, 130, 160))
@pytest.mark.parametrize("bad", (0.0, np.inf))
@pytest.mark.parametrize(
    ("shape", "stride", "padding"),
    [
        ((16, 14), 1, 0),
        ((8, 14), 1, 1),
        ((8, 15), 1, 1),
        ((8, 20), 1, 2),
        ((8, 57), 2, 2),
        ((1, 400), 1, 0),
    ],
)
def test_rows_that_are_kept(monkeypatch, dtype, filters, bad, shape, stride, padding):
    """Outputs are what they are without, wherever rows begin in a line, and nothing beside them is
    written: one row of a tile's or several, the last ones computed behind others."""
    rng = np.random.default_rng(2)
    x, w = (integer_array(rng, s, dtype) for s in ((*shape, 2), (filters, 3, 2)))
    w[7, 1, 1] = bad
    conv = mlxconv.Conv1d(w, stride, padding)
    expected = conv(x)
    monkeypatch.setattr(blocking, "are_far", lambda moved_bytes: True)
    forget_plans()
    try:
        conv = mlxconv.Conv1d(w, stride, padding)
        p = mlxconv.explain(x, w, stride=stride, padding=padding).problem
        kept = plan(p).schedule.geometry["keeps_rows"][0]
        assert kept == (filters * x.itemsize % CACHE_LINE_BYTES > 0)
        for shift in range(0, CACHE_LINE_BYTES // x.itemsize, 3):
            memory, first = aligned_empty(expected.size + 128, dtype), 64 + shift
            memory[:] = 7
            out = memory[first : first + expected.size].reshape(expected.shape)
            assert np.array_equal(conv(x, out=out), expected, equal_nan=True)
            assert (memory[:first] == 7).all() and (memory[first + expected.size :] == 7).all()
    finally:
        forget_plans()


@pytest.mark.parametrize("stride", (2, 3))
def test_rows_that_are_apart_are_not_kept(monkeypatch, stride):
    """Those of a transposed convolution, each phase of which writes some of the positions."""
    rng = np.random.default_rng(3)
    x, w = integer_array(rng, (2, 200, 4), "float32"), integer_array(rng, (100, 5, 4), "float32")
    expected = mlxconv.conv_transpose1d(x, w, stride=stride)
    monkeypatch.setattr(blocking, "are_far", lambda moved_bytes: True)
    forget_plans()
    try:
        assert np.array_equal(mlxconv.ConvTranspose1d(w, stride=stride)(x), expected)
    finally:
        forget_plans()
