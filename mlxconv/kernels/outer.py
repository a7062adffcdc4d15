"""Gradients by the filters: sums over positions of outer products.

Computes    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - padding + k*dilation, c],
            per group, with one to three spatial axes.
Layout      the windows of a block of positions are read as a convolution reads them, in place or
            from a strip: a tile of sums takes neighbouring elements of a run of the window, one
            after the other, and neighbouring filters as a vector of dy

                window  [x x x x x x x x ...]        dy  [o o o o o o ...]      position l
                        [x x x x x x x x ...]            [o o o o o o ...]      position l+1
                         '-----' MR weights               '-------' NV vectors of filters

            so that sums come as the panels of packing.py, and are transposed in the end.
Registers   MR*NV sums + NV of dy + 1 broadcast, as in direct.py.
Order       positions one after the other in a block, blocks in order within a piece of the batch;
            pieces are added in their order, and how many there are depends on the problem alone.
"""

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlxconv import processor
from mlxconv.kernels.copies import clears
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import KEPT, SUSPECT, locate
from mlxconv.kernels.layouts import geometry_of
from mlxconv.kernels.packing import finite, squares
from mlxconv.kernels.padding import meets_padding
from mlxconv.kernels.schedule import Part, Schedule, Step
from mlxconv.kernels.window import (
    Rows,
    inputs,
    list_runs,
    strip_copies,
    strip_elements,
    strips_call,
    windows,
)
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import broadcast, fma, load, load_n, store, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# (registers of the machine, multiply-adds that start in a cycle) -> (MR, NV)
TILES = {(16, 2): (6, 2), (32, 2): (14, 2), (32, 1): (14, 1)}
FEW = 4  # weights of a smaller tile, for those that are left over: as many chains as latency wants
POSITIONS = 256  # of a block, at the most: fewer would add up the sums in memory more often
FILTERS = 64  # of a job, at the least, where there are jobs enough
SUMS_BYTES = 1 << 17  # of a job, at the most, if there are more filters: a quarter of a small L2
JOBS = 8  # at the least, if there is work for so many
WORTH_A_PIECE = 512  # positions
TURNED, FLIPPED = 1, 2  # bits of the mode: written as (C, taps, O), and with taps turned round
STRIP_BYTES = 1 << 18  # of input: a quarter of L2


def tile() -> tuple[int, int]:
    """That of this machine."""
    return TILES[processor.registers(), processor.fma_per_cycle()]


@lru_cache
def micro_kernel(MR, NV, vec):
    """The inner loop around a tile of MR weights x NV vectors of filters."""
    LANES, NR = vec.lanes, NV * vec.lanes

    @kernel
    def outer_tile(x, line, dy, dy_line, sums, lines, rows, skipped, one):
        """sums[j][o] += sum over lines i, rows m of x[i*line + m*x.step + j] * dy[i*dy_line +
        m*dy.step + o] for skipped <= j < MR, o < NR; x, dy and sums are Rows, sums.a[one] is 1."""
        acc = registers(MR, NV, fill=zero(vec))
        d = registers(NV)
        for i in range(lines):
            x_i, d_i = x.at + i * line, dy.at + i * dy_line
            for m in range(rows):
                for v in static_range(NV):
                    d[v] = load(vec, dy.a, d_i + m * dy.step + v * LANES)
                for j in static_range(MR):
                    x_mj = broadcast(vec, x.a, x_i + m * x.step + j)
                    for v in static_range(NV):
                        acc[j, v] = fma(x_mj, d[v], acc[j, v])
        unit = broadcast(vec, sums.a, one)
        for j in static_range(MR):
            if j >= skipped:
                for v in static_range(NV):
                    at = sums.at + j * NR + v * LANES
                    store(fma(acc[j, v], unit, load(vec, sums.a, at)), sums.a, at)

    return outer_tile


@lru_cache
def products(vec):
    """add_products for numbers of the type of `vec`."""
    (MR, NV), FEW_ = tile(), FEW
    NR = NV * vec.lanes
    add_many, add_few = micro_kernel(MR, NV, vec), micro_kernel(FEW, NV, vec)
    add_one = micro_kernel(1, NV, vec)

    @kernel
    def add_products(x, line, runs, dy, dy_line, sums, block, filters):
        """sums[p][rows[r] + s][o] += sum over the positions of `block` of x[runs[r] + s] * dy[o],
        for each panel p of filters; sums.a[sums.at - 1] is 1."""
        one = sums.at - 1
        for o in range(0, filters, NR):  # third loop: panels
            d = Rows(dy.a, dy.at + o * block.lines * block.rows, NR)
            panel = sums.at + o // NR * sums.step
            for r in range(runs.count):  # second loop: contiguous pieces of the window
                first, to = x.at + runs.table[2 * r], panel + runs.table[2 * r + 1] * NR
                s = 0
                while s < runs.length:  # first loop: tiles, the last one overlapping
                    left = runs.length - s
                    if runs.length >= MR and (left + FEW_ - 1) // FEW_ * FEW_ >= MR:
                        c = min(s, runs.length - MR)
                        x_c, sum_c = Rows(x.a, first + c, x.step), Rows(sums.a, to + c * NR, NR)
                        add_many(x_c, line, d, dy_line, sum_c, block.lines, block.rows, s - c, one)
                        s = c + MR
                    elif runs.length >= FEW_:
                        c = min(s, runs.length - FEW_)
                        x_c, sum_c = Rows(x.a, first + c, x.step), Rows(sums.a, to + c * NR, NR)
                        add_few(x_c, line, d, dy_line, sum_c, block.lines, block.rows, s - c, one)
                        s = c + FEW_
                    else:
                        x_c, sum_c = Rows(x.a, first + s, x.step), Rows(sums.a, to + s * NR, NR)
                        add_one(x_c, line, d, dy_line, sum_c, block.lines, block.rows, 0, one)
                        s += 1

    return add_products


@lru_cache
def gradient_copies(NV, vec):
    """copy_gradients for cotangents of the type of `vec`."""
    LANES, NR = vec.lanes, NV * vec.lanes

    @kernel
    def copy_gradients(data, first, rows, filters, to, panel_size):
        """scratch[to + p*panel_size + m*NR + i] = dy[first + m*y_step[2] + p*NR + i], zero behind
        the last filter: they are read in order, from memory, and then from L1."""
        g, a = data.geometry[0], data.scratch
        for m in range(rows):
            source = first + m * g.y_step[2]
            for o in range(0, filters, NR):
                at = to + o // NR * panel_size + m * NR
                for v in static_range(NV):
                    i = o + v * LANES
                    if i + LANES <= filters:
                        store(load(vec, data.w, source + i), a, at + v * LANES)
                    else:
                        store(load_n(vec, data.w, source + i, filters - i), a, at + v * LANES)

    return copy_gradients


@lru_cache
def sum_writers(vec):
    """write_sums for numbers of the type of `vec`."""
    LANES, NR, TURNED_, FLIPPED_ = vec.lanes, tile()[1] * vec.lanes, TURNED, FLIPPED
    turn_whole, turn_edges, is_finite = squares(vec, True), squares(vec, False), finite(vec)

    @kernel
    def write_rows(g, sums, y, to, filters, columns):
        """y[to + (c*taps + tap)*O + o] = sums of filter o, channel c and tap, these perhaps from
        the last to the first."""
        taps = columns // g.C
        for o in range(0, filters, LANES):
            source = sums.at + o // NR * sums.step + o % NR
            for i in range(columns):
                tap, c = i // g.C, i % g.C
                tap = taps - 1 - tap if g.mode & FLIPPED_ else tap
                v = load(vec, sums.a, source + i * NR)
                store_n(v, y, to + (c * taps + tap) * g.O + o, filters - o)

    @kernel
    def write_sums(data, sums, unit, first, filters, columns):
        """The sums of filters from `first` on as they lie in the filters, of piece and group
        `unit`; whether none is a NaN or an infinity."""
        g, y, a = data.geometry[0], data.y, sums.a
        if g.mode & TURNED_:
            write_rows(g, sums, y, unit * g.O * columns + first, filters, columns)
        else:
            for o in range(0, filters, NR):
                n = min(NR, filters - o)
                whole, to = n // LANES * LANES, (unit * g.O + first + o) * columns
                for c in range(0, columns, LANES):
                    source = sums.at + o // NR * sums.step + c * NR
                    packed = whole if c + LANES <= columns else 0
                    turn_whole(a, source, NR, y, to + c, packed, columns, LANES)
                    rest, left = to + c + packed * columns, min(LANES, columns - c)
                    turn_edges(a, source + packed, NR, y, rest, n - packed, columns, left)
        return is_finite(a, sums.at, 1, 0, -(-filters // NR) * sums.step)

    return write_sums


@lru_cache
def range_kernel(elements, NV, vec, SETS, add, write_sums):
    """The kernel over blocks of filters, groups and pieces of the positions; there are SETS of sums
    for each weight."""
    open_window, input_of = windows(elements), inputs(elements)
    copy_gradients, clear = gradient_copies(NV, vec), clears(vec)

    @kernel
    def add_block(data, block, group, o, filters, sums):
        """Add what the positions of `block` make of the filters from `o` on."""
        g = data.geometry[0]
        w = open_window(data, block, group)
        runs = list_runs(data.runs, g, w)
        x, first = Rows(input_of(data, w), w.first, w.row), block.to + group * g.O + o
        if g.pitch == 0:
            dy = Rows(data.w, first, g.y_step[2])
            add(x, w.line, runs, dy, g.y_step[1], sums, block, filters)
        else:
            line = block.rows * g.pitch
            for j in range(block.lines):
                source, to = first + j * g.y_step[1], g.panels_at + j * line
                copy_gradients(data, source, block.rows, filters, to, block.lines * line)
            dy_copy = Rows(data.scratch, g.panels_at, g.pitch)
            add(x, w.line, runs, dy_copy, line, sums, block, filters)

    @kernel
    def outer(data, lo, hi):
        """dw of the jobs [lo, hi): pieces x groups x blocks of filters, these vary fastest."""
        g = data.geometry[0]
        columns = g.K[0] * g.K[1] * g.K[2] * g.C
        blocks = g.N * g.out[0] * g.line_blocks * g.blocks
        pieces = g.jobs[0] // (g.groups * g.panel_blocks)
        sums = Rows(data.scratch, g.block_at, columns * g.NR)
        data.scratch[sums.at - 1] = 1
        for job in range(lo, hi):
            part, rest = job % g.panel_blocks, job // g.panel_blocks
            group, piece = rest % g.groups, rest // g.groups
            p0, p1 = part * g.panels // g.panel_blocks, (part + 1) * g.panels // g.panel_blocks
            o, filters = p0 * g.NR, min(p1 * g.NR, g.O) - p0 * g.NR
            clear(data.scratch, sums.at, SETS * (p1 - p0) * sums.step)
            for b in range(piece * blocks // pieces, (piece + 1) * blocks // pieces):
                add_block(data, locate(g, b), group, o, filters, sums)
            if not write_sums(data, sums, piece * g.groups + group, o, filters, columns):
                data.counters[SUSPECT] = 1

    return outer


def refuses(p: "Problem") -> str:
    """Nothing: sums of any problem are outer products."""
    return ""


def schedule(p: "Problem", mode: int = 0) -> Schedule:
    """Sums over pieces of the positions, for an input that is not dilated; the result is an array
    (pieces, *weight_shape), `pieces` being the first number of the split, or (pieces, groups, C,
    *K, O) where they are TURNED."""
    elements = Elements(p.dtype, p.dtype)
    vec, g = vec_of(elements.dtype, processor.vector_bytes()), geometry_of(p)
    NR, itemsize = tile()[1] * vec.lanes, np.dtype(elements.dtype).itemsize
    filters, columns = p.O // p.groups, math.prod(p.K) * p.C // p.groups
    panels, most = -(-filters // NR), max(1, p.N * math.prod(p.output_L) // WORTH_A_PIECE)
    parts = -(-filters // max(FILTERS, SUMS_BYTES // (columns * itemsize)))
    if most * parts * p.groups < JOBS:
        parts = max(parts, min(-(-JOBS // (most * p.groups)), panels))
    g["NR"], g["panels"], g["panel_blocks"], g["pitch"] = NR, panels, parts, NR
    g["mode"] = mode
    of_job = -(-panels // parts) * NR
    positions = min(POSITIONS, max(POSITIONS // 4, STRIP_BYTES // (of_job * itemsize)))
    kernel = range_kernel(elements, tile()[1], vec, 1, products(vec), sum_writers(vec))
    pieces = min(most, -(-JOBS // (parts * p.groups)))
    work = Work(p.flop, pieces, positions, positions, of_job, of_job)
    return replace(over_blocks(p, g, kernel, work), tile="{}x{} {}".format(*tile(), vec.name))


class Work(NamedTuple):
    """How the sums are shared out."""

    flop: float  # estimated, of all
    pieces: int  # of the batch, at the most
    row: int  # positions of a line of a block, at the most
    positions: float  # of a block, at the most
    copied: int  # filters of a job whose cotangents are copied
    summed: int  # rows of sums of a job


def over_blocks(p: "Problem", g: np.ndarray, kernel: Any, work: Work) -> Schedule:
    """The schedule of a range kernel over pieces of the blocks of positions."""
    elements = Elements(p.dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    room = STRIP_BYTES // np.dtype(elements.dtype).itemsize
    taps, (_, H, W) = math.prod(p.K), g["out"][0].tolist()
    g["MR"], g["rows"], g["tiles"], g["blocks"] = 1, 1, W, -(-W // work.row)
    rows, lines = -(-W // int(g["blocks"][0])), H
    while lines > 1 and (lines * rows > work.positions or strip_elements(g, lines, rows) > room):
        lines = -(-lines // 2)
    g["line_blocks"] = -(-H // lines)
    blocks = int((g["N"] * g["out"][0, 0] * g["line_blocks"] * g["blocks"])[0])
    pieces = max(1, min(work.pieces, blocks))
    g["panels_at"] = at = -(-strip_elements(g, lines, rows) // vec.lanes) * vec.lanes
    g["block_at"] = at = at + lines * rows * work.copied + vec.lanes
    jobs = pieces * int((g["groups"] * g["panel_blocks"])[0])
    return Schedule(
        elements,
        g,
        steps=(Step(kernel, jobs, work.flop),),
        parts=(Part("strips", strip_copies(elements, vec), strips_call(elements)),),
        scratch=at + work.summed * taps * int(g["C"][0]) + vec.lanes,
        runs=2 * taps + KEPT,
        split=(("pieces", pieces), ("parts of the filters", jobs // pieces)),
        suspects=meets_padding(p),
    )
