"""The tile and the blocks of turned rows that take the least time for a problem, see
channels_first.py: a cost model.

It counts as tiling.py does, so that the two may be compared: multiply-adds at full speed for one
position of the output.  Fitted to 674 random problems: the variant of the least cost takes 1.012
times the time of the best, and without this one it would be 1.038; of 408 others 1.012 as well.
Fitted anew to 949 on Zen 5, with AVX-512: 1.006.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.forks import cached_property
from mlxconv.kernels import blocking, direct
from mlxconv.kernels.padding import SHORT, line_of, met
from mlxconv.kernels.schedule import Tile, itemsize_of, lanes_of
from mlxconv.kernels.tiling import positions_of, window_of

if TYPE_CHECKING:
    from mlxconv.problem import Problem

TILE_CYCLES = 10  # of a tile beside its multiply-adds
RUN_CYCLES = 4  # ... for each tap
BLOCK_CYCLES = 300  # to begin a block
INPUT_CYCLES = 0.5  # to turn four bytes of the input
OUTPUT_CYCLES = 0.4  # ... of the output
SIDE_BY_SIDE = 2  # times as long, where cores write lines of memory that are neighbours
MET = 0.99  # of the taps, at the most, by blocks of one tile that are worth to begin
FROM_L3 = 1.25  # of the time of tiles whose filters no cache of a core holds


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tile of MR filters x NV vectors of positions, and blocks of positions and of groups."""

    p: "Problem"
    tile: Tile

    @property
    def filters(self) -> int:
        """Of a group."""
        return self.p.O // self.p.groups

    @property
    def tiles(self) -> int:
        """For all of them."""
        return -(-self.filters // self.tile.shape[0])

    @property
    def NR(self) -> int:
        """Positions of a tile."""
        return self.tile.shape[1] * lanes_of(self.p)

    @property
    def lines(self) -> int:
        return self.p.N * math.prod(self.p.output_L[:-1])

    @property
    def W(self) -> int:
        """Positions of a line; one if there are none."""
        return max(1, self.p.output_L[-1])

    @property
    def row_tiles(self) -> int:
        """Of a line."""
        return -(-self.W // self.NR)

    @property
    def window(self) -> int:
        """Multiply-adds of an output."""
        return window_of(self.p)

    @cached_property
    def _apart(self) -> int:
        """The taps from one to the next that meets the same rows."""
        stride = self.p.stride[-1]
        return stride // math.gcd(stride, self.p.kernel_dilation[-1])

    @cached_property
    def classes(self) -> int:
        """Of taps that have rows of their own; tap k is of class k modulo so many."""
        return max(1, min(self._apart, self.p.K[-1]))

    @cached_property
    def step(self) -> int:
        """Positions from one tap of a class to the next."""
        dilation = self.p.kernel_dilation[-1]
        return dilation // math.gcd(self.p.stride[-1], dilation)

    @cached_property
    def _taps(self) -> int:
        """Of a class, at the most."""
        return -(-self.p.K[-1] // self._apart)

    @cached_property
    def turned(self) -> int:
        """Rows that each group of a block has."""
        return math.prod(self.p.K[:-1]) * (self.p.C // self.p.groups) * self.classes

    def rows(self, positions: int) -> int:
        """The elements of such a row, in a block of so many positions."""
        return positions + (self._taps - 1) * min(self.step, positions)

    @property
    def sums(self) -> float:
        """Those of a group that tiles form for each position of a line, idle ones too."""
        return self.tiles * self.tile.shape[0] * self.row_tiles * self.NR / self.W

    @cached_property
    def _weight(self) -> float:
        """Multiply-adds at full speed in whose time a tile does one: longer where the filters that
        it reads side by side share a set of L1, as those of 1024 elements do."""
        MR, step_bytes = self.tile.shape[0], self.window * itemsize_of(self.p)
        return blocking.crowding(step_bytes, MR) / self.tile.efficiency

    @property
    def _words(self) -> float:
        """Of four bytes, that an element has."""
        return itemsize_of(self.p) / 4

    @property
    def _room(self) -> int:
        return processor.caches().L2_bytes // 2 // itemsize_of(self.p)

    @cached_property
    def groups(self) -> int:
        """As many as may be: the next one finds the rest of cache lines in L1."""
        rows = self.turned * self.rows(2 * self.NR) + self.filters * 2 * self.NR
        least = rows + self.window * self.filters
        return max(1, min(self.p.groups, 2 * self._room // max(1, least)))

    @cached_property
    def positions(self) -> int:
        """Of a block, if no line has fewer."""
        return self._fitting(self.filters)

    def _fitting(self, filters: int) -> int:
        """The same of a block with so many of the filters."""
        NR, positions = self.NR, self._room // max(1, self.groups * (self.turned + filters))
        positions -= (self._taps - 1) * self.step
        return min(max(2 * NR, positions // NR * NR), self.row_tiles * NR)

    @property
    def _halves(self) -> int:
        """The most blocks that a line is shared out in: of two tiles."""
        return max(1, self.W // (2 * self.NR))

    @cached_property
    def group_blocks(self) -> int:
        """Parts of the groups: more of them where blocks of a line are fewer than cores."""
        wanted = -(-blocking.sharing(self.work) // max(1, self.lines * self._halves))
        return min(self.p.groups, max(-(-self.p.groups // self.groups), wanted))

    @property
    def _others(self) -> int:
        """Jobs of a block of a line and all filters; one if there are none."""
        return max(1, self.lines * self.group_blocks)

    @cached_property
    def _of_block(self) -> int:
        """Positions of one of equal blocks."""
        return -(-self.W // -(-self.W // self.positions))

    def _computing(self, positions: int) -> float:
        """Cycles of the tiles of a group, for each position of a block of so many."""
        (MR, NV), itemsize = self.tile.shape, itemsize_of(self.p)
        cycles = self.window * MR * NV / processor.fma_per_cycle() * self._weight
        if self.window * self.NR * itemsize > processor.caches().L1_bytes:
            cycles *= processor.from_L2()
        if not blocking.fit_side_by_side(self.window * self.filters * itemsize):
            cycles *= FROM_L3
        cycles += TILE_CYCLES + math.prod(self.p.K) * RUN_CYCLES
        return self.sums / (MR * self.NR) * cycles * met(line_of(self.p), positions)

    def _turning(self, positions: int) -> float:
        """... to turn its input."""
        rows, lanes = self.turned * self.rows(positions) / positions, lanes_of(self.p)
        side = min(lanes, positions, max(1, self.groups * self.p.C // self.p.groups))
        rows *= math.sqrt(lanes / side) * self._words  # of a square, the unit of turning
        return rows * INPUT_CYCLES + BLOCK_CYCLES / self.groups / positions

    @property
    def _returning(self) -> float:
        """... to turn its outputs back."""
        return self.filters * self._words * OUTPUT_CYCLES

    @cached_property
    def shares(self) -> tuple[int, int]:
        """The blocks of a line and the parts of the filters that take the least time: blocks that
        L2 has room for, or smaller ones, so that all cores get the same.  A part turns the input
        again, and is of one group.  With parts 0.92 of the time of equal blocks alone.  Blocks of
        a tile each where they leave out so many taps: 0.91 to 0.96 of the time of two."""
        cores, others, choices = blocking.sharing(self.work), self._others, []
        most = self.row_tiles // 2 if others * (self.row_tiles // 2) >= cores else self.row_tiles
        line, ends = line_of(self.p), {most}
        if met(line, self.NR) < MET:
            ends.add(self.row_tiles)
        short = {min(n, end) for n in SHORT for end in ends} if met(line) < 1 else set()
        for parts in {1, -(-cores // others), cores // math.gcd(cores, others)}:
            if parts == 1 or self.group_blocks == self.p.groups:
                parts = min(self.tiles, parts)
                blocks = -(-self.W // self._fitting(-(-self.filters // parts)))
                even = min(blocking.even_blocks(blocks, others * parts, cores), most)
                choices += [(n, parts) for n in sorted({blocks, even} | short) if n >= blocks]
        return min(choices, key=self._cycles)

    def _idle(self, blocks: int, parts: int) -> float:
        """How much longer tiles take where the largest of few shares, or the number of all, leaves
        cores without work."""
        cores, others = blocking.sharing(self.work), self._others
        jobs, tiles = others * blocks * parts, self.row_tiles * self.tiles
        largest = -(-self.row_tiles // blocks) * -(-self.tiles // parts)
        return max(-(-jobs // cores) * cores / jobs, largest * cores / (others * tiles))

    def _cycles(self, shares: tuple[int, int]) -> float:
        """For each position of a group, on all cores together."""
        blocks, parts = shares
        positions = -(-self.W // blocks)
        cycles = self._computing(positions) * self._idle(blocks, parts)
        cycles += self._turning(positions) * parts
        return cycles + self._returning * min(parts, SIDE_BY_SIDE)

    @cached_property
    def work(self) -> float:
        """What tiles could compute, in FLOP, in the time that all takes on one core."""
        positions = self._of_block
        cycles = self._computing(positions) + self._turning(positions) + self._returning
        return 2 * cycles * _speed(self.p) * positions_of(self.p) * self.p.groups

    @cached_property
    def cost(self) -> float:
        """Multiply-adds at full speed in whose time it computes a position."""
        return self._cycles(self.shares) * _speed(self.p) / self.window


def _speed(p: "Problem") -> int:
    """Multiply-adds of lanes that a core starts in a cycle."""
    return processor.fma_per_cycle() * lanes_of(p)


def tiles() -> tuple[Tile, ...]:
    """Those of direct.py whose vectors are whole registers."""
    return tuple(tile for tile in direct.tiles() if tile.share == 1)


def blocks_of(p: "Problem") -> Blocks:
    """Those of the tile that takes least time for the filters of a group and a line."""
    fitting = (Blocks(p, tile) for tile in tiles() if tile.shape[0] <= p.O // p.groups)
    return min(fitting, key=lambda blocks: blocks.sums * blocks._weight)
