"""Depthwise gradients by the filters: sums over lines of positions, vectors over channels.

Computes    dw[o, k] = sum over n, l of dy[n, l, o] * x[n, l*stride - padding + k*dilation,
            o // multiplier], with one to three spatial axes.
Layout      the input is read as the convolution reads it, in place or from strips of a few lines;
            where taps are as far apart as positions, a row of x that is loaded once meets ROWS rows
            of dy in registers, as it belongs to other taps of theirs

                x row l+j  meets  tap 0 of position l+j, tap 1 of l+j-1, tap 2 of l+j-2, ...

Registers   SETS x TAPS sums + ROWS rows of dy + 1 row of x: 11 of 16.
Order       SETS chains of multiply-adds for every weight, over its positions in order within a
            piece of the batch; chains are added, then pieces in their order, and how many there are
            depends on the problem alone.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mlxconv import processor
from mlxconv.kernels.blocking import in_parts
from mlxconv.kernels.copies import clears
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import SUSPECT, across_groups, geometry_of, locate
from mlxconv.kernels.outer import gradient_copies
from mlxconv.kernels.schedule import Part, Schedule, Step, meets_padding
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
from mlxconv.simd.words import fma, load, store

if TYPE_CHECKING:
    from mlxconv.problem import Problem

TAPS, SETS, ROWS = 3, 2, 4  # six chains hide most of the latency; 10 loads feed 12 FMA
STRIP_BYTES = 1 << 17  # a quarter of L2
POSITIONS = 256  # of a block, at the most
CHANNELS = 64  # of a part, at the least
JOBS = 16  # at the least, if there is work for so many
JOB_FLOP = 1e5  # of a piece, at the least: to add it up afterwards costs as well


@lru_cache
def tiles(vec):
    """The loops around a tile of TAPS taps of one vector of channels."""
    LANES, TAPS_, SETS_, ROWS_ = vec.lanes, TAPS, SETS, ROWS

    @kernel
    def add_line(x, runs, dy, sums, positions, filters, overlaps):
        """sums[set][p][t] += sum over m of dy[m][o] * x[m][runs[r] + s*step + o], for each vector p
        of channels from o on and each tap t = rows[r] + s; x, dy and sums are Rows."""
        acc = registers(SETS_, TAPS_)
        d = registers(ROWS_)
        blocked = runs.length // TAPS_ * TAPS_ if runs.step == x.step else 0
        whole, apart = positions // ROWS_ * ROWS_, -(-filters // LANES) * sums.step
        for p in range(0, filters, LANES):  # third loop: channels, the last ones overlapping
            o = min(p, filters - LANES) if overlaps else p
            for r in range(runs.count):  # second loop: lines of taps
                x_r = x.at + runs.table[2 * r] + o
                to = sums.at + p // LANES * sums.step + runs.table[2 * r + 1] * LANES
                for s in range(0, blocked, TAPS_):
                    for i in static_range(SETS_):
                        for t in static_range(TAPS_):
                            acc[i, t] = load(vec, sums.a, to + (s + t) * LANES + i * apart)
                    for m in range(0, whole, ROWS_):  # first loop: positions
                        for i in static_range(ROWS_):
                            d[i] = load(vec, dy.a, dy.at + (m + i) * dy.step + o)
                        for j in static_range(ROWS_ + TAPS_ - 1):
                            x_j = load(vec, x.a, x_r + (m + s + j) * x.step)
                            for t in static_range(TAPS_):
                                for i in static_range(ROWS_):
                                    if i == j - t:
                                        acc[i % SETS_, t] = fma(d[i], x_j, acc[i % SETS_, t])
                    for m in range(whole, positions):
                        d_m = load(vec, dy.a, dy.at + m * dy.step + o)
                        for t in static_range(TAPS_):
                            x_t = load(vec, x.a, x_r + (m + s + t) * x.step)
                            acc[0, t] = fma(d_m, x_t, acc[0, t])
                    for i in static_range(SETS_):
                        for t in static_range(TAPS_):
                            store(acc[i, t], sums.a, to + (s + t) * LANES + i * apart)
                for s in range(blocked, runs.length):
                    for i in static_range(SETS_):
                        acc[i, 0] = load(vec, sums.a, to + s * LANES + i * apart)
                    for m in range(0, positions - SETS_ + 1, SETS_):
                        for i in static_range(SETS_):
                            d[i] = load(vec, dy.a, dy.at + (m + i) * dy.step + o)
                            x_i = load(vec, x.a, x_r + (m + i) * x.step + s * runs.step)
                            acc[i, 0] = fma(d[i], x_i, acc[i, 0])
                    for m in range(positions // SETS_ * SETS_, positions):
                        d_m = load(vec, dy.a, dy.at + m * dy.step + o)
                        x_m = load(vec, x.a, x_r + m * x.step + s * runs.step)
                        acc[0, 0] = fma(d_m, x_m, acc[0, 0])
                    for i in static_range(SETS_):
                        store(acc[i, 0], sums.a, to + s * LANES + i * apart)

    return add_line


@lru_cache
def range_kernel(elements, vec):
    """The kernel over pieces of the positions and parts of the channels."""
    LANES, SETS_ = vec.lanes, SETS
    open_window, input_of, add_line = windows(elements), inputs(elements), tiles(vec)
    copy_gradients, clear = gradient_copies(vec), clears(vec)

    @kernel
    def add_block(data, block, part, sums):
        """Add what the positions of `block` make of the channels of a part."""
        g = data.geometry[0]
        w = open_window(data, block, part)
        runs = list_runs(data.runs, g, w)
        for j in range(block.lines):
            x = Rows(input_of(data, w), w.first + j * w.line, w.row)
            first = block.to + j * g.y_step[1] + part * g.O
            if g.O % LANES == 0 or g.overlaps:
                dy = Rows(data.w, first, g.y_step[2])
                add_line(x, runs, dy, sums, block.rows, g.O, g.overlaps)
            else:
                width = g.panels * LANES
                copy_gradients(data, first, block.rows, g.O, g.panels_at, width)
                dy_copy = Rows(data.scratch, g.panels_at, width)
                add_line(x, runs, dy_copy, sums, block.rows, g.O, g.overlaps)

    @kernel
    def write_sums(data, sums, part, piece, taps):
        """The sums of one job as they lie in the filters; whether there is a NaN among them."""
        g, a, suspect = data.geometry[0], data.scratch, 0
        apart, to = g.panels * sums.step, (piece * g.groups + part) * g.O * taps
        for p in range(g.panels):
            o = min(p * LANES, g.O - LANES) if g.overlaps else p * LANES
            for i in range(min(LANES, g.O - o)):
                for t in range(taps):
                    at = sums.at + p * sums.step + t * LANES + i
                    total = a[at]
                    for s in range(1, SETS_):
                        total += a[at + s * apart]
                    data.y[to + (o + i) * taps + t] = total
                    suspect += total != total
        return suspect

    @kernel
    def outer_depthwise(data, lo, hi):
        """dw of the jobs [lo, hi): pieces x parts of the channels, these vary fastest."""
        g = data.geometry[0]
        taps = g.K[0] * g.K[1] * g.K[2]
        blocks, pieces = g.N * g.out[0] * g.line_blocks * g.blocks, g.jobs[0] // g.groups
        sums = Rows(data.scratch, g.block_at, taps * LANES)
        for job in range(lo, hi):
            part, piece = job % g.groups, job // g.groups
            clear(data.scratch, sums.at, SETS_ * g.panels * sums.step)
            for b in range(piece * blocks // pieces, (piece + 1) * blocks // pieces):
                add_block(data, locate(g, b), part, sums)
            if write_sums(data, sums, part, piece, taps):
                data.counters[SUSPECT] = 1

    return outer_depthwise


def schedule(p: "Problem") -> Schedule:
    """Sums over pieces of the positions, as those of `outer`."""
    elements = Elements(p.dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    g = across_groups(geometry_of(p), vec.lanes, p.O // p.groups)
    itemsize = np.dtype(elements.dtype).itemsize
    filters, (_, H, W) = int(g["O"][0]), g["out"][0].tolist()
    g["MR"], g["NR"], g["panels"] = 1, vec.lanes, -(-filters // vec.lanes)
    g["tiles"], g["blocks"], g["panel_blocks"] = W, -(-W // POSITIONS), 1
    if g["stays"][0] and filters % vec.lanes == 0:
        most = max(1, min(JOBS, filters // CHANNELS))
        in_parts(g, max(n for n in range(1, most + 1) if filters % (n * vec.lanes) == 0))
    g["group_blocks"], parts = 1, int(g["groups"][0])
    rows, lines = -(-W // int(g["blocks"][0])), H
    while lines > 1 and strip_elements(g, lines, rows) * itemsize > STRIP_BYTES:
        lines = -(-lines // 2)
    g["line_blocks"] = -(-H // lines)
    blocks = int((g["N"] * g["out"][0, 0] * g["line_blocks"] * g["blocks"])[0])
    pieces = max(1, min(blocks, -(-JOBS // parts), int(p.flop / parts / JOB_FLOP)))
    taps, panels = math.prod(p.K), int(g["panels"][0])
    g["block_at"] = at = -(-strip_elements(g, lines, rows) // vec.lanes) * vec.lanes
    g["panels_at"] = at = at + SETS * panels * taps * vec.lanes
    copies = 0 if g["overlaps"][0] or int(g["O"][0]) % vec.lanes == 0 else rows * panels * vec.lanes
    return Schedule(
        elements,
        g,
        steps=(Step(range_kernel(elements, vec), pieces * parts, 2 * p.flop),),
        parts=(Part("strips", strip_copies(elements, vec), strips_call(elements)),),
        scratch=at + copies,
        runs=2 * taps + 2,
        split=(("pieces", pieces), ("parts of the channels", parts)),
        suspects=meets_padding(p),
    )
