"""The cost model that picks register tiles."""

import math

import pytest

from benchmarks.families import problems
from mlxconv.bench.shapes import Shape
from mlxconv.kernels import direct
from mlxconv.kernels.tiling import choices, columns, fastest

TILES = direct.tiles()


def all_choices(p):
    return list(choices(p, TILES))


@pytest.mark.parametrize("seed", range(3))
def test_choices_cover_the_filters(seed):
    """All of them, by whole panels and one narrow one, in rows that every block has; and each has a
    cost."""
    for shape in problems(seed, 110).values():
        p = shape.problem()
        for choice in all_choices(p):
            tiles = [tile for tile, _ in choice.parts]
            covered = choice.panels * columns(p, choice.tile)
            if choice.narrow:
                covered += columns(p, choice.narrow) - columns(p, choice.tile)
            assert 0 <= covered - choice.filters < columns(p, tiles[-1])
            assert all(choice.rows >= tile.shape[0] for tile in tiles)
            assert 0 < choice.cost < math.inf


@pytest.mark.parametrize("shape", [(0, 9, 4, 8, 3), (1, 9, 0, 8, 3), (1, 9, 4, 0, 3)])
def test_nothing_to_compute(shape):
    assert 0 < fastest(Shape(*shape).problem(), TILES).cost < math.inf


def test_shares_that_are_not_equal():
    """The only panel of a tile that leaves one job costs twice as much on two cores."""
    p = Shape(1, 18, 344, 40, 11).problem()
    for choice in all_choices(p):
        alone = choice.panels == 1 and choice.rows > choice.W // 2
        if alone and not choice.shares_panels:
            assert choice._idle() == choice.cores


@pytest.mark.parametrize("taps", (9, 90))
def test_long_windows_take_the_tiles_of_others(taps):
    """Panels that L2 does not hold take as long as those that it does: 1.1 to 1.5x with tiles of
    one vector, which have more rows."""
    p = Shape(1, 600, 768, 768, taps).problem()
    assert fastest(p, TILES).tile.efficiency >= 0.93
