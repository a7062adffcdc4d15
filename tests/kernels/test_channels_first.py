"""Blocks that are turned to channels-first: classes of taps, blocks of positions and of groups."""

import numpy as np
import pytest

from mlxconv import dispatch, processor
from mlxconv.kernels import channels_first
from mlxconv.kernels.turned_tiling import blocks_of
from tests.problems import Case
from tests.test_exact import exact, problem

CASES = {  # N, L, C, filters, K, stride, padding, dilation, groups
    "many blocks": (1, 20000, 12, 10, 3, 1, 1, 1, 1),
    "padding longer than a block": (1, 200, 8, 9, 5, 1, 190, 40, 1),
    "a tap in common with every second": (2, 500, 10, 10, 7, 2, 3, 1, 1),
    "no rows in common": (1, 500, 10, 10, 3, 4, 0, 1, 2),
    "stride and dilation have a divisor": (1, 900, 6, 20, 5, 4, 9, 6, 2),
    "taps further apart than a block": (1, 30000, 8, 12, 3, 1, 5000, 9000, 1),
    "fewer positions than a vector": (3, 9, 20, 11, 4, 1, 0, 1, 1),
    "blocks of groups": (1, 130, 1600, 2800, 9, 1, 4, 1, 200),
    "a group after the other": (1, 90, 6000, 18, 3, 1, 1, 1, 2),
    "parts of the filters": (1, 20, 90, 245, 5, 1, 2, 1, 1),
    "parts of the filters of groups": (1, 19, 100, 1202, 5, 1, 0, 1, 2),
}


def case_of(N, L, C, O, K, stride, padding, dilation, groups):
    axis = ((stride,), (padding,), (padding,), (dilation,), (1,))
    return Case((N, L, C), (O, K, C // groups), *axis, groups, False)


def schedule_of(case, dtype="float32"):
    return dispatch.plan.__wrapped__(problem(case, dtype), "channels_first").schedule


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_sums_are_exact(name, dtype, always_parallel):
    case = case_of(*CASES[name])
    x, w = case.data(np.random.default_rng(0), dtype)
    y = case.run(x, w, variant="channels_first")
    assert y.dtype == x.dtype and np.array_equal(y, exact(case, x, w))


def test_what_the_cases_are_for(monkeypatch):
    caches = processor.caches()._replace(L2_bytes=1 << 19)
    monkeypatch.setattr(processor, "caches", lambda: caches)
    monkeypatch.setattr(processor, "cores", lambda: 4)
    g = {name: schedule_of(case_of(*sizes)).geometry[0] for name, sizes in CASES.items()}
    assert g["many blocks"]["blocks"] > 2
    assert g["a tap in common with every second"]["classes"] == 2
    assert g["no rows in common"]["classes"] == 3
    assert g["stride and dilation have a divisor"]["classes"] == 2
    assert g["taps further apart than a block"]["class_step"] > 1000
    assert g["fewer positions than a vector"]["rows"] == 6
    assert g["blocks of groups"]["group_blocks"] > 1
    assert g["a group after the other"]["group_blocks"] == 2
    assert g["parts of the filters"]["panel_blocks"] == 4
    assert g["parts of the filters of groups"]["group_blocks"] == 2
    assert g["parts of the filters of groups"]["panel_blocks"] == 2


def test_all_cores_get_the_same(monkeypatch):
    """Parts of many filters where a line has an odd number of tiles."""
    monkeypatch.setattr(processor, "cores", lambda: 2)
    split = set()
    for W in range(40, 400, 8):
        blocks = blocks_of(problem(case_of(1, W, 256, 512, 1, 1, 0, 1, 1), "float32"))
        assert blocks._idle(*blocks.shares) <= 1.05
        split.add(blocks.shares[1])
    assert split == {1, 2}


@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_scratch_does_not_grow_with_the_input(dtype):
    def scratch(N, L):
        return schedule_of(case_of(N, L, 24, 10, 3, 1, 1, 1, 1), dtype).scratch

    assert scratch(1, 1_000_000) == scratch(50, 1_000_000) <= 1.2 * scratch(1, 20_000)


def test_filters_that_fill_tiles_cost_less():
    """By the cost model: each of them, where one more would need rows of another tile."""
    MR = max(tile.shape[0] for tile in channels_first.tiles())
    costs = [
        channels_first.cost(problem(case_of(1, 4000, 64, O, 5, 1, 2, 1, 1), "float32")) / O
        for O in (4 * MR, 4 * MR + 1)
    ]
    assert costs[0] < costs[1]
