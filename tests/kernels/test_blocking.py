"""Blocks of positions, and what they leave out."""

import numpy as np
import pytest

from mlxconv import processor
from mlxconv.bench.shapes import Shape
from mlxconv.dispatch import plan
from mlxconv.kernels import blocking, direct
from mlxconv.kernels.geometry import locate
from mlxconv.kernels.padding import line_in, met
from mlxconv.kernels.schedule import Layout, schedule_of
from mlxconv.kernels.tiling import columns


def geometry(L, K, C=1, O=20, **parameters):
    return plan(Shape(1, L, C, O, K, **parameters).problem(), "direct").schedule.geometry


@pytest.mark.parametrize("rows", (1, 2, 7, 40, 1000))
@pytest.mark.parametrize(
    ("L", "K", "stride", "padding", "dilation"),
    [(50, 3, 1, 0, 1), (50, 5, 1, 4, 2), (40, 7, 3, 9, 2), (30, 5, 1, 200, 64), (9, 4, 2, 30, 7)],
)
def test_taps_that_blocks_compute(L, K, stride, padding, dilation, rows):
    """`met` counts the taps of each block that some of its positions meet the input with."""
    g = geometry(L, K, stride=stride, padding=padding, dilation=dilation)
    line = line_in(g)
    W, computed = line.W, 0
    for first in range(0, W, rows):
        block = range(first, min(first + rows, W))
        for k in range(K):
            if any(0 <= n * stride - padding + k * dilation < L for n in block):
                computed += rows
    share = met(line, rows)
    assert met(line) <= share <= computed / (W * K) + 1e-9
    if W % rows == 0:
        assert share == pytest.approx(computed / (W * K))


def test_blocks_are_short_where_taps_are_left_out():
    """Where padding is longer than the input, they meet one tap or two; elsewhere they are long."""
    long, short = geometry(5000, 5, C=64), geometry(138, 5, C=64, padding=1024, dilation=256)
    assert long["out"][0, 2] > short["out"][0, 2]
    assert blocking.block_rows(short, True) < blocking.block_rows(long, True) / 2
    assert met(line_in(short), blocking.block_rows(short, True)) < 2 / 5


def test_parts_of_panels_are_weighed_with_the_blocks_they_begin():
    """Short blocks would leave out taps here too, and begin once for each of many panels."""
    by = split(Shape(1, 68, 16, 880, 15, padding=7).problem())
    assert by["blocks of panels"] > 1
    assert by["blocks of positions"] * by["blocks of panels"] <= 32 * processor.cores()


@pytest.mark.parametrize("narrow", direct.tiles())
@pytest.mark.parametrize("tile", direct.tiles())
def test_blocks_are_enough_for_both_tiles(tile, narrow):
    """Whatever their rows: what is computed of fewer goes by way of memory that blocks of lines do
    not have."""
    find = getattr(locate, "py_func", locate)
    for L in range(20, 530, 17):
        p = Shape(1, L, 100, 1, 11, padding=80, dilation=16).problem()
        p = p._replace(O=columns(p, tile) + 1)
        schedule = schedule_of(p, direct.micro_kernel, tile, Layout(narrow=narrow))
        (g,) = schedule.geometry.view(np.recarray)
        if g.tiles == 0:
            continue
        W, done = int(g.out[2]), set()
        assert g.rows == max(tile.shape[0], narrow.shape[0]) <= W
        for job in range(schedule.steps[-1].jobs):
            block = find(g, job)
            first = block.to // p.O
            done.update(range(first, first + block.rows))
            assert g.rows <= block.rows <= blocking.block_rows(schedule.geometry, True)
        assert done == set(range(W))


def split(problem, variant="direct"):
    return dict(plan(problem, variant).schedule.split)


def test_few_positions_leave_no_core_idle():
    """Gathered windows that one panel meets are shared out, however few; and a tile that leaves one
    job, of many weights, is not taken."""
    by_rows = split(Shape(9, 9, 274, 20, 5).problem())
    assert by_rows["blocks of lines"] * by_rows["blocks of positions"] >= processor.cores()
    by_panels = split(Shape(1, 18, 344, 40, 11).problem())
    assert by_panels["blocks of panels"] * by_panels["blocks of positions"] > 1


def test_small_jobs_are_few():
    """Positions are not cut for the sake of equal shares where a share is less than a job costs."""
    small, large = (Shape(1, 36, C, 208, 1).problem() for C in (16, 4000))
    assert split(small)["blocks of positions"] == 1
    assert split(large)["blocks of positions"] > 1


@pytest.mark.parametrize("channels", (8, 53, 300))
def test_groups_of_a_block_have_panels_that_stay_in_L2(channels):
    """Unless there is one group alone."""
    shape = Shape(1, 1059, 16 * channels, 16 * channels, 5, padding=2, groups=16)
    schedule = plan(shape.problem(), "direct").schedule
    parts = int(schedule.geometry["group_blocks"][0])
    most = blocking.PART_OF_L2 * processor.caches().L2_bytes
    assert parts == 16 or 4 * schedule.panels / parts <= 1.01 * most


@pytest.mark.parametrize(("part", "in_pieces"), [(1, True), (8, False)])
def test_panels_that_L2_does_not_hold_are_met_in_pieces(part, in_pieces):
    """Of windows so long that even a panel of one vector takes half of L2; L3 holds all panels."""
    lanes = processor.vector_bytes() // 4
    window = (processor.caches().L2_bytes // (2 * 4 * lanes) + 1000) // part
    problem = Shape(1, 80, window, 24 * lanes, 1).problem()
    g = plan(problem, "direct").schedule.geometry
    assert (g["piece"][0] > 0) == in_pieces


@pytest.mark.parametrize(("N", "L"), [(1, 30000), (10000, 3)], ids=["by line", "gathered"])
def test_panels_from_memory_meet_many_positions(N, L):
    """Where no cache holds the filters, a block reads them for so many that it seldom waits."""
    filters = processor.far_bytes() // (4 * 3 * 1024) + 1000
    g = plan(Shape(N, L, 1024, filters, 3, padding=1).problem(), "direct").schedule.geometry
    assert g["panel_blocks"][0] == 1 and g["blocks"][0] > processor.cores()
    assert blocking.positions_of(g) // g["blocks"][0] >= blocking.FROM_MEMORY * 3 // 4


def test_parts_from_memory_meet_all_positions():
    """Few parts, as each copies the input: where no cache holds one, it is read once."""
    panel_bytes, cores = 4 * 3 * 4352 * 16, processor.cores()
    filters = 16 * cores * (processor.far_bytes() // panel_bytes + 2)
    schedule = plan(Shape(1, 100, 4352, filters, 3, padding=1).problem(), "direct").schedule
    g = schedule.geometry
    parts = int(g["panel_blocks"][0])
    assert parts % cores == 0 < parts
    assert g["blocks"][0] == 1 or 4 * schedule.panels // parts <= processor.far_bytes()
