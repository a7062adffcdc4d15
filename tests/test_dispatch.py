"""The table: which row takes a problem, what explain says of it, and how it is forced."""

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, processor
from mlxconv.bench.shapes import Shape
from mlxconv.kernels.dot_tiling import MOST_FILTERS, MOST_POSITIONS
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of
from tests.problems import random_cases
from tests.test_exact import problem

LANES = processor.vector_bytes() // 4


def test_variants():
    assert mlxconv.variants()[-1] == "reference"
    assert len(set(mlxconv.variants())) == len(dispatch.VARIANTS)


@pytest.mark.parametrize("row", dispatch.VARIANTS, ids=lambda row: row.name)
def test_rows_have_what_explain_and_tests_rely_on(row):
    assert row.kernel.__doc__ and row.kernel.refuses.__doc__
    assert "Computes" in row.kernel.__doc__ and "For  " in row.kernel.__doc__


@pytest.mark.parametrize(
    ("x", "w", "named", "variant"),
    [
        ((1, 100, 32), (32, 3, 32), {}, "direct"),
        ((1, 100, 32), (32, 3, 1), dict(groups=32), "depthwise"),
        ((1, 100, 32), (64, 3, 1), dict(groups=32), "grouped"),
        ((1, 100, 32), (96, 3, 1), dict(groups=32), "grouped"),
        ((1, 100, 32), (32, 3, 4), dict(groups=8), "grouped"),
        ((1, 100, 24), (8, 3, 3), dict(groups=8), "grouped"),
        ((1, 100, 32), (24, 3, 4), dict(groups=8), "grouped"),
        ((1, 100, 32), (1024, 3, 4), dict(groups=8), "direct"),
        ((1, 100, 32), (1024, 3, 1), dict(groups=32), "direct"),
        ((1, 100, 1), (8, 3, 1), {}, "direct"),
        ((1, 5, 64), (64, 5, 64), {}, "dot"),
        ((1, 100, 64), (4, 5, 64), {}, "dot"),
        ((1, 3000, 64), (LANES + 2, 5, 64), {}, "channels_first"),
        ((1, 3000, 64), (2 * LANES, 5, 64), {}, "direct"),
        ((1, 300, 10 * LANES), (10 * (LANES + 2), 5, LANES), dict(groups=10), "channels_first"),
        ((1, 100, 4 * LANES), (16, 4, LANES), dict(groups=4), "grouped"),
        ((1, 100, 32), (32, 3, 32), dict(input_dilation=2), "direct"),
        ((1, 20, 20, 8), (8, 3, 3, 8), {}, "direct"),
    ],
)
def test_the_row_that_wins(x, w, named, variant):
    found = mlxconv.explain(x, w, **named)
    assert found.variant == variant
    names = [name for name, _ in found.refused]
    assert names == list(mlxconv.variants()[: len(names)]) and all(r for _, r in found.refused)


def test_sums_too_short_for_dot():
    """Of a vector or two, to add up the lanes takes longer than to compute them, and most lanes of
    panels are not empty; long ones are for dot, though they fill panels."""
    for dtype, lanes in (("float32", LANES), ("float64", LANES // 2)):
        x, w = np.empty((1, 4000, lanes), dtype), np.empty((lanes, 1, lanes), dtype)
        assert mlxconv.explain(x, w).variant != "dot"
        x, w = np.empty((1, 400, 16 * lanes), dtype), np.empty((3, 5, 16 * lanes), dtype)
        assert mlxconv.explain(x, w).variant == "dot"
    assert mlxconv.explain((1, 100, 4 * LANES), (16, 4, LANES), groups=4).variant != "dot"


def test_the_order_of_sums_does_not_depend_on_the_batch():
    """Of rows that sum in the same order any may win; others no sooner for more images."""
    for case in random_cases(100, 5):
        wide = case._replace(x_shape=(1, 900, 16 * case.groups), w_shape=(*case.w_shape[:2], 16))
        short = wide._replace(x_shape=(1, case.w_shape[1] + 9, 16 * case.groups))
        for each in (case, wide, short):
            if each.outputs < MOST_POSITIONS:
                continue
            won = set()
            for N in (1, 2, 70, 5000):
                shape = (N, *each.x_shape[1:])
                found = dispatch.plan(problem(each._replace(x_shape=shape), "float32"))
                won.add(found.variant.replace("channels_first", "direct"))
            assert len(won) == 1, (each, won)


@pytest.mark.parametrize("filters", range(5, LANES, 2))
def test_nor_where_shares_of_few_images_are_not_equal(filters):
    """Three images keep two cores as busy as four: one order of sums was taken for odd batches."""
    for W in range(60, 400, 16):
        w = (4 * filters, 3, 2 * filters)
        won = {mlxconv.explain((N, W, 8 * filters), w, groups=4).variant for N in (1, 2, 3, 5)}
        assert "grouped" not in won or len(won) == 1, (W, won)


@pytest.mark.parametrize("filters", range(1, MOST_FILTERS + 1))
def test_nor_where_few_filters_meet_few_long_windows(filters):
    """Only lines of fewer positions than a tile may be summed as the windows of all are."""
    for L, C, K, stride in ((1125, 40 * LANES, 8, 8), (60, 20 * LANES, 5, 1), (9, LANES, 2, 1)):
        shapes = [((N, L, C), (filters, K, C)) for N in (1, 2, 70)]
        won = {mlxconv.explain(*both, stride=stride).variant for both in shapes}
        assert len({name.replace("channels_first", "direct") for name in won}) == 1, won


def test_filters_that_lie_apart_are_packed():
    """Those of a phase would be copied for a variant that reads them one behind the other, which
    takes longer than it gains, unless they are few beside the positions."""
    alone = set()
    for L, C, filters, K in ((40, 80, 80, 3), (16, 256, 128, 5), (50, 16, 10, 4)):
        found = dispatch.plan(Shape(1, L, C, filters, K, stride=2, transposed=True).problem())
        alone |= {dispatch.plan(part.weave.problem).variant for part in found.parts}
        assert all(part.plan.packs for part in found.parts)
    assert "channels_first" in alone
    long = Shape(1, 9000, 300, LANES // 2 + 1, 4, stride=2, transposed=True).problem()
    assert dispatch.plan(long).variant == "channels_first"


def test_explain_says_what_ran():
    text = str(mlxconv.explain((2, 3000, 512), (512, 3, 512), stride=2, padding=1))
    assert "(2, 3000, 512) float32 with 512 filters" in text and "-> (2, 1500, 512)" in text
    assert "4.72 GFLOP" in text and "variant   direct" in text
    assert "1 run of 1536 elements" in text
    assert "refused   depthwise: each filter sums over 512 channels, not one" in text


@pytest.mark.parametrize(
    ("named", "runs"),
    [
        (dict(), (1, 36)),
        (dict(dilation=2), (3, 12)),
        (dict(groups=3), (3, 4)),
    ],
)
def test_runs_of_a_window(named, runs):
    channels = 12 // named.get("groups", 1)
    assert mlxconv.explain((1, 50, 12), (6, 3, channels), **named).runs == runs


def test_runs_of_two_axes():
    assert mlxconv.explain((1, 20, 20, 8), (8, 3, 5, 8)).runs == (3, 40)


def test_explain_takes_arrays_shapes_and_types():
    x, w = np.ones((1, 50, 4), np.float64), np.ones((3, 2, 4), np.float64)
    assert (
        mlxconv.explain(x, w).problem == mlxconv.explain(x.shape, w.shape, dtype=np.float64).problem
    )
    mixed = mlxconv.explain(x.shape, w.shape, dtype=("float16", "float32"))
    assert (mixed.problem.input_dtype, mixed.problem.dtype) == ("float16", "float32")
    assert mlxconv.explain(x.shape, w.shape, dtype="bfloat16").problem.dtype == "bfloat16"
    assert mlxconv.explain(x, w, stream=mlxconv.Stream(threads=1)).threads == 1


def test_explain_compiles_nothing():
    """It is asked about shapes that are never run, on machines that wait for compilers."""
    found = dispatch.plan(
        problem_of(
            Parameters("conv1d", 1, 0, 1, 1, 1, False),
            (1, 77, 13),
            np.dtype("f4"),
            (5, 3, 13),
            np.dtype("f4"),
        )
    )
    mlxconv.explain((1, 77, 13), (5, 3, 13))
    assert "_compiled" not in vars(found.schedule)


def test_explain_raises_what_the_convolution_would():
    with pytest.raises(ValueError, match="Stride sizes must be positive"):
        mlxconv.explain((1, 50, 4), (3, 2, 4), stride=0)


def test_a_forced_row_is_taken():
    x, w = np.ones((1, 50, 4), np.float32), np.ones((3, 2, 4), np.float32)
    assert mlxconv.explain(x, w, variant="reference").variant == "reference"
    assert np.array_equal(mlxconv.conv1d(x, w, variant="reference"), mlxconv.conv1d(x, w))


def test_plans_are_cached():
    q = Parameters("conv1d", 1, 0, 1, 1, 1, False)
    shapes = ((1, 50, 4), np.dtype("f4"), (3, 2, 4), np.dtype("f4"))
    assert dispatch.plan(problem_of(q, *shapes)) is dispatch.plan(problem_of(q, *shapes))


@pytest.mark.parametrize("dtype", ["float32", "float16"])  # whose input is always copied
@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("positions", [16, 24, 56])
def test_no_worker_packs_filters_that_another_packs(positions, padding, dtype):
    """Few positions: each worker packs a few panels at a time for all of them."""
    x = (1, positions + 8 - 2 * padding, 512)
    q = Parameters("conv1d", 1, padding, 1, 1, 1, False)
    problem = problem_of(q, x, np.dtype(dtype), (512, 9, 512), np.dtype(dtype))
    schedule = dispatch.plan(problem, "direct").schedule
    assert schedule.shared == 0 and schedule.panels >= 512 * 9 * 512
    assert schedule.scratch < schedule.panels // 4


@pytest.mark.parametrize("filters", [24, 40, 56, 72, 100, 200])
def test_no_more_rows_share_a_set_of_L1_than_it_has_ways(filters):
    """Rows 4 KB apart, which one set of most caches gets: of the tile for the filters that are left
    over as well, lest windows be copied for its sake."""
    problem = mlxconv.explain((1, 400, 1024), (filters, 1, 1024)).problem
    g = dispatch.plan(problem).schedule.geometry
    rows = processor.lines_per_set(4096, int(g["rows"][0]))
    assert rows <= processor.caches().L1_ways and g["tiles"][0] > 0
