"""Filters that no cache holds, met piece by piece: the same bits as of filters that one holds."""

import math

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv import plan as plans
from mlxconv import processor, recycling, threads, workspace
from mlxconv.bench.shapes import Shape
from mlxconv.dispatch import plan
from mlxconv.kernels import direct, few_positions
from tests.conftest import forget_plans
from tests.guard import fate, guarded, needs_guard_pages
from tests.helpers import integer_array
from tests.memory_fuzz import GuardedNumPy

# input, filters, parameters; filters are as many as fill four panels for each of two cores, also of
# two vectors of 64 bytes
CASES = {
    "in place": ((1, 40, 37), (400, 3, 37), {}),
    "padded": ((1, 40, 37), (403, 3, 37), dict(padding=2)),
    "dilated": ((1, 60, 40), (400, 4, 40), dict(padding=9, dilation=5)),
    "strided": ((1, 90, 30), (400, 5, 30), dict(stride=2)),
    "taps of padding alone": ((1, 30, 24), (400, 3, 24), dict(padding=70, dilation=70)),
    "batch": ((3, 14, 50), (265, 2, 50), dict(padding=1)),
    "image": ((1, 7, 7, 24), (264, 3, 3, 24), dict(padding=1)),
    "groups": ((1, 40, 60), (400, 3, 30), dict(groups=2)),
    "a row too many": ((1, 26, 64), (264, 2, 64), {}),
}


@pytest.fixture
def small_pieces(monkeypatch):
    """Two cores, whose caches hold nothing, pieces of 32 rows or 16, and two tiles, since each has
    to be compiled: of one vector and of two, whatever the registers."""
    least_rows = sorted(direct.tiles(), key=lambda tile: tile.shape[0])
    wide, narrow = (next(t for t in least_rows if t.shape[1] == NV) for NV in (2, 1))
    tiles = wide, narrow
    monkeypatch.setattr(direct, "tiles", lambda: tiles)
    monkeypatch.setattr(processor, "cores", lambda: 2)
    monkeypatch.setattr(few_positions, "are_from_memory", lambda panels_bytes: True)
    monkeypatch.setattr(few_positions, "_shares_panels", lambda g, window, itemsize: True)
    monkeypatch.setattr(few_positions, "PIECE_BYTES", 128)
    monkeypatch.setattr(few_positions, "MOST_AHEAD", dict.fromkeys(few_positions.MOST_AHEAD, 8))
    forget_plans()
    yield
    forget_plans()


def convolve(x, w, **parameters):
    function = mlxconv.conv1d if x.ndim == 3 else mlxconv.conv2d
    return function(x, w, **parameters)


def prepared(w, **parameters):
    kind = mlxconv.Conv1d if w.ndim == 3 else mlxconv.Conv2d
    return kind(w, **parameters, variant="direct")


def data(name, dtype="float32"):
    x_shape, w_shape, parameters = CASES[name]
    rng = np.random.default_rng(len(name))
    return *(integer_array(rng, shape, dtype, 4) for shape in (x_shape, w_shape)), parameters


def pieces_of(x, w, parameters):
    """How many the filters are met in."""
    problem = mlxconv.explain(x, w, **parameters).problem
    g = plan(problem, "direct").schedule.geometry
    return -(-math.prod(w.shape[1:]) // int(g["piece"][0])) if g["piece"][0] else 0


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in CASES), ("padded", "float64"), ("batch", "float64")],
)
def test_sums_go_on_from_piece_to_piece(small_pieces, name, dtype):
    """Packed in the call or before, and from filters that lie otherwise."""
    x, w, parameters = data(name, dtype)
    expected = convolve(x, w, **parameters, variant="reference")
    assert pieces_of(x, w, parameters) > 2
    assert np.array_equal(convolve(x, w, **parameters, variant="direct"), expected)
    conv = prepared(w, **parameters)
    for _ in range(2):
        assert np.array_equal(conv(x), expected)
    turned = np.ascontiguousarray(np.moveaxis(w, -1, 1))
    assert np.array_equal(
        convolve(x, np.moveaxis(turned, 1, -1), **parameters, variant="direct"), expected
    )


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("batch", "image")])
def test_windows_too_long_to_be_copied(small_pieces, monkeypatch, name):
    """They meet pieces in two blocks of positions, each of which packs its own."""
    monkeypatch.setattr(few_positions, "WINDOWS_BYTES", 0)
    monkeypatch.setattr(few_positions, "_piece_blocks", lambda g: 2)
    x, w, parameters = data(name)
    expected = convolve(x, w, **parameters, variant="reference")
    found = plan(mlxconv.explain(x, w, **parameters).problem, "direct")
    assert pieces_of(x, w, parameters) > 2 and found.schedule.split[1][1] == 2
    assert np.array_equal(convolve(x, w, **parameters, variant="direct"), expected)
    assert np.array_equal(prepared(w, **parameters)(x), expected)


def test_input_of_another_type(small_pieces):
    """It is widened before; halves that are the result's type too are summed at once."""
    x, w, parameters = data("in place")
    half = x.astype(ml_dtypes.bfloat16)
    assert pieces_of(half, w, parameters) > 2
    y = convolve(half, w, **parameters, variant="direct")
    assert np.array_equal(y, convolve(x, w, **parameters))
    assert pieces_of(half, w.astype(half.dtype), parameters) == 0


@pytest.mark.parametrize("name", ("padded", "batch", "dilated"))
@pytest.mark.parametrize("bad", (np.inf, np.nan))
def test_padding_is_never_multiplied(small_pieces, name, bad):
    x, w, parameters = data(name)
    w[5, 0, 1], w[-1, -1, -1] = bad, bad
    expected = convolve(x, w, **parameters, variant="reference")
    assert 0 < np.isfinite(expected[..., 5]).sum() < expected[..., 5].size
    for y in (convolve(x, w, **parameters, variant="direct"), prepared(w, **parameters)(x)):
        assert np.array_equal(y, expected, equal_nan=True)


@needs_guard_pages
@pytest.mark.parametrize("name", CASES)
def test_nothing_beside_the_arrays_is_touched(small_pieces, monkeypatch, name):
    x, w, parameters = data(name)
    expected = convolve(x, w, **parameters, variant="direct")  # compiles
    for module in (plans, threads, workspace):
        monkeypatch.setattr(module, "np", GuardedNumPy())
    for module in (threads, recycling):
        monkeypatch.setattr(module, "aligned_empty", plans.np.empty)
    monkeypatch.setattr(recycling, "MOST_BYTES", 0)
    monkeypatch.setattr(workspace, "SMALL", (0, 0, 0))
    forget_plans()  # they know where results come from

    def act():
        for side in ("end", "start"):
            y = convolve(guarded(x, side), guarded(w, side), **parameters, variant="direct")
            assert np.array_equal(y, expected)

    assert fate(act) == "ok"


def test_filters_from_memory_are_met_in_pieces(monkeypatch):
    """Where positions are few, but enough tiles to ask for what is next."""
    monkeypatch.setattr(processor, "cores", lambda: 2)
    filters = 64 * -(-processor.far_bytes() // (4 * 1024 * 64)) + 8
    L = min(100, processor.caches().L2_bytes // (2 * few_positions.PIECE_BYTES))

    def rows(L, filters, channels=1024):
        problem = Shape(1, L, channels, filters, 1).problem()
        schedule = plan.__wrapped__(problem, "direct").schedule
        return int(schedule.geometry["piece"][0])

    assert rows(L, filters) == 512
    assert rows(6, filters) == rows(4 * filters, filters) == rows(L, filters // 4) == 0
    more = processor.caches().L2_bytes // few_positions.PIECE_BYTES + 1
    many = max(filters, 2 * more)
    for most, expected in ((more, 512), (more - 1, 0)):  # positions that two blocks are worth
        monkeypatch.setattr(few_positions, "WORTH_BLOCKS", most)
        assert rows(more, many) == 0 and rows(more, many, 1 << 14) == expected


def test_tiles_ask_for_all_of_a_piece():
    """Those of one panel together, each for a power of 2."""
    for positions, MR, NR, rows in [(77, 4, 24, 2), (24, 4, 24, 4), (96, 4, 24, 1), (20, 6, 16, 4)]:
        g = plan(Shape(1, positions, 64, 64, 1).problem(), "direct").schedule.geometry.copy()
        g["MR"], g["NR"] = MR, NR
        assert few_positions.rows_ahead(g) == rows
        assert rows * -(-positions // MR) >= NR
