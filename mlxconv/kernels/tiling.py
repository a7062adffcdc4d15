"""Which register tile takes the least time for a problem: a cost model.

It counts multiply-adds at full speed, for one position of the output: the lanes that a tile takes
for its filters, weighted by its speed with all of them in use, times all that makes it longer.
Fitted to some 900 random problems, each measured with every tile: the choice takes 1.02 times the
time of the best.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.arrays import BITS, CACHE_LINE_BYTES
from mlxconv.forks import cached_property
from mlxconv.kernels import blocking
from mlxconv.kernels.geometry import COPY_FLOP
from mlxconv.kernels.padding import Axis, copied_rows, ends_of, line_of, met, shortened
from mlxconv.kernels.schedule import Tile, itemsize_of, lanes_of

if TYPE_CHECKING:
    from mlxconv.problem import Problem

TILE_CYCLES = 8  # of a tile beside its multiply-adds and what all tiles take for an output
PHASED = 1.06  # of the time of tiles, for phases
FEW = 1.05  # ... where positions are so few that panels are shared out
TAIL_CYCLES = 400  # to begin the positions of a line that phases leave over
# of the time of tiles that write within the caches what is far
WITHIN = 1.6  # lines of memory that others would write past them
APART = 0.015  # more for each row of a tile that shares lines with others: a stream of its own
KEPT_SUMS = 32  # multiply-adds of an output; more take so long that writing is hidden


@dataclass(frozen=True, eq=False)
class Choice:
    """A tile, the positions that each of its rows computes, and a tile for filters left over."""

    p: "Problem"
    tile: Tile
    phases: int = 1
    narrow: Tile | None = None

    @property
    def filters(self) -> int:
        """Columns of the panels of a group."""
        return filters_of(self.p) * self.phases

    @property
    def panels(self) -> int:
        return -(-self.filters // columns(self.p, self.tile))

    @property
    def rows(self) -> int:
        """Of the smallest block, which is enough for both tiles."""
        return max(t.shape[0] for t in (self.tile, self.narrow) if t)

    @property
    def W(self) -> int:
        """Rows of a line."""
        return self.p.output_L[-1] // self.phases

    @cached_property
    def parts(self) -> tuple[tuple[Tile, float], ...]:
        """The tiles that compute all filters, and the lanes of each, weighted by its speed."""
        whole = (self.panels - (self.narrow is not None)) * weight(self.p, self.tile)
        if self.narrow is None:
            return ((self.tile, whole),)
        return (self.tile, whole), (self.narrow, weight(self.p, self.narrow))

    @cached_property
    def lanes(self) -> float:
        """Of all filters, weighted."""
        return sum(lanes for _, lanes in self.parts)

    @cached_property
    def cores(self) -> int:
        return blocking.sharing(self.p.flop)

    @cached_property
    def few(self) -> bool:
        """Whether positions are few beside filters, and are cut only for equal shares of panels."""
        few = blocking.are_few(positions_of(self.p), filters_of(self.p))
        return few and self.p.groups * self.panels >= 2 * self.cores

    @cached_property
    def shares_panels(self) -> bool:
        """Whether it is panels that are shared out, each packed by one core."""
        alone = self.gathers and positions_of(self.p) <= filters_of(self.p)
        return self.few or (alone and self.p.groups * self.panels >= self.cores)

    @cached_property
    def gathers(self) -> bool:
        """Whether windows are copied, one behind the other, instead of being read line by line."""
        if self.phases > 1 or self.rows > self.W:
            return self.rows > self.W
        MR = self.tile.shape[0]
        copied = self._in_tiles(MR) * (1 + self._copies / self.lanes)
        return copied < self._by_line(MR) * self._met

    @cached_property
    def line(self) -> Axis:
        """The last axis."""
        return line_of(self.p)

    @cached_property
    def _block(self) -> int:
        """The positions of a block of a line."""
        p, MR, line = self.p, self.tile.shape[0], self.line
        begins = blocking.block_flop(p.groups) * positions_of(p) / max(1, line.W * p.flop)
        begins *= self.panels if self.few else 1
        return shortened(line, min(line.W, blocking.MOST_TILES * MR), MR, 1, begins)

    @cached_property
    def _met(self) -> float:
        """The share of the taps that blocks of a line compute."""
        return met(self.line, self._block)

    @cached_property
    def _strip(self) -> float:
        """The multiply-adds in whose time a block copies what it reads, for an element of each
        window: all of it, or what the tiles at the ends of a line read, unless it is widened."""
        line, rows, widens = self.line, max(1, self._block), self.p.input_dtype in BITS
        ends = ends_of(line, self.tile.shape[0])
        if not (widens or ends):
            return 0.0
        copied = copied_rows(line, rows) / rows
        at_end = min(rows, ends // 2)  # of a block
        at_ends = ends / max(1, line.W) * copied_rows(line, at_end) / max(1, at_end)
        return COPY_FLOP / 2 / line.K * (copied if widens else min(copied, at_ends))

    @cached_property
    def _copies(self) -> float:
        """The multiply-adds in whose time an element of a window is copied."""
        p, again = self.p, blocking.READ_AGAIN_FLOP if self.rows <= self.W else 0
        return (blocking.gather_flop(p.K[-1], p.kernel_dilation[-1], p.C // p.groups) + again) / 2

    def _in_tiles(self, MR: int) -> float:
        """The rows of all tiles, for each position, if these lie one behind the other."""
        positions = positions_of(self.p)
        return -(-max(positions, self.rows) // MR) * MR / positions

    def _by_line(self, MR: int, tail: float = 0.0) -> float:
        """The same by line, whose last tile may be cut short; positions that are left over by the
        phases take a tile, and as long as so many to begin.  Where more rows share a set of L1 than
        it has ways, all take longer."""
        W = self.p.output_L[-1]
        tiles = -(-self.W // MR) + (W % self.phases > 0) * (1 + tail)
        return tiles * MR * self.phases / W * blocking.crowding(row_bytes(self.p, self.phases), MR)

    @cached_property
    def cost(self) -> float:
        """Multiply-adds at full speed in whose time it computes a position."""
        p, (MR, NV) = self.p, self.tile.shape
        taps, stride = p.K[-1], p.stride[-1]
        reach = (taps + (self.phases - 1) * stride) / taps
        sums = MR * NV / self.tile.share * max(1, reach * taps * (p.C // p.groups))
        cycles = sums / processor.fma_per_cycle()
        packs = blocking.pack_flop(1) / 2 / positions_of(p)
        packs *= 1 if self.shares_panels else self.cores
        met = 1.0 if self.gathers else self._met
        took = reach * (met / self.phases + packs) * (1 + TILE_CYCLES / cycles)
        took *= (PHASED if self.phases > 1 else 1) * (FEW if self.few else 1)
        took *= sum(
            lanes * self._slowdown(tile.shape[0], TAIL_CYCLES / cycles)
            for tile, lanes in self.parts
        )
        return took * self._idle() * self._writing()

    def _slowdown(self, MR: int, tail: float) -> float:
        """How much longer tiles of MR rows take than their lanes say."""
        copiers = self.cores if self.shares_panels else 1
        if not self.gathers:
            return self._by_line(MR, tail) * (1 + self._strip * copiers / self.lanes)
        return self._in_tiles(MR) * (1 + self._copies * copiers / self.lanes)

    def _idle(self) -> float:
        """How much longer it takes where shares are not equal: of the tiles, for each panel if
        positions are few; or, where tiles make fewer blocks than cores, two to a block of a line,
        of the panels, of which the last may be narrow."""
        p, rows, cores = self.p, self.rows, self.cores
        if self.gathers:
            in_rows = positions_of(p) // self.phases
            tiles, blocks = -(-in_rows // rows), 1 if self.shares_panels else in_rows // rows
        else:
            lines = max(1, positions_of(p) // p.output_L[-1])
            per_line = -(-self.W // rows)
            tiles, blocks = lines * per_line, lines * (per_line // 2 or 1)
        if self.few or p.groups * blocks >= cores:
            tiles *= p.groups * (self.panels if self.few else 1)
            return -(-tiles // cores) * cores / tiles
        blocks = p.groups * max(1, blocks)
        largest = weight(p, self.tile) * -(-blocks * self.panels // cores)
        return max(1.0, largest * cores / (blocks * self.lanes))

    def _writing(self) -> float:
        """How much longer it takes to write outputs that no cache holds, where not past the
        caches."""
        p, filters = self.p, self.p.O * itemsize_of(self.p)
        if not is_far(p) or self.keeps_rows or filters < 2 * CACHE_LINE_BYTES:
            return 1.0
        if filters % CACHE_LINE_BYTES:
            return 1 + self.rows * APART
        return WITHIN if p.O // p.groups % columns(p, self.tile) else 1.0

    @cached_property
    def keeps_rows(self) -> bool:
        """Whether rows of such outputs, which take some lines of memory and fill none, are kept
        until they do: where sums are short, and those of two tiles almost fit into L1."""
        p, filters = self.p, self.p.O * itemsize_of(self.p)
        if not is_far(p) or p.groups > 1 or p.dtype in BITS or math.prod(p.K) * p.C > KEPT_SUMS:
            return False
        fit = self.tile.shape[0] * filters <= processor.caches().L1_bytes * 5 // 8
        return fit and 6 * lanes_of(p) <= p.O and filters % CACHE_LINE_BYTES > 0


@lru_cache(maxsize=8)  # who picks a variant asks, and then the variant: a third of the time
def fastest(p: "Problem", tiles: tuple[Tile, ...], may_phase: bool = True) -> Choice:
    """The choice of the least cost."""
    return min(choices(p, tiles, may_phase), key=lambda choice: choice.cost)


def choices(p: "Problem", tiles: Sequence[Tile], may_phase: bool = True) -> Iterator[Choice]:
    """Each tile, with as many phases as its lanes have room for filters, half as many, and one."""
    filters = filters_of(p)
    for tile in tiles:
        NR, most = columns(p, tile), 1
        fit = p.groups == p.kernel_dilation[-1] == 1 and p.K[-1] > 1 and filters < NR
        if may_phase and fit:
            most = max(1, min(NR // filters, p.output_L[-1] // tile.shape[0]))
        for phases in sorted({most, most // 2 or 1, 1}):
            narrow = narrow_tile(p, tile, phases, tiles)
            yield Choice(p, tile, phases, narrow)


def narrow_tile(p: "Problem", tile: Tile, phases: int, tiles: Sequence[Tile]) -> Tile | None:
    """The tile for filters that `tile` leaves over, if one takes less time: one of no more rows if
    there is, as all blocks are enough for both, else one whose rows do not crowd a set of L1."""
    filters, step = filters_of(p) * phases, row_bytes(p, phases)
    NR, MR = columns(p, tile), tile.shape[0]
    left = filters % NR if filters > NR else 0
    fitting = [
        t
        for t in tiles
        if 0 < left <= columns(p, t) < NR
        if t.shape[0] <= MR or processor.filled(step, t.shape[0]) <= 1
    ]
    fitting = [t for t in fitting if t.shape[0] <= MR] or fitting
    best = min(fitting, key=lambda t: weight(p, t), default=tile)
    return best if weight(p, best) < weight(p, tile) else None


def filters_of(p: "Problem") -> int:
    """Of a group; one if there are none."""
    return max(1, p.O // p.groups)


def columns(p: "Problem", tile: Tile) -> int:
    """Filters of a panel."""
    return tile.shape[1] * lanes_of(p) // tile.share


def weight(p: "Problem", tile: Tile) -> float:
    """The lanes of a panel, weighted by the speed of the tile."""
    return columns(p, tile) / tile.efficiency


def positions_of(p: "Problem") -> int:
    """Of the output, all told; one if there are none."""
    return max(1, p.N * math.prod(p.output_L))


def window_of(p: "Problem") -> int:
    """The multiply-adds of an output; one if there are none."""
    return max(1, math.prod(p.K) * (p.C // p.groups))


def row_bytes(p: "Problem", phases: int) -> int:
    """From one row of a tile to the next."""
    return p.stride[-1] * phases * p.C * itemsize_of(p)


def is_far(p: "Problem") -> bool:
    """Whether no cache holds the outputs."""
    moved = math.prod(p.input_shape) + math.prod(p.output_shape)
    return blocking.are_far(moved * itemsize_of(p))
