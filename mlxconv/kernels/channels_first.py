"""Vectors of positions: a block of the input is turned to channels-first, and its outputs back.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         groups of filters that do not fill the vectors of a panel: 10 take 16 lanes of
            direct.py, but two tiles of five rows here; and filters that few positions meet, which
            take less time to be read from where they lie than to be packed.
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
from typing import TYPE_CHECKING

import numpy as np

from mlxconv import processor
from mlxconv.arrays import BITS, CACHE_LINE_BYTES
from mlxconv.kernels import blocking
from mlxconv.kernels.elements import Elements, converts_runs
from mlxconv.kernels.geometry import KEPT, OUTPUTS, PACKED, SUSPECT, locate
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.loops import tile_call
from mlxconv.kernels.packing import finite
from mlxconv.kernels.padding import meets_padding
from mlxconv.kernels.schedule import Part, Schedule, Step
from mlxconv.kernels.turned_tiling import Blocks, blocks_of, tiles
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
                    end = x_r + runs.length * runs.step
                    while x_r < end:  # and channels: a rank-1 update of the tile, see direct.py
                        for v in static_range(NV):
                            x_s[v] = load(vec, x.a, x_r + v * LANES)
                        for m in static_range(MR):
                            w_ms = broadcast(vec, w.a, w_r + m * w.step)
                            for v in static_range(NV):
                                acc[m, v] = fma(w_ms, x_s[v], acc[m, v])
                        w_r += 1
                        x_r += runs.step
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
            end = min(g.O, block.p1 * g.NR)  # a part of the filters only of one group
            o = min(block.p0 * g.NR, end - g.NR)
            for i in range(block.g1 - block.g0):
                w = Rows(filters.a, filters.at + (i * g.O + o) * filters.step, filters.step)
                x = Rows(scratch, i * g.C * g.pitch, g.pitch)
                y = Rows(scratch, g.block_at + i * g.O * g.pitch, g.pitch)
                call_tile(g.tile, w, runs, x, y, end - o, max(g.MR, block.rows), 0)
            n, to = (block.g1 - block.g0) * (end - o), block.to + block.g0 * g.O + o
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


def cost(p: "Problem") -> float:
    """Multiply-adds at full speed in whose time it computes a position, as tiling.Choice.cost."""
    return blocks_of(p).cost


def schedule(p: "Problem") -> Schedule:
    """Blocks of positions of a line, and of groups; parts of the filters where these are few."""
    elements, blocks, g = Elements(p.input_dtype, p.dtype), blocks_of(p), geometry_of(p)
    vec, NR = vec_of(elements.dtype, processor.vector_bytes()), blocks.NR
    g["NR"], g["panels"] = blocks.tile.shape[0], blocks.tiles
    g["MR"], g["rows"], g["tiles"] = NR, min(NR, blocks.W), blocks.row_tiles
    lines, parts = blocks.lines, blocks.group_blocks
    g["blocks"], g["panel_blocks"] = blocks.shares
    g["group_blocks"], g["classes"], g["class_step"] = parts, blocks.classes, blocks.step
    suspects = meets_padding(p)
    g["checks"] = OUTPUTS if suspects else 0
    split = (
        ("lines", lines),
        ("blocks of positions", int(g["blocks"][0])),
        ("blocks of groups", parts),
        ("parts of the filters", int(g["panel_blocks"][0])),
    )
    scratch = _scratch(g, elements, blocks) + vec.lanes
    jobs, kernel = math.prod(n for _, n in split), micro_kernel(*blocks.tile.shape, vec)
    return Schedule(
        elements,
        g,
        steps=(Step(range_kernel(elements, vec), jobs, blocks.work),),
        tile=blocks.tile.name(elements),
        parts=(Part("tile", kernel, tile_call(Elements(elements.dtype, elements.dtype))),),
        scratch=scratch,
        runs=2 * math.prod(p.K) + KEPT,
        split=split,
        by_line=True,
        suspects=suspects,
    )


def _scratch(g: np.ndarray, elements: Elements, blocks: Blocks) -> int:
    """Set where in scratch outputs are kept and filters widened, behind the input of a block;
    returns its elements."""
    line = CACHE_LINE_BYTES // np.dtype(elements.dtype).itemsize
    rows = blocks.rows(max(blocking.block_rows(g, True), blocks.NR))
    # an odd number of lines, lest those of all channels be of one set of L1
    g["pitch"] = pitch = line * (-(-rows // line) | 1)
    channels, filters = blocks.groups * blocks.turned, blocks.groups * blocks.filters
    g["block_at"], g["panels_at"] = channels * pitch, (channels + filters) * pitch
    widened = blocks.window * filters if elements.output in BITS else 0
    return int(g["panels_at"][0]) + widened
