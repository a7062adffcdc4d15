"""Few filters on many positions: register tiles over the sum."""

import numpy as np
import pytest

import mlxconv
from mlxconv import processor
from mlxconv.dispatch import plan
from mlxconv.kernels import dot
from mlxconv.kernels.dot_tiling import (
    FEW_ROWS,
    MOST_FILTERS,
    RAGGED,
    SLIDING,
    best_tile,
    meets_few_filters,
    stay,
    tiles,
)
from mlxconv.kernels.geometry import STAYS, STAYS_ALIGNED
from tests.helpers import integer_array, reference

LANES = processor.vector_bytes() // 4

# input, filters, parameters; channels fill vectors, then the last one of a tap holds the rest
FEW = [
    ((1, 100, 2 * LANES), (1, 7, 2 * LANES), {"padding": 3}),
    ((2, 70, LANES), (1, 31, LANES), {"padding": 15}),
    ((1, 90, LANES), (1, 9, LANES), {"stride": 2}),
    ((1, 8, 40, 2 * LANES), (1, 3, 5, 2 * LANES), {"padding": (1, 2)}),
    ((3, 41, LANES), (2, 5, LANES), {"padding": 7, "dilation": 3}),
    ((2, 60, 4 * LANES), (3, 4, 4 * LANES), {"stride": 2}),
    ((2, 9, LANES), (4, 2, LANES), {}),
    ((1, 50, 6 * LANES), (9, 3, 2 * LANES), {"padding": 2, "groups": 3}),
    ((2, 12, 17, LANES), (3, 3, 4, LANES), {"padding": (1, 2), "stride": (1, 2)}),
    ((1, 5, 6, 20, LANES), (2, 2, 3, 3, LANES), {"padding": 1, "dilation": (1, 2, 1)}),
    ((4, 3, 3, LANES), (4, 3, 3, LANES), {"padding": 1}),
]
if RAGGED[processor.registers()]:
    FEW += [
        ((2, 40, LANES + 3), (3, 5, LANES + 3), {"padding": 4}),
        ((2, 70, 3 * LANES - 1), (1, 9, 3 * LANES - 1), {"padding": 4, "stride": 2}),
        ((2, 170, 2 * LANES + 4), (1, 31, 2 * LANES + 4), {"padding": 15}),
        ((1, 33, 1), (3, 3, 1), {"padding": 2}),
        ((3, 41, 2), (1, 31, 2), {"padding": 15}),
        ((2, 41, LANES - 2), (2, 5, LANES - 2), {"padding": 7, "dilation": 3}),
        ((2, 12, 17, 5), (3, 3, 4, 5), {"padding": (1, 2), "stride": (1, 2)}),
    ]
MOST = MOST_FILTERS
FEW += [((2, 31, 3 * LANES), (n, 3, 3 * LANES), {"padding": 1}) for n in range(5, MOST + 1)]
CONV = {1: mlxconv.conv1d, 2: mlxconv.conv2d, 3: mlxconv.conv3d}


def exact(x, w, parameters, kind):
    p = mlxconv.explain(x, w, **parameters).problem
    return reference(
        x, w, p.stride, p.padding_lo, p.padding_hi, p.kernel_dilation, groups=p.groups, dtype=kind
    ).astype(x.dtype)


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16"))
@pytest.mark.parametrize(("shape", "w_shape", "parameters"), FEW)
def test_few_filters(shape, w_shape, parameters, dtype, always_parallel):
    """Exact, on one thread and several."""
    rng = np.random.default_rng(0)
    x, w = (integer_array(rng, s, dtype, 2) for s in (shape, w_shape))
    p = mlxconv.explain(x, w, **parameters).problem
    assert meets_few_filters(p)
    rows, some = best_tile(p).shape
    most = {tile.shape[1]: tile.shape[0] for tile in tiles()}
    most[1] = max(most[1], SLIDING[processor.registers()][0])  # one filter may stay in registers
    assert some <= p.O // p.groups and rows <= most[some]
    assert plan(p, "dot").schedule.tile.split()[0] == f"{rows}x{some}"
    for threads in (1, 2, 3):
        stream = mlxconv.Stream(threads)
        y = CONV[len(p.K)](x, w, **parameters, stream=stream, variant="dot")
        assert np.array_equal(y, exact(x, w, parameters, np.int64))


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16"))
@pytest.mark.parametrize(("K", "stride"), [(4, 1), (7, 1), (31, 1), (9, 2), (14, 3)])
def test_one_filter_in_registers_sums_in_the_same_order(K, stride, dtype):
    """The same bits where positions lie further apart, and each vector of x meets one of them."""
    rng = np.random.default_rng(K)
    C = processor.vector_bytes() // np.dtype(dtype).itemsize
    apart = rng.standard_normal((2, 97, 2 * C)).astype(dtype)[..., :C]
    w = rng.standard_normal((1, K, C)).astype(dtype)
    x = np.ascontiguousarray(apart)
    y = [mlxconv.conv1d(a, w, stride, variant="dot") for a in (x, apart)]
    assert np.array_equal(*y)


@pytest.mark.parametrize("shape", [(0, 9, LANES), (2, 9, 0), (0, 9, 0)])
@pytest.mark.parametrize("filters", (1, 2))
def test_nothing_to_multiply(shape, filters):
    """Neither an image nor a channel: sums of nothing are zero."""
    y = mlxconv.conv1d(np.ones(shape, "float32"), np.ones((filters, 2, shape[-1]), "float32"))
    assert y.shape == (shape[0], 8, filters) and not y.any()


@pytest.mark.parametrize("filters", range(2, MOST + 1))
def test_rows_that_crowd_a_set_of_L1(filters):
    """A tile has fewer of them."""
    rng = np.random.default_rng(filters)
    x, w = (integer_array(rng, s, "float32", 2) for s in ((1, 45, 1024), (filters, 3, 1024)))
    rows = int(plan(mlxconv.explain(x, w).problem, "dot").schedule.geometry["MR"][0])
    assert rows <= FEW_ROWS or processor.lines_per_set(4096, rows) < processor.caches().L1_ways
    assert np.array_equal(mlxconv.conv1d(x, w, variant="dot"), exact(x, w, {}, np.int64))


@pytest.mark.parametrize(("shape", "filters", "parameters"), FEW)
def test_bits(shape, filters, parameters):
    """They depend neither on the layout of the input nor on the batch: a product has its lane by
    its tap and channel, wherever a block begins and whatever lies between rows."""
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, filters))
    conv = CONV[len(shape) - 2]
    y = conv(x, w, **parameters)
    apart = np.repeat(x, 2, axis=-2)[..., ::2, :]
    turned = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    channels = np.repeat(x, 2, axis=-1)[..., ::2]
    for other in (apart, turned, channels):
        assert conv(other, w, **parameters).tobytes() == y.tobytes()
    many = conv(np.concatenate([x] * 5), w, **parameters)
    assert many.tobytes() == y.tobytes() * 5


@pytest.mark.parametrize("taps", (3, 4, 5))
@pytest.mark.parametrize("length", (9, 14, 15, 47))
@pytest.mark.parametrize("filters", sorted({1, 2, 3, 4, MOST}))
def test_outputs_that_lie_apart(filters, length, taps):
    """Those of a transposed convolution, whose phases write between each other's, are as exact as
    those that lie side by side."""
    rng = np.random.default_rng(filters)
    shapes = (2, length, LANES), (filters, taps, LANES)
    x, w = (integer_array(rng, shape, "float32", 2) for shape in shapes)
    for stride in range(1, MOST // filters + 1):
        y = mlxconv.conv_transpose1d(x, w, stride, 1, variant="dot")
        slow = mlxconv.conv_transpose1d(x, w, stride, 1, variant="reference")
        assert np.array_equal(y, slow)


def test_infinite_filters_that_meet_padding():
    x, w = np.ones((1, 20, LANES), np.float32), np.ones((2, 3, LANES), np.float32)
    w[1, 0] = np.inf
    y = mlxconv.conv1d(x, w, padding=1)
    assert y[0, 0].tolist() == [2 * LANES, 2 * LANES] and np.isinf(y[0, 1:, 1]).all()
    assert np.isfinite(y[..., 0]).all()


@pytest.mark.parametrize(
    ("shape", "filters", "parameters"),
    [
        ((1, 40, LANES), (MOST + 1, 3, LANES), {}),
        ((1, 40, LANES + 1), (4, 3, LANES + 1), {}),
        ((1, 40, LANES), (LANES, 3, 1), {"groups": LANES}),
    ],
)
def test_what_it_refuses(shape, filters, parameters):
    p = mlxconv.explain(shape, filters, **parameters).problem
    assert f"not less than 8, and more than {MOST} filters" in dot.refuses(p)


def test_prepared():
    """A panel is the filter as it is, packed once."""
    rng = np.random.default_rng(2)
    x = integer_array(rng, (2, 80, LANES), np.float32)
    w = integer_array(rng, (3, 5, LANES), np.float32)
    conv = mlxconv.Conv1d(w, padding=2)
    for _ in range(2):
        assert np.array_equal(conv(x), exact(x, w, {"padding": 2}, np.int64))
    apart = np.asfortranarray(w)
    assert np.array_equal(mlxconv.conv1d(x, apart, padding=2), conv(x))


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16"))
@pytest.mark.parametrize(("N", "positions"), [*((1, n) for n in range(1, 8)), (3, 3), (4, 7)])
def test_any_number_of_positions(dtype, N, positions):
    """Two or three at a time; none is left out, and filters that fill no tile neither."""
    rng = np.random.default_rng(positions)
    x = integer_array(rng, (N, positions + 2, 37), dtype, 2)
    w = integer_array(rng, (11, 3, 37), dtype, 2)
    y = mlxconv.conv1d(x, w, variant="dot")
    assert np.array_equal(y, mlxconv.conv1d(x, w, variant="reference"))
    alone = [mlxconv.conv1d(x[:, m : m + 3], w, variant="dot") for m in range(positions)]
    assert np.array_equal(y, np.concatenate(alone, axis=1))


LONG = (((1, 300, 16 * LANES), (8, 9, 16 * LANES)), ((2, 70, 32 * LANES), (11, 5, 32 * LANES)))


@pytest.mark.parametrize(("shape", "w_shape"), LONG)
def test_filters_that_L1_does_not_hold(shape, w_shape, always_parallel):
    """A tile takes some of them, the last ones again with others."""
    rng = np.random.default_rng(2)
    x, w = (integer_array(rng, s, "float32", 2) for s in (shape, w_shape))
    rows, some = best_tile(mlxconv.explain(x, w).problem).shape
    assert some < w_shape[0] and rows > tiles()[min(w_shape[0], len(tiles())) - 1].shape[0]
    assert np.array_equal(mlxconv.conv1d(x, w, variant="dot"), exact(x, w, {}, np.int64))


@pytest.mark.parametrize("groups", (1, 3))
@pytest.mark.parametrize(("length", "where"), [(40, STAYS), (4000, STAYS_ALIGNED)])
@pytest.mark.parametrize("filters", (1, 4, 7))
def test_filters_as_they_lie(filters, length, where, groups, always_parallel):
    """They are read in place or copied, by where they start, and outputs are the same; so are those
    of filters in another order, and of a prepared convolution."""
    rng = np.random.default_rng(filters)
    shape, w_shape = (1, length, groups * LANES), (groups * filters, 3, LANES)
    x, w = (rng.standard_normal(s).astype("float32") for s in (shape, w_shape))
    assert stay(mlxconv.explain(x, w, padding=1, groups=groups).problem) == where
    memory = np.empty(w.size + 64, "float32")
    found = set()
    for start in (0, 4, 16, 17):
        lying = memory[start:][: w.size].reshape(w_shape)
        lying[...] = w
        found.add(mlxconv.conv1d(x, lying, padding=1, groups=groups, variant="dot").tobytes())
    turned = np.ascontiguousarray(w.transpose(2, 1, 0)).transpose(2, 1, 0)
    found.add(mlxconv.conv1d(x, turned, padding=1, groups=groups, variant="dot").tobytes())
    found.add(mlxconv.Conv1d(w, padding=1, groups=groups, variant="dot")(x).tobytes())
    assert len(found) == 1
    slow = mlxconv.conv1d(x, w, padding=1, groups=groups, variant="reference")
    np.testing.assert_allclose(
        np.frombuffer(found.pop(), "f4").reshape(slow.shape), slow, 1e-4, 1e-4
    )


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_filters_in_place_that_are_not_finite(bad):
    """A zero of the padding does not meet them."""
    x, w = np.ones((1, 40, LANES), "float32"), np.ones((4, 3, LANES), "float32")
    w[2, 0, 0] = bad
    y = mlxconv.conv1d(x, w, padding=1, variant="dot")
    slow = mlxconv.conv1d(x, w, padding=1, variant="reference")
    assert np.array_equal(y, slow, equal_nan=True) and np.isfinite(y[0, 0]).all()
