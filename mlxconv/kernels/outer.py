"""Gradients by the filters: sums over positions of outer products.

Computes    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - padding + k*dilation, c],
            per group, with one to three spatial axes.
Layout      POSITIONS windows and as many rows of dy are copied one below the other; a tile of sums
            reads a column of either, and neither is transposed

                dy   [o o o o o o ...]        window  [taps x channels .................]
                     [o o o o o o ...]                [.................................]
                      '---------' MR filters           '------' NV vectors of weights

Registers   MR*NV sums + NV of a window + 1 broadcast, as in direct.py.
Order       positions one after the other in a piece of the batch; pieces are added in their order,
            and how many there are depends on the problem alone.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mlxconv import processor
from mlxconv.kernels.copies import clears
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import SUSPECT, geometry_of
from mlxconv.kernels.packing import finite
from mlxconv.kernels.reference import row_met
from mlxconv.kernels.schedule import Schedule, Step, meets_padding
from mlxconv.kernels.window import gathers
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import broadcast, fma, load, load_n, store, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# (registers of the machine, multiply-adds that start in a cycle) -> (MR, NV)
TILES = {(16, 2): (6, 2), (32, 2): (14, 2), (32, 1): (8, 2)}
POSITIONS = 128  # copied at a time: fewer would add up the sums in memory more often
FILTERS = 128  # of a job, at the most: a copied window is used for so many
JOBS = 8  # at the least, if there is work for so many
WORTH_A_PIECE = 4  # times POSITIONS


def tile() -> tuple[int, int]:
    """That of this machine."""
    return TILES[processor.registers(), processor.fma_per_cycle()]


@lru_cache
def tiles(MR, NV, vec):
    """The loops around a tile of MR filters x NV vectors of their weights."""
    LANES, NR = vec.lanes, NV * vec.lanes

    @kernel
    def outer_tiles(a, dy, dy_step, x_step, sums, filters, columns, rows):
        """a[sums + i*x_step + c] += sum of a[dy + m*dy_step + i] * a[m*x_step + c], m < rows."""
        one = broadcast(vec, a, sums - 1)
        for c in range(0, columns, NR):
            for i in range(0, filters, MR):
                acc = registers(MR, NV, fill=zero(vec))
                w = registers(NV)
                for m in range(rows):
                    for v in static_range(NV):
                        w[v] = load(vec, a, m * x_step + c + v * LANES)
                    for j in static_range(MR):
                        d = broadcast(vec, a, dy + m * dy_step + i + j)
                        for v in static_range(NV):
                            acc[j, v] = fma(d, w[v], acc[j, v])
                for j in static_range(MR):
                    for v in static_range(NV):
                        at = sums + (i + j) * x_step + c + v * LANES
                        store(fma(acc[j, v], one, load(vec, a, at)), a, at)

    return outer_tiles


@lru_cache
def gradient_copies(vec):
    """copy_gradients for cotangents of the type of `vec`."""
    LANES = vec.lanes

    @kernel
    def copy_gradients(data, first, rows, filters, to, step):
        """scratch[to + m*step + i] = dy[first + m*y_step[2] + i], zero from i = filters on."""
        for m in range(rows):
            source = first + m * data.geometry[0].y_step[2]
            for i in range(0, step, LANES):
                v = load_n(vec, data.w, source + i, filters - i)
                store(v, data.scratch, to + m * step + i)

    return copy_gradients


@lru_cache
def range_kernel(elements, vec):
    """The kernel over blocks of filters, groups and pieces of the positions."""
    MR, NV = tile()
    LANES, gather, copy_gradients = vec.lanes, gathers(elements, vec), gradient_copies(vec)
    add_products, clear, is_finite = tiles(MR, NV, vec), clears(vec), finite(vec)

    @kernel
    def write_sums(data, sums, step, to, filters, columns):
        """The sums of one job as they lie in the filters; whether none is a NaN or an infinity."""
        y, scratch = data.y, data.scratch
        for i in range(filters):
            for c in range(0, columns, LANES):
                v = load(vec, scratch, sums + i * step + c)
                store_n(v, y, to + i * columns + c, columns - c)
        return is_finite(y, to, filters * columns)

    @kernel
    def outer(data, lo, hi):
        """dw of the jobs [lo, hi): pieces x groups x blocks of filters, these vary fastest."""
        g, scratch = data.geometry[0], data.scratch
        positions, taps = g.N * g.out[0] * g.out[1] * g.out[2], g.K[0] * g.K[1] * g.K[2]
        columns, size = taps * g.C, g.block_at
        dy, sums = g.tiles * size, g.tiles * size + g.tiles * g.NR + LANES
        for job in range(lo, hi):
            b, rest = job % g.panel_blocks, job // g.panel_blocks
            group, piece = rest % g.groups, rest // g.groups
            o0, o1 = b * g.O // g.panel_blocks, (b + 1) * g.O // g.panel_blocks
            width = -(-(o1 - o0) // MR) * MR
            scratch[sums - 1] = 1
            clear(scratch, sums, width * size)
            l1 = (piece + 1) * positions // g.blocks
            for l in range(piece * positions // g.blocks, l1, g.tiles):
                rows = min(g.tiles, l1 - l)
                gather(data, group, l, l + rows, size)
                first = l * g.y_step[2] + group * g.O + o0
                copy_gradients(data, first, rows, o1 - o0, dy, g.NR)
                add_products(scratch, dy, g.NR, size, sums, width, columns, rows)
            to = (piece * g.groups * g.O + group * g.O + o0) * columns
            if not write_sums(data, sums, size, to, o1 - o0, columns):
                data.counters[SUSPECT] = 1

    return outer


@lru_cache
def mending_kernel(elements):
    """The kernel over filters that computes NaN anew, from what lies inside the input alone."""
    Sum = np.dtype(elements.dtype).type

    @kernel(fastmath={"contract"})
    def one_sum(data, g, o, kd, kh, k, c):
        """Of dw[o, k, c]."""
        total, position = Sum(0), 0
        for n in range(g.N):
            for d in range(g.out[0]):
                rd = row_met(d, kd, g, 0)
                for h in range(g.out[1]):
                    rh = row_met(h, kh, g, 1)
                    for l in range(g.out[2]):
                        r = row_met(l, k, g, 2)
                        if rd >= 0 and rh >= 0 and r >= 0:
                            row = rd * g.x_step[0] + rh * g.x_step[1] + r * g.x_step[2]
                            x = data.x[n * g.x_image + row + o // g.O * g.C + c]
                            total += x * data.w[position * g.y_step[2] + o]
                        position += 1
        return total

    @kernel
    def mend(data, lo, hi):
        g = data.geometry[0]
        columns = g.K[0] * g.K[1] * g.K[2] * g.C
        for o in range(lo, hi):
            for i in range(columns):
                at = o * columns + i
                if data.y[at] != data.y[at]:
                    c, tap = i % g.C, i // g.C
                    k, rest = tap % g.K[2], tap // g.K[2]
                    data.y[at] = one_sum(data, g, o, rest // g.K[1], rest % g.K[1], k, c)

    return mend


def schedule(p: "Problem") -> Schedule:
    """Sums over pieces of the positions, for an input that is not dilated; the result is an array
    (pieces, *weight_shape), `pieces` being the first number of the split."""
    elements = Elements(p.dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    (MR, NV), lanes = tile(), vec.lanes
    g, taps, filters = geometry_of(p), math.prod(p.K), p.O // p.groups
    positions = p.N * math.prod(p.output_L)
    most = max(1, positions // (WORTH_A_PIECE * POSITIONS))
    size = _odd_lines(-(-taps * int(g["C"][0]) // (NV * lanes)) * NV * lanes, lanes)
    blocks = -(-filters // FILTERS)
    if most * blocks * p.groups < JOBS:
        blocks = max(blocks, min(-(-JOBS // (most * p.groups)), filters // (4 * MR)))
    rows = -(-filters // blocks)
    rows += -rows % MR
    step, sums = _odd_lines(rows + -rows % lanes, lanes), rows * size
    pieces = min(most, -(-JOBS // (blocks * p.groups)))
    g["MR"], g["NR"], g["block_at"], g["tiles"] = 0, step, size, min(POSITIONS, positions)
    g["panel_blocks"], g["blocks"] = blocks, pieces
    jobs = pieces * blocks * p.groups
    scratch = int(g["tiles"][0]) * (size + step) + lanes + sums
    split = (("pieces", pieces), ("blocks of filters", blocks))
    steps, suspects = (Step(range_kernel(elements, vec), jobs, p.flop),), meets_padding(p)
    return Schedule(elements, g, steps, scratch=scratch, split=split, suspects=suspects)


def _odd_lines(elements: int, lanes: int) -> int:
    """The pitch of rows of whole vectors that are not a power of two apart: else the lines of a
    column would share a few sets of the cache."""
    lines = -(-elements // (2 * lanes))
    return (lines + 1 - lines % 2) * 2 * lanes


def mending(p: "Problem") -> Schedule:
    """What computes anew every NaN that a zero around the input, or between its elements, may have
    made of an infinite gradient."""
    elements = Elements(p.dtype, p.dtype)
    return Schedule(elements, geometry_of(p), (Step(mending_kernel(elements), p.O, 8 * p.flop),))
