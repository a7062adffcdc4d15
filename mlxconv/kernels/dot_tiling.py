"""The tile of dot products that takes the least time for a few filters, see dot.py: a cost model.

It counts as tiling.py does, so that the two may be compared: multiply-adds at full speed for one
position of the output.  Fitted to 400 random problems of up to 16 filters: dot is taken where it
takes less time than others, at 1.02 times the time of the best.
"""

import math
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES
from mlxconv.kernels import blocking
from mlxconv.kernels.geometry import STAYS, STAYS_ALIGNED
from mlxconv.kernels.padding import line_of, met
from mlxconv.kernels.schedule import Tile, itemsize_of, lanes_of
from mlxconv.kernels.tiling import positions_of, window_of

if TYPE_CHECKING:
    from mlxconv.problem import Problem

MOST_FILTERS = 16  # of a group; with more others win
MOST_POSITIONS = 8  # of one image: with more the order of summation may not depend on the batch
# registers of the machine -> positions for 1, 2, ... filters, each a sum of its own; windows are
# operands, and each load of theirs feeds as many multiply-adds as there are filters
TILES = {
    16: (12, 6, 4, 2),  # 12 + 1, 12 + 2 + 1, 12 + 3 + 1, 8 + 4 + 1 of 16
    32: (14, 10, 8, 6, 5, 4, 3, 2, 2, 2),  # 14 + 1, 20 + 2 + 1, ..., 20 + 10 + 1 of 32
}
# the same where the last vector of a tap has fewer channels than lanes: others would spill
RAGGED = {
    16: (),
    32: (14, 10, 7),
}
# registers -> positions, and taps of a single filter, where each vector of x serves several of them
SLIDING = {
    16: (8, 6),  # 8 + 6 + 1
    32: (14, 12),  # 14 + 12 + 1: 25 loads of x and 12 of taps feed 168 multiply-adds
}
RAGGED_TAPS = 10  # at the most, see RAGGED
FEW_ROWS = 6  # leave two of eight ways of a set of L1 to filters and outputs
L2_BYTES = 34  # of filters that a cycle brings from L2
LOAD_CYCLES = 0.6  # of a vector that L1 does not hold, beside those of the multiply-adds it feeds
TILE_CYCLES = 5  # of a tile beside its multiply-adds
RUN_CYCLES = 8  # ... for each run of its windows
SUM_CYCLES = 1.2  # ... for each of its sums
LINE_CYCLES = 60  # to begin a line
FROM_MEMORY = 1.5  # times as long for images that come from there and are not asked for, or twice
AHEAD_BYTES = 8192  # so far ahead; takes 0.3 to 0.9 of the time
STRADDLED = 2  # more loads in whose time one is done that meets two cache lines
STRADDLED_CYCLES = 0.4  # more of a load of a filter that meets two cache lines
COPY_CYCLES = 120  # to begin the copy of a filter


def meets_few_filters(p: "Problem") -> bool:
    """Whether there are few filters, on more than a few positions, and not one for each channel."""
    filters, most = p.O // p.groups, MOST_FILTERS
    if is_ragged(p):
        most = len(RAGGED[processor.registers()]) if p.groups == 1 else 0
    return 0 < filters <= most and math.prod(p.output_L) >= MOST_POSITIONS


def is_ragged(p: "Problem") -> bool:
    """Whether the channels of a group leave lanes of their last vector empty."""
    return (p.C // p.groups) % lanes_of(p) > 0


def tiles(ragged: bool = False) -> tuple[Tile, ...]:
    """Those of this machine, for 1, 2, ... filters."""
    rows = (RAGGED if ragged else TILES)[processor.registers()]
    return tuple(Tile((MR, i + 1), 0.5) for i, MR in enumerate(rows))


def taps_inside(p: "Problem") -> int:
    """How many taps of a single filter serve positions from registers, those that load the least;
    0 if no vector of x would feed several of them."""
    if p.O > 1 or p.kernel_dilation[-1] > 1:
        return 0
    most = min(p.K[-1], SLIDING[processor.registers()][1])
    most = min(most, RAGGED_TAPS) if is_ragged(p) else most
    best = min(range(1, most + 1), key=lambda taps: _loads(p, taps), default=1)
    return best if best > 1 else 0


def _loads(p: "Problem", taps: int) -> int:
    """Loads of a tile of one filter, of which so many taps serve its positions at a time, for a
    vector of the channels of a line."""
    MR, K = SLIDING[processor.registers()][0], p.K[-1]
    alone = K if taps == 1 else K % taps
    return (K - alone) // taps * ((MR - 1) * p.stride[-1] + 2 * taps) + alone * (MR + 1)


def best_tile(p: "Problem") -> Tile:
    """The one that takes the least time: for all filters, or for some at a time, which reads fewer
    of them from L2 for as many multiply-adds."""
    if taps_inside(p):
        return Tile((SLIDING[processor.registers()][0], 1), 0.5)
    fitting = [t for t in tiles(is_ragged(p)) if t.shape[1] <= p.O // p.groups]
    fitting = [_uncrowded(p, tile) for tile in fitting]
    return min(reversed(fitting), key=lambda tile: _multiplying(p, tile))


def _uncrowded(p: "Problem", tile: Tile) -> Tile:
    """`tile`, with fewer rows where these would crowd a set of L1, in which a line of theirs has to
    stay for two vectors: 1024 channels, one filter take half the time."""
    MR, filters = tile.shape
    crowded = processor.filled(p.stride[-1] * p.C * itemsize_of(p), MR) >= 1
    return tile._replace(shape=(min(MR, FEW_ROWS), filters)) if crowded else tile


def _vectors(p: "Problem") -> int:
    """Those that hold a window: the last one of each tap may have fewer channels than lanes."""
    return max(1, math.prod(p.K) * -(-(p.C // p.groups) // lanes_of(p)))


def _passes(p: "Problem", tile: Tile) -> int:
    """Tiles for all filters of a group."""
    return -(-(p.O // p.groups) // tile.shape[1])


def _multiplying(p: "Problem", tile: Tile) -> float:
    """Cycles in which a vector of the sums of a position is computed, for all filters."""
    (MR, filters), far = tile.shape, 0
    loads = MR + filters
    if taps := taps_inside(p):
        loads = _loads(p, taps) / p.K[-1]
    if p.C // p.groups * itemsize_of(p) % CACHE_LINE_BYTES:
        loads *= 1 + STRADDLED * processor.vector_bytes() / CACHE_LINE_BYTES
    cycles = max(MR * filters / processor.fma_per_cycle(), loads / 2)
    if p.O // p.groups * window_of(p) * itemsize_of(p) > processor.caches().L1_bytes * 3 // 4:
        cycles, far = max(cycles, filters * processor.vector_bytes() / L2_BYTES), filters
    anew = 2 if p.kernel_dilation[-1] > 1 else min(1.0, p.stride[-1] / p.K[-1])
    return (cycles + LOAD_CYCLES * (far + MR * anew)) * _passes(p, tile) / MR


def tiles_ahead(p: "Problem") -> int:
    """How many tiles before their turn rows that come from memory are asked for; 0 where lines that
    no tap meets would be as well."""
    return 0 if p.K[-1] < p.stride[-1] else -(-AHEAD_BYTES // _row_bytes(p))


def _row_bytes(p: "Problem") -> int:
    """Of the rows that a tile reads anew."""
    return max(1, best_tile(p).shape[0] * p.stride[-1] * p.C * itemsize_of(p))


def stay(p: "Problem") -> int:
    """Where tiles read filters as they lie: anywhere if tiles are so few that to copy a filter
    takes longer than loads that meet two cache lines, else where it starts with one."""
    window, tiles = window_of(p), positions_of(p) / best_tile(p).shape[0] / processor.cores()
    straddling = tiles * _vectors(p) * STRADDLED_CYCLES
    if window * itemsize_of(p) % CACHE_LINE_BYTES:
        return STAYS  # copies would straddle as well
    return STAYS if straddling < COPY_CYCLES + blocking.PACK_CYCLES * window else STAYS_ALIGNED


def cost(p: "Problem") -> float:
    """Multiply-adds at full speed in whose time it computes a position, as tiling.Choice.cost."""
    tile, line, window, lanes = best_tile(p), line_of(p), window_of(p), lanes_of(p)
    MR, filters = tile.shape
    runs = math.prod(p.K[:-1]) * (p.K[-1] if p.kernel_dilation[-1] > 1 else 1)
    beside = TILE_CYCLES + runs * RUN_CYCLES + MR * filters * SUM_CYCLES
    cycles = _vectors(p) * _multiplying(p, tile) * met(line) + beside * _passes(p, tile) / MR
    cycles = cycles * -(-line.W // MR) * MR + LINE_CYCLES
    if math.prod(p.L) * p.C * itemsize_of(p) > processor.read_bytes():
        again = _passes(p, tile) > 1 and _row_bytes(p) > processor.caches().L1_bytes * 3 // 4
        cycles *= FROM_MEMORY if again or not tiles_ahead(p) else 1
    return cycles / line.W * processor.fma_per_cycle() * lanes / window
