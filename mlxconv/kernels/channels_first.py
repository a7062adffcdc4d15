"""Vectors of positions: a block of the input is turned to channels-first, and its outputs back.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         groups of filters that do not fill the vectors of a panel: 10 take 16 lanes of
            direct.py, but two tiles of five rows here; and long enough sums for what is turned.
Layout      filters are read as they lie; a row of a turned block is a channel, and each tap of
            neighbouring positions is a vector of it, one tap after the other further on

                x   a0 b0 c0        turned   a0 a1 a2 a3 ...      tap 0 of positions 0, 1, 2, ...
                    a1 b1 c1                 b0 b1 b2 b3 ...      tap 1     a1 a2 a3 ...
                    a2 b2 c2 ...             c0 c1 c2 c3 ...

            Positions `stride` rows apart meet each tap in rows that are as far apart: a block
            holds such rows side by side, apart for each of the taps that have none in common.
Registers   MR filters x NV vectors of positions + NV of a row + 1 weight: the tiles of direct.py,
            whose filters and positions change places.
Order       every output is one chain of multiply-adds over taps in order and channels in order.
References  K. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlxconv import processor
from mlxconv.arrays import BITS, CACHE_LINE_BYTES
from mlxconv.kernels import blocking, direct
from mlxconv.kernels.elements import Elements, converts_runs
from mlxconv.kernels.geometry import KEPT, OUTPUTS, PACKED, SUSPECT, locate
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.loops import tile_call
from mlxconv.kernels.packing import finite
from mlxconv.kernels.schedule import Part, Schedule, Step, Tile, itemsize_of, lanes_of
from mlxconv.kernels.turning import transposes, turns
from mlxconv.kernels.window import Rows, Runs, reach_of
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import broadcast, fma, load, store, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem


@lru_cache
def micro_kernel(MR, NV, vec):
    """The inner loops around a register tile of MR filters x NV vectors of positions."""
    LANES, NR = vec.lanes, NV * vec.lanes

    @kernel
    def turned_tile(w, runs, x, y, filters, positions, mode):
        """y[o][l] = sum over runs r, channels s of w[o][runs[r] + s] * x[rows[r] + s*step + l], for
        o < filters and l < positions; w, x and y are Rows, filters >= MR and positions >= NR."""
        acc = registers(MR, NV)
        x_s = registers(NV)
        for i in range(0, positions, NR):  # third loop: vectors of positions, whose windows
            l = min(i, positions - NR)
            for j in range(0, filters, MR):  # second loop: all filters meet, in L1
                o = min(j, filters - MR)
                for m in static_range(MR):
                    for v in static_range(NV):
                        acc[m, v] = zero(vec)
                for r in range(runs.count):  # first loop: taps
                    w_r = w.at + o * w.step + runs.table[2 * r]
                    x_r = x.at + l + runs.table[2 * r + 1]
                    for s in range(runs.length):  # and channels: a rank-1 update of the tile
                        for v in static_range(NV):
                            x_s[v] = load(vec, x.a, x_r + s * runs.step + v * LANES)
                        for m in static_range(MR):
                            w_ms = broadcast(vec, w.a, w_r + m * w.step + s)
                            for v in static_range(NV):
                                acc[m, v] = fma(w_ms, x_s[v], acc[m, v])
                for m in static_range(MR):
                    for v in static_range(NV):
                        store(acc[m, v], y.a, y.at + (o + m) * y.step + l + v * LANES)

    return turned_tile


@lru_cache
def filter_rows(elements):
    """filters_of for these types."""
    HALF, widen_run = int(elements.output in BITS), converts_runs(elements.widen_output)

    @kernel
    def filters_of(data, g0, g1):
        """The filters of groups [g0, g1), as Rows: as they lie, or widened in scratch, unless the
        last job had the same."""
        g = data.geometry[0]
        size = g.K[0] * g.K[1] * g.K[2] * g.C
        first = g0 * g.O * size
        if HALF:
            if data.runs[PACKED] != 1 + g0:
                widen_run(data.w, first, data.scratch, g.panels_at, (g1 - g0) * g.O * size)
                data.runs[PACKED] = 1 + g0
            filters = Rows(data.scratch, g.panels_at, size)
        else:
            filters = Rows(data.w, first, size)
        return filters

    return filters_of


@lru_cache
def range_kernel(elements, vec):
    """The kernel over blocks of positions and groups, for these types of input and output."""
    call_tile = tile_call(Elements(elements.dtype, elements.dtype))
    turn, transpose, is_finite = turns(elements, vec), transposes(vec), finite(vec)
    filters_of, OUTPUTS_ = filter_rows(elements), OUTPUTS

    @kernel
    def list_taps(table, g, block, d, h):
        """The Runs of all taps that meet the input, relative to a filter and to a channel."""
        w = reach_of(g, 2, block.first, block.rows)
        channels = (block.g1 - block.g0) * g.C
        step = min(g.class_step, block.rows)
        r = 0
        for kd in range(d.k0, d.k1):
            for kh in range(h.k0, h.k1):
                line = (kd - d.k0) * d.step * h.rows + (kh - h.k0) * h.step
                for k in range(w.k0, w.k1):
                    table[2 * r] = ((kd * g.K[1] + kh) * g.K[2] + k) * g.C
                    table[2 * r + 1] = (line * g.classes + k % g.classes) * channels * g.pitch
                    table[2 * r + 1] += k // g.classes * step
                    r += 1
        return Runs(table, r, g.C, g.pitch, g.C)

    @kernel
    def channels_first(data, lo, hi):
        """y[n, l, o] for the blocks of jobs [lo, hi)."""
        g, scratch = data.geometry[0], data.scratch
        for job in range(lo, hi):
            block = locate(g, job)
            filters = filters_of(data, block.g0, block.g1)
            d = reach_of(g, 0, block.d * g.stride[0] - g.padding[0], 1)
            h = reach_of(g, 1, block.h * g.stride[1] - g.padding[1], 1)
            turn(data, block, d, h)
            runs = list_taps(data.runs, g, block, d, h)
            for i in range(block.g1 - block.g0):
                w = Rows(filters.a, filters.at + i * g.O * filters.step, filters.step)
                x = Rows(scratch, i * g.C * g.pitch, g.pitch)
                y = Rows(scratch, g.block_at + i * g.O * g.pitch, g.pitch)
                call_tile(g.tile, w, runs, x, y, g.O, max(g.MR, block.rows), 0)
            n, to = (block.g1 - block.g0) * g.O, block.to + block.g0 * g.O
            if g.checks == OUTPUTS_ and not is_finite(scratch, g.block_at, n, g.pitch, block.rows):
                data.counters[SUSPECT] = 1
            transpose(scratch, g.block_at, g.pitch, n, block.rows, data.y, to, g.y_step[2])

    return channels_first


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    filters, least = p.O // p.groups, min(tile.shape[0] for tile in tiles())
    if filters < least:
        return f"groups of {filters} filters are fewer than the {least} rows of a tile"
    return ""


def tiles() -> tuple[Tile, ...]:
    """Those of direct.py whose vectors are whole registers."""
    return tuple(tile for tile in direct.tiles() if tile.share == 1)


def tile_of(p: "Problem") -> Tile:
    """The one that takes least time for the filters of a group and the positions of a line."""
    fitting = [tile for tile in tiles() if tile.shape[0] <= p.O // p.groups]
    return min(fitting, key=lambda tile: _sums(p, tile, p.output_L[-1]) / tile.efficiency)


def _sums(p: "Problem", tile: Tile, positions: int) -> float:
    """Those of a group that tiles form for each of so many positions of a line, idle ones too."""
    (MR, NV), filters = tile.shape, p.O // p.groups
    NR, positions = NV * lanes_of(p), max(1, positions)
    return -(-filters // MR) * MR * (-(-positions // NR) * NR / positions)


class Blocks(NamedTuple):
    """How taps of a line meet turned rows, and what of these stays in L2."""

    classes: int  # taps that have rows of their own; tap k is of class k modulo so many
    step: int  # positions from one tap of a class to the next
    taps: int  # of a class, at the most
    groups: int
    positions: int

    @property
    def rows(self) -> int:
        """Turned for each channel, of each class."""
        return self.positions + (self.taps - 1) * min(self.step, self.positions)


def blocks_of(p: "Problem", tile: Tile) -> Blocks:
    """Blocks of as many groups as may be: the next one finds the rest of cache lines in L1."""
    filters, C, K, itemsize = p.O // p.groups, p.C // p.groups, p.K[-1], itemsize_of(p)
    common = math.gcd(p.stride[-1], p.kernel_dilation[-1])
    apart, step = p.stride[-1] // common, p.kernel_dilation[-1] // common
    classes, taps = max(1, min(apart, K)), -(-K // apart)
    room, NR = processor.caches().L2_bytes // 2 // itemsize, tile.shape[1] * lanes_of(p)
    turned, weights = math.prod(p.K[:-1]) * C * classes, math.prod(p.K) * C * filters
    least = (turned + filters) * 2 * NR + turned * (taps - 1) * min(step, 2 * NR) + weights
    groups = max(1, min(p.groups, 2 * room // max(1, least)))
    positions = room // max(1, groups * (turned + filters)) - (taps - 1) * step
    whole_line = -(-max(1, p.output_L[-1]) // NR) * NR
    positions = min(max(2 * NR, positions // NR * NR), whole_line)
    return Blocks(classes, step, taps, groups, positions)


# fitted to 765 random problems: the choice of the least cost takes 1.02 times the time of the best,
# and without this variant it would be 1.04
TILE_CYCLES = 5  # of a tile beside its multiply-adds
RUN_CYCLES = 12  # ... for each tap
BLOCK_CYCLES = 200  # to begin a block
TURN_CYCLES = 0.4  # of an element that is turned
FROM_L2 = 1.3  # of the time of tiles whose windows L1 holds


def cost(p: "Problem") -> float:
    """Multiply-adds at full speed in whose time it computes a position, as tiling.Choice.cost."""
    tile = tile_of(p)
    (MR, NV), blocks, fma = tile.shape, blocks_of(p, tile), processor.fma_per_cycle()
    taps, lanes, W = math.prod(p.K), lanes_of(p), max(1, p.output_L[-1])
    window = max(1, taps * (p.C // p.groups))
    cycles = window * MR * NV / fma / tile.efficiency
    in_L1 = window * NV * lanes * itemsize_of(p) <= processor.caches().L1_bytes
    cycles = cycles * (1 if in_L1 else FROM_L2) + TILE_CYCLES + taps * RUN_CYCLES
    turned = blocks.classes * blocks.rows / blocks.positions * window / p.K[-1] + p.O // p.groups
    of_block = -(-W // -(-W // blocks.positions))
    computing = _sums(p, tile, of_block) / (MR * NV * lanes) * cycles
    begins = BLOCK_CYCLES / blocks.groups / of_block
    return (computing + turned * TURN_CYCLES + begins) * fma * lanes / window


def schedule(p: "Problem") -> Schedule:
    """Blocks of positions of a line, and of groups."""
    elements, tile = Elements(p.input_dtype, p.dtype), tile_of(p)
    vec, g = vec_of(elements.dtype, processor.vector_bytes()), geometry_of(p)
    blocks = blocks_of(p, tile)
    lines, parts = p.N * math.prod(p.output_L[:-1]), -(-p.groups // blocks.groups)
    g["MR"], g["panels"] = tile.shape[1] * vec.lanes, 1
    g["rows"] = min(int(g["MR"][0]), max(1, p.output_L[-1]))
    g["tiles"], g["group_blocks"] = -(-max(1, p.output_L[-1]) // int(g["MR"][0])), parts
    g["blocks"], _ = blocking.split(g, blocks.positions, lines * parts, p.flop)
    g["classes"], g["class_step"] = blocks.classes, blocks.step
    suspects = blocking.meets_padding(p)
    g["checks"] = OUTPUTS if suspects else 0
    split = (
        ("lines", lines),
        ("blocks of positions", int(g["blocks"][0])),
        ("blocks of groups", parts),
    )
    scratch = _scratch(p, g, elements, blocks) + vec.lanes
    kernel = micro_kernel(*tile.shape, vec)
    return Schedule(
        elements,
        g,
        steps=(Step(range_kernel(elements, vec), math.prod(n for _, n in split), p.flop),),
        tile=tile.name(elements),
        parts=(Part("tile", kernel, tile_call(Elements(elements.dtype, elements.dtype))),),
        scratch=scratch,
        runs=2 * math.prod(p.K) + KEPT,
        split=split,
        by_line=True,
        suspects=suspects,
    )


def _scratch(p: "Problem", g: np.ndarray, elements: Elements, blocks: Blocks) -> int:
    """Set where in scratch outputs are kept and filters widened, behind the input of a block;
    returns its elements."""
    line = CACHE_LINE_BYTES // np.dtype(elements.dtype).itemsize
    positions = max(blocking.block_rows(g, True), int(g["MR"][0]))
    rows = blocks._replace(positions=positions).rows
    # an odd number of lines, lest those of all channels be of one set of L1
    g["pitch"] = pitch = line * (-(-rows // line) | 1)
    channels = blocks.groups * (p.C // p.groups) * blocks.classes * math.prod(p.K[:-1])
    filters = blocks.groups * (p.O // p.groups)
    g["block_at"], g["panels_at"] = channels * pitch, (channels + filters) * pitch
    widened = math.prod(p.weight_shape[1:]) * filters if elements.output in BITS else 0
    return int(g["panels_at"][0]) + widened
