"""Two and three axes, transposed convolutions, dilated inputs: exact integer data, every corner."""

import math
import pickle

import numba
import numpy as np
import pytest
from hypothesis import given, settings

import mlxconv
from mlxconv import threads
from mlxconv.dispatch import plan
from mlxconv.kernels import few_positions, sharing
from mlxconv.kernels.schedule import lanes_of
from mlxconv.lowering import SHORT_LINE, as_lines, as_real
from mlxconv.phases import phases_of
from mlxconv.plan import Packed
from tests.conftest import forget_plans
from tests.helpers import integer_array, per_axis, random_array, reference
from tests.problems import cases

CONV = {1: mlxconv.conv1d, 2: mlxconv.conv2d, 3: mlxconv.conv3d}
TRANSPOSE = {
    1: mlxconv.conv_transpose1d,
    2: mlxconv.conv_transpose2d,
    3: mlxconv.conv_transpose3d,
}
PREPARED = {
    1: (mlxconv.Conv1d, mlxconv.ConvTranspose1d),
    2: (mlxconv.Conv2d, mlxconv.ConvTranspose2d),
    3: (mlxconv.Conv3d, mlxconv.ConvTranspose3d),
}
RANKS = (1, 2, 3)


def arrays(rank, C=8, O=12, K=3, groups=1, L=7, dtype=np.float32):
    rng = np.random.default_rng(rank)
    x = integer_array(rng, (2, *(L + i for i in range(rank)), C), dtype)
    return x, integer_array(rng, (O, *(K,) * rank, C // groups), dtype)


def spread(x, w, stride=1, padding=0, dilation=1, output_padding=0, groups=1):
    """A transposed convolution as it is told: every input row is added to K output rows."""
    rank, (N, *L, C), (O, *K, c) = x.ndim - 2, x.shape, w.shape
    axes = (per_axis(v, rank) for v in (stride, padding, dilation, output_padding))
    s, p, d, extra = axes
    whole = [(n - 1) * s[i] + d[i] * (K[i] - 1) + 1 + max(extra) for i, n in enumerate(L)]
    kind = np.complex128 if x.dtype.kind == "c" else np.int64
    y = np.zeros((N, *whole, groups, O // groups), kind)
    x = x.astype(kind).reshape(N, *L, groups, C // groups)
    w = w.astype(kind).reshape(groups, O // groups, *K, c)
    for tap in np.ndindex(*K):
        rows = [slice(d[i] * k, d[i] * k + s[i] * (L[i] - 1) + 1, s[i]) for i, k in enumerate(tap)]
        taps = w[(slice(None), slice(None), *tap)]
        y[(slice(None), *rows)] += np.einsum("n...gc,goc->n...go", x, taps)
    kept = [
        slice(p[i], (n - 1) * s[i] - p[i] + d[i] * (K[i] - 1) + extra[i] + 1)
        for i, n in enumerate(L)
    ]
    return y[(slice(None), *kept)].reshape(N, *(k.stop - k.start for k in kept), O)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    "stride, padding, dilation, groups",
    [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 4), (3, 0, 1, 2), (1, 1, 1, 8)],
)
def test_convolutions(rank, stride, padding, dilation, groups):
    x, w = arrays(rank, O=16, groups=groups)
    y = CONV[rank](x, w, stride, padding, dilation, groups)
    expected = reference(x, w, stride, padding, padding, dilation, groups=groups, dtype=np.int64)
    assert np.array_equal(y, expected) and y.dtype == np.float32 and y.flags.c_contiguous


@pytest.mark.parametrize("rank", (2, 3))
def test_parameters_per_axis(rank):
    x, w = arrays(rank)
    stride, padding, dilation = (2, 1, 3)[:rank], (0, 2, 1)[:rank], (1, 2, 1)[:rank]
    expected = reference(x, w, stride, padding, padding, dilation, dtype=np.int64)
    for kind in (tuple, list, np.array):
        parameters = (kind(stride), kind(padding), kind(dilation))
        assert np.array_equal(CONV[rank](x, w, *parameters), expected)
    pairs = tuple((p, p) for p in padding)
    assert np.array_equal(CONV[rank](x, w, stride, pairs, dilation), expected)
    assert CONV[rank](x, w, stride, "same").shape[1:-1] == tuple(
        -(-n // s) for n, s in zip(x.shape[1:-1], stride, strict=True)
    )
    with pytest.raises(ValueError, match='"valid", "same"'):
        CONV[rank](x, w, padding="causal")
    with pytest.raises(ValueError, match="stride has 4 values"):
        CONV[rank](x, w, (1, 1, 1, 1))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    "stride, padding, dilation, output_padding, groups",
    [
        (1, 0, 1, 0, 1),
        (2, 1, 1, 1, 1),
        (3, 2, 2, 2, 2),
        (4, 0, 1, 3, 4),
        (2, 2, 3, 0, 8),
        (5, 0, 1, 0, 1),  # a stride longer than the window: outputs that meet nothing
    ],
)
def test_transposed(rank, stride, padding, dilation, output_padding, groups):
    x, w = arrays(rank, O=16, groups=groups, L=5)
    call = (stride, padding, dilation, output_padding, groups)
    y = TRANSPOSE[rank](x, w, *call)
    assert np.array_equal(y, spread(x, w, *call)) and y.dtype == np.float32


@pytest.mark.parametrize("rank", (2, 3))
def test_transposed_per_axis(rank):
    x, w = arrays(rank, L=5)
    call = ((2, 1, 3)[:rank], (0, 1, 1)[:rank], (1, 2, 1)[:rank], (1, 0, 2)[:rank])
    assert np.array_equal(TRANSPOSE[rank](x, w, *call), spread(x, w, *call))


def test_more_padding_than_the_window_reaches():
    y = mlxconv.conv_transpose1d(np.ones((1, 5, 1)), np.ones((1, 1, 1)), stride=2, padding=1)
    assert y.ravel().tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_errors_of_transposed_convolutions():
    x, w = arrays(1)
    with pytest.raises(ValueError, match="Input dilation sizes must be positive"):
        mlxconv.conv_transpose1d(x, w, stride=0)
    with pytest.raises(ValueError, match="output_padding must not be negative"):
        mlxconv.conv_transpose1d(x, w, output_padding=-1)
    with pytest.raises(TypeError, match="stride takes an int"):
        mlxconv.conv_transpose1d(x, w, stride=(2,))
    with pytest.raises(TypeError, match="output_padding takes an int"):
        mlxconv.conv_transpose1d(x, w, output_padding=0.5)
    with pytest.raises(ValueError, match=r"\[conv_transpose2d\] Expected an input"):
        mlxconv.conv_transpose2d(x, w)
    with pytest.raises(ValueError, match="crops more"):
        mlxconv.conv_transpose1d(x, w, padding=100)


@settings(deadline=None)
@given(cases(ranks=RANKS))
def test_dilated_inputs(case):
    x, w = case.data(np.random.default_rng(0), "float32")
    expected = reference(x, w, *case.parameters, dtype=np.int64)
    assert np.array_equal(case.run(x, w), expected)
    assert np.array_equal(case.run(x, w, variant="reference"), expected)


@settings(deadline=None)
@given(cases(ranks=RANKS))
def test_phases_have_no_zeros_and_all_outputs(case):
    x, w = case.data(np.random.default_rng(0), "float32")
    padding = (case.padding_lo, case.padding_hi)
    steps = (case.stride, padding, case.kernel_dilation, case.groups)
    p = mlxconv.explain(x, w, *steps, input_dilation=case.input_dilation, flip=case.flip).problem
    if 0 in p.output_shape or max(p.input_dilation) == 1:
        return
    phases, seen = phases_of(p), np.zeros(p.output_L, int)
    for phase in phases:
        assert max(phase.problem.input_dilation) == 1
        assert seen[phase.outputs].shape == phase.problem.output_L
        seen[phase.outputs] += 1
    assert seen.max(initial=0) <= 1
    assert sum(phase.problem.flop for phase in phases) == p.flop
    if phases:
        assert plan(p).variant != "reference"


UPSAMPLED = [  # input, filters, parameters; most convolutions that the phases are merged into
    ((2, 40, 6), (20, 16, 6), {"stride": 8, "padding": 4}, 2),
    ((1, 33, 6), (24, 7, 6), {"stride": 3, "padding": 1}, 3),
    ((1, 30, 6), (16, 4, 6), {"stride": 4, "output_padding": 2}, 4),
    ((1, 9, 24, 8), (32, 4, 4, 8), {"stride": 2, "padding": 1}, 4),
    ((2, 8, 16, 8), (16, 2, 2, 8), {"stride": 2}, 2),
    ((1, 7, 15, 8), (3, 5, 6, 8), {"stride": (3, 2), "dilation": (2, 1)}, 9),
    ((1, 3, 4, 17, 4), (16, 3, 2, 4, 4), {"stride": (1, 2, 2), "padding": (1, 0, 1)}, 6),
    ((1, 5, 30, 16), (16, 3, 3, 1), {"stride": 2, "padding": 1, "groups": 16}, 4),
]


@pytest.mark.parametrize("dtype", ("float32", "float16", "complex64"))
@pytest.mark.parametrize(("shape", "filters", "parameters", "most"), UPSAMPLED)
def test_neighbouring_phases_are_one_convolution(
    shape, filters, parameters, most, dtype, monkeypatch
):
    """Exact, written where they belong or copied there, with infinite filters too."""
    rng, rank = np.random.default_rng(6), len(shape) - 2
    x, w = (integer_array(rng, s, dtype, 2) for s in (shape, filters))
    exact = spread(x, w, **parameters)
    p = mlxconv.explain(x, w, transposed=True, **parameters).problem
    parts = plan(p).parts
    assert len(parts) <= most or dtype == "complex64"
    assert any(schedule for _, _, schedule in parts) or p.O < 8 or dtype == "complex64"
    assert np.array_equal(TRANSPOSE[rank](x, w, **parameters), exact)
    assert np.array_equal(PREPARED[rank][1](w, **parameters)(x), exact)
    monkeypatch.setattr(mlxconv.plan, "FILTERS_BYTES", 0)
    turned = np.asfortranarray(w[..., ::-1])[..., ::-1]
    assert np.array_equal(TRANSPOSE[rank](x, turned, **parameters), exact)
    w[(slice(None), *(0,) * rank)] = np.inf
    finite = np.isfinite(TRANSPOSE[rank](np.ones_like(x), w, **parameters))
    met = spread(np.ones_like(x), np.where(np.isfinite(w), 0, 1).astype(w.dtype), **parameters)
    assert np.array_equal(finite, met == 0)


LAUNCHED = [  # at once, on one thread and on several
    ((2, 40, 6), (20, 16, 6), {"stride": 8, "padding": 4}),
    ((1, 900, 32), (24, 7, 32), {"stride": 3, "padding": 1}),
    ((1, 500, 60), (6, 5, 60), {"stride": 2}),  # few filters, of which a tile has room for several
    ((1, 28, 28, 96), (96, 3, 3, 1), {"stride": 2, "padding": 1, "groups": 96}),
    ((4, 12, 9, 64), (32, 2, 5, 64), {"stride": (3, 2), "output_padding": (1, 0)}),
]


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize(("shape", "filters", "parameters"), LAUNCHED)
def test_phases_in_one_launch(shape, filters, parameters, dtype, monkeypatch):
    """The bits are those of one phase after the other, also where outputs meet nothing."""
    monkeypatch.setattr(threads, "default_threads", lambda: numba.config.NUMBA_NUM_THREADS)
    rng, rank = np.random.default_rng(7), len(shape) - 2
    x, w = (random_array(rng, s, dtype) for s in (shape, filters))
    p = mlxconv.explain(x, w, transposed=True, **parameters).problem
    assert plan(p)._bound is not None
    apart = np.repeat(x, 2, axis=0)[::2]  # not contiguous: each phase is launched
    found = np.full(p.output_shape, np.nan, dtype)
    TRANSPOSE[rank](x, w, **parameters, out=found)
    assert np.array_equal(found, TRANSPOSE[rank](apart, w, **parameters))


@pytest.mark.parametrize("dtype", ("float16", "float64", "complex64"))
@pytest.mark.parametrize("flip", (False, True))
def test_types_of_dilated_inputs(dtype, flip):
    rng = np.random.default_rng(1)
    x, w = (integer_array(rng, s, dtype, 2) for s in ((2, 30, 6), (9, 5, 6)))
    y = mlxconv.conv_general(x, w, 2, 3, 1, 3, flip=flip)
    kind = np.complex128 if dtype == "complex64" else np.float64
    assert np.array_equal(y, reference(x, w, 2, 3, 3, 1, 3, flip=flip, dtype=kind))
    assert y.dtype == dtype


def test_infinite_weights_stay_where_they_meet_the_input():
    x, w = np.ones((1, 4, 1), np.float32), np.ones((1, 3, 1), np.float32)
    w[0, 0] = np.inf
    y = mlxconv.conv_transpose1d(x, w, stride=3).ravel()
    assert y.tolist() == [np.inf, 1, 1] * 4


@pytest.mark.parametrize("shape", ((1, 7, 4, 8), (1, 7, 14, 8), (1, 7, 7, 24)))
def test_infinite_weights_outside_of_the_outer_axes(shape):
    """Whatever gathers, strips or skips the taps that only meet padding."""
    x, w = np.ones(shape, np.float32), np.ones((272, 3, 3, shape[-1]), np.float32)
    w[:, 0] = np.inf
    y = mlxconv.conv2d(x, w, padding=(1, 0))
    assert not np.isnan(y).any() and np.isfinite(y[:, 0]).all() and np.isinf(y[:, 1:]).all()


FEW = [  # input, filters, parameters: many filters, few positions
    ((1, 7, 7, 20), (272, 3, 3, 20), {"padding": 1}),
    ((2, 5, 9, 12), (299, 3, 3, 12), {"stride": 2, "padding": ([1, 0], [0, 2])}),
    ((3, 3, 20), (530, 2, 20), {"dilation": 2}),
    ((1, 6, 5, 24), (520, 3, 2, 12), {"groups": 2, "padding": (1, 0)}),
    ((1, 3, 3, 4, 8), (272, 3, 3, 3, 8), {"padding": 1}),
]


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16", "complex64"))
@pytest.mark.parametrize(("shape", "filters", "parameters"), FEW)
def test_many_filters_on_few_positions(shape, filters, parameters, dtype, monkeypatch):
    """They are packed where they are used: exact, and with the bits of those packed before."""
    rng = np.random.default_rng(3)
    x, w = (integer_array(rng, s, dtype, 2) for s in (shape, filters))
    packed, y = [], {}
    for wanted in (True, False):
        monkeypatch.setattr(few_positions, "meets_few", lambda *_, wanted=wanted: wanted)
        forget_plans()
        found = plan(mlxconv.explain(x, w, **parameters).problem, "direct")
        packed.append(found.schedule.split[-1][1])
        y[wanted] = [found.run(x, w, threads) for threads in (1, 2)]
        y[wanted] += [found.run(x, w, 2, packed=Packed())]
    forget_plans()
    assert packed[0] > packed[1]
    p, kind = found.problem, np.complex128 if dtype == "complex64" else np.float64
    steps = (p.stride, p.padding_lo, p.padding_hi, p.kernel_dilation, p.input_dilation, p.groups)
    exact = reference(x, w, *steps, dtype=kind).astype(dtype)
    for result in y[True] + y[False]:
        assert np.array_equal(result, exact)


LINES = [  # input, filters, parameters: blocks of several lines, near and far taps
    ((2, 9, 15, 32), (32, 3, 3, 1), {"padding": 1, "groups": 32}),
    ((1, 12, 39, 32), (32, 5, 3, 1), {"padding": (2, 1), "groups": 32, "stride": 2}),
    ((2, 11, 16, 32), (32, 3, 5, 1), {"padding": (5, 3), "groups": 32, "dilation": (3, 2)}),
    ((1, 30, 14, 32), (32, 3, 3, 1), {"padding": (11, 0), "groups": 32, "dilation": (11, 1)}),
    ((1, 10, 20, 16), (64, 3, 3, 1), {"padding": 1, "groups": 16}),
    ((1, 13, 30, 12), (34, 3, 3, 12), {"padding": ([0, 1], [3, 0]), "stride": (3, 1)}),
    ((1, 13, 40, 8), (20, 4, 2, 4), {"padding": (4, 1), "groups": 2, "dilation": (4, 1)}),
    ((1, 5, 7, 30, 8), (32, 3, 3, 3, 8), {"padding": 1}),
    ((1, 6, 14, 129), (44, 7, 9, 129), {"padding": 2}),  # panels that L2 keeps one by one
    ((1, 8, 400, 32), (32, 3, 3, 1), {"padding": 1, "groups": 32}),
    ((2, 9, 61, 40), (40, 3, 3, 1), {"padding": 1, "groups": 40, "stride": 2}),
    ((1, 4, 30, 48), (48, 5, 9, 1), {"padding": (9, 20), "groups": 48, "dilation": (2, 3)}),
]


IN_PARTS = ((4, 2, False), (99, 2, False), (3, 4, False), (3, 2, True), (99, 4, True))


@pytest.mark.parametrize("dtype", ("float32", "float64", "float16", "complex64"))
@pytest.mark.parametrize(("shape", "filters", "parameters"), LINES)
def test_blocks_of_several_lines(shape, filters, parameters, dtype, monkeypatch):
    """Exact, however many lines a block has, and into how many parts channels are split."""
    rng = np.random.default_rng(4)
    x, w = (integer_array(rng, s, dtype, 2) for s in (shape, filters))
    p = mlxconv.explain(x, w, **parameters).problem
    kind = np.complex128 if dtype == "complex64" else np.float64
    steps = (p.stride, p.padding_lo, p.padding_hi, p.kernel_dilation, p.input_dilation, p.groups)
    exact = reference(x, w, *steps, dtype=kind).astype(dtype)
    blocks, lanes, row = set(), lanes_of(as_real(p)), plan(p).variant
    row = "direct" if row == "channels_first" else row  # whose blocks have one line each
    may_stay = p.groups == p.C == p.O and dtype in ("float32", "float64")
    whole = (1, 2, 3, 99)
    for choice in (*((n, 1, False) for n in whole), *((n, 1, True) for n in whole), *IN_PARTS):
        lines, parts, in_place = min(choice[0], p.output_L[-2]), *choice[1:]
        splits = p.groups == p.C == p.O and p.O % (parts * lanes) == 0 and dtype != "complex64"
        if (parts > 1 and not splits) or (in_place and not may_stay):
            continue
        monkeypatch.setattr(sharing, "sharings", lambda *_, s=(lines, parts, in_place): [s])
        forget_plans()
        found = plan(p, row)
        blocks.add(found.schedule.split)
        for workers in (1, 2):
            assert np.array_equal(found.run(x, w, workers), exact), choice
    forget_plans()
    assert len(blocks) > 1 or not found.schedule.by_line


@pytest.mark.parametrize("length", [70, 230])  # without a middle that is read in place, and with
@pytest.mark.parametrize(("channels", "taps", "stride"), [(512, 31, 1), (512, 5, 2), (1024, 27, 1)])
def test_rows_that_crowd_a_set_of_the_cache(channels, taps, stride, length):
    """Exact, with room between the rows of strips, and where windows of many taps are copied."""
    rng = np.random.default_rng(6)
    x = integer_array(rng, (2, length, channels), "float32", 3)
    w = integer_array(rng, (channels, taps, 1), "float32", 3)
    pad = taps // 2
    exact = reference(x, w, (stride,), (pad,), (pad,), (1,), (1,), channels, dtype=np.float64)
    assert np.array_equal(mlxconv.conv1d(x, w, stride, pad, groups=channels), exact)


ONE_TAP = [  # input, filters, groups, and the lines that kernels see
    ((5, 7, 16), (24, 1, 16), 1, (1, (35,))),
    ((2, SHORT_LINE, 12), (6, 1, 4), 3, (1, (2 * SHORT_LINE,))),
    ((2, SHORT_LINE + 1, 8), (20, 1, 8), 1, (2, (SHORT_LINE + 1,))),
    ((3, 5, 200, 8), (12, 1, 1, 8), 1, (1, (3000,))),
    ((2, 5, 6, 4), (4, 3, 1, 4), 1, (2, (5, 6))),
    ((2, 5, 6, 7, 4), (4, 3, 1, 1, 4), 1, (2, (5, 42))),
]


@pytest.mark.parametrize(("shape", "filters", "groups", "lines"), ONE_TAP)
def test_axes_of_one_tap(shape, filters, groups, lines):
    """They are one line, of a batch as well; also where the input has gaps, or is turned."""
    rng, rank = np.random.default_rng(8), len(shape) - 2
    x, w = (integer_array(rng, s, "float32", 3) for s in (shape, filters))
    seen = as_lines(mlxconv.explain(x, w, groups=groups).problem)
    assert lines == (seen.N, seen.L)
    one, none = (1,) * rank, (0,) * rank
    exact = reference(x, w, one, none, none, one, one, groups, dtype=np.float64)
    for other in (x, np.asfortranarray(x), np.flip(np.flip(x, 1).copy(), 1)):
        assert np.array_equal(CONV[rank](other, w, groups=groups), exact)
    for axis in range(len(shape)):
        apart = np.repeat(x, 2, axis)[(*(slice(None),) * axis, slice(None, None, 2))]
        assert np.array_equal(CONV[rank](apart, w, groups=groups), exact)


APART = [  # input, filters, parameters: of each road that packs
    ((2, 40, 12), (24, 5, 12), {"padding": 2}),
    ((2, 40, 3), (5, 5, 3), {"stride": 2}),
    ((1, 200, 1), (3, 9, 1), {}),
    ((1, 50, 19), (38, 5, 1), {"groups": 19}),
    ((1, 9, 10, 8), (20, 3, 3, 8), {"padding": 1, "dilation": 2}),
    ((1, 5, 4, 20), (300, 3, 2, 20), {"padding": 1}),
    ((1, 5, 6, 7, 8), (20, 3, 1, 1, 8), {}),
]


@pytest.mark.parametrize(("shape", "filters", "parameters"), APART)
@pytest.mark.parametrize("bad", (0, np.inf))
def test_filters_that_lie_apart(shape, filters, parameters, bad, monkeypatch):
    """Every other tap, filter and channel, or turned round: packed from where they lie."""
    monkeypatch.setattr(mlxconv.plan, "FILTERS_BYTES", 0)
    rng, rank = np.random.default_rng(5), len(shape) - 2
    x, w = (integer_array(rng, s, "float32", 3) for s in (shape, filters))
    w[(0,) * w.ndim] += bad
    expected = CONV[rank](x, w, **parameters)
    spacious = np.full([2 * n + 1 for n in filters], np.nan, np.float32)
    apart = spacious[tuple(slice(1, None, 2) for _ in filters)]
    close = spacious[(*(slice(1, None, 2) for _ in filters[1:]), slice(1, filters[-1] + 1))]
    turned = np.flip(np.ascontiguousarray(np.flip(w, 1)), 1)
    for other in (apart, close, turned, np.asfortranarray(w)):
        other[...] = w
        assert CONV[rank](x, other, **parameters).tobytes() == expected.tobytes()


@pytest.mark.parametrize("rank", RANKS)
def test_out(rank):
    x, w = arrays(rank)
    for call in (CONV[rank], TRANSPOSE[rank]):
        expected = call(x, w, 2)
        out = np.full_like(expected, 7)
        assert call(x, w, 2, out=out) is out and np.array_equal(out, expected)
        with pytest.raises(ValueError, match="out has shape"):
            call(x, w, 2, out=out[:1])


@pytest.mark.parametrize("rank", RANKS)
def test_prepared(rank):
    x, w = arrays(rank)
    plain, transposed = PREPARED[rank]
    for made, expected in (
        (plain(w, 2, 1), CONV[rank](x, w, 2, 1)),
        (transposed(w, 2, 1, output_padding=1), TRANSPOSE[rank](x, w, 2, 1, 1, 1)),
    ):
        for conv in (made, pickle.loads(pickle.dumps(made))):
            for _ in range(2):  # packing, and packed
                assert conv(x).tobytes() == expected.tobytes()
        assert repr(made).startswith(type(made).__name__ + "(<float32 filters")
    with pytest.raises(ValueError, match="groups must be positive"):
        transposed(w, groups=0)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("transposed", (False, True))
def test_against_torch(rank, transposed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    groups, C, O = 2, 6, 8
    x = random_array(rng, (2, *(6,) * rank, C), np.float64)
    w = random_array(rng, (O, *(3,) * rank, C // groups), np.float64)
    first = torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    filters = np.moveaxis(w, -1, 1)
    if transposed:  # torch wants (C, O / groups, ...)
        filters = filters.reshape(groups, O // groups, *filters.shape[1:])
        filters = np.swapaxes(filters, 1, 2).reshape(C, O // groups, *w.shape[1:-1])
        call = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        y = TRANSPOSE[rank](x, w, 3, 1, 2, 1, groups)
        expected = call(first, torch.from_numpy(filters.copy()), None, 3, 1, 1, groups, 2)
    else:
        call = getattr(torch.nn.functional, f"conv{rank}d")
        y = CONV[rank](x, w, 2, 1, 2, groups)
        expected = call(first, torch.from_numpy(filters.copy()), None, 2, 1, 2, groups)
    assert np.allclose(np.moveaxis(y, -1, 1), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_work_of_a_dilated_input_is_that_of_its_elements():
    p = mlxconv.explain((1, 100, 4), (6, 8, 4), input_dilation=4, padding=([7], [7])).problem
    assert p.flop == 2 * math.prod(p.output_shape) * (8 // 4) * 4


@pytest.mark.parametrize("dtype", (np.float32, np.float16, np.complex64))
def test_filters_of_one_tap_meet_lines_of_any_layout(dtype):
    """Axes that no window reaches along are one, which in memory they need not be."""
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, (2, 7, 5, 6)).astype(dtype)
    w = rng.integers(-4, 5, (8, 1, 1, 3)).astype(dtype)
    expected = mlxconv.conv2d(x, w, groups=2)
    assert (
        expected
        == np.stack([x[..., :3] @ w[:4, 0, 0].T, x[..., 3:] @ w[4:, 0, 0].T], -2).reshape(
            expected.shape
        )
    ).all()
    for layout in (
        x.transpose(0, 3, 2, 1).copy().transpose(0, 3, 2, 1),
        x[:, ::-1].copy()[:, ::-1],
    ):
        assert np.array_equal(mlxconv.conv2d(layout, w, groups=2), expected)
    tall = mlxconv.conv2d(x, np.repeat(w, 3, axis=1), padding=(1, 0), groups=2)
    assert np.array_equal(
        tall,
        np.stack(
            [
                mlxconv.conv2d(
                    np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))[:, i : i + 3],
                    np.repeat(w, 3, axis=1),
                    groups=2,
                )[:, 0]
                for i in range(7)
            ],
            1,
        ),
    )
