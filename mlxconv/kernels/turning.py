"""Blocks of the input turned to channels-first: a row for each channel, zeros outside the input.

    x   a0 b0 c0        turned   a0 a1 a2 a3 ...
        a1 b1 c1                 b0 b1 b2 b3 ...
        a2 b2 c2 ...             c0 c1 c2 c3 ...

Neighbouring positions meet a tap in rows of x that are `stride` apart: these are neighbours in a
turned row.  Taps whose distance is a multiple of the stride meet the same rows, one or several
positions further on, and are of one *class*; each class has turned rows of its own.  Where taps are
further apart than a block is long, each has a piece of its own in the rows of its class.
"""

from functools import lru_cache

from mlxconv.kernels.copies import clears
from mlxconv.kernels.packing import squares
from mlxconv.kernels.window import row_of
from mlxconv.simd.static import kernel


@lru_cache
def transposes(vec):
    """transpose for numbers of the type of `vec`."""
    LANES = vec.lanes
    whole, edges = squares(vec, True), squares(vec, False)

    @kernel
    def transpose(a, at, step, rows, columns, b, to, pitch):
        """b[to + j*pitch + i] = a[at + i*step + j] for i < rows, j < columns: by squares, the last
        ones overlapping those before, as far as there is room for any."""
        for row in range(0, rows, LANES):
            i = min(row, max(0, rows - LANES))
            if min(rows, columns) >= LANES:
                many = columns // LANES * LANES
                whole(a, at + i * step, step, b, to + i, many, pitch, LANES)
                if many < columns:
                    j = columns - LANES
                    whole(a, at + i * step + j, step, b, to + i + j * pitch, LANES, pitch, LANES)
            else:
                edges(a, at + i * step, step, b, to + i, columns, pitch, min(LANES, rows - i))

    return transpose


@lru_cache
def turns(elements, vec):
    """turn for inputs of this type."""
    transpose, clear, widen = transposes(vec), clears(vec), elements.widen
    BY_VECTORS = int(not elements.one_by_one)

    @kernel
    def turn_rows(g, x, source, rows, channels, scratch, to):
        """scratch[to + c*pitch + i] = x[source + i*stride*x_step + c*x_channel], i < rows."""
        step = g.stride[2] * g.x_step[2]
        if BY_VECTORS and g.x_channel == 1:
            transpose(x, source, step, rows, channels, scratch, to, g.pitch)
        else:
            for c in range(channels):
                for i in range(rows):
                    value = x[source + i * step + c * g.x_channel]
                    scratch[to + c * g.pitch + i] = widen(value)

    @kernel
    def turn(data, block, d, h):
        """Fill scratch with what `block` reads along D, H and W, zeros where that is outside: for
        each line of the input the channels of each class of taps, `pitch` apart."""
        g = data.geometry[0]
        channels, step = (block.g1 - block.g0) * g.C, min(g.class_step, block.rows)
        taps = -(-g.K[2] // g.classes)
        pieces, size = (1, block.rows + (taps - 1) * step) if step < block.rows else (taps, step)
        to = 0
        for line in range(d.rows * h.rows):
            rd, rh = row_of(g, 0, d, line // h.rows), row_of(g, 1, h, line % h.rows)
            source = g.x_offset + block.n * g.x_image + block.g0 * g.group_channels * g.x_channel
            source += rd * g.x_step[0] + rh * g.x_step[1]
            L = g.L[2] if min(rd, rh) >= 0 else 0
            for k in range(g.classes):
                for i in range(pieces):
                    first = block.first + (k + i * g.classes) * g.dilation[2]
                    lo = min(size, max(0, -(first // g.stride[2])))
                    hi = max(lo, min(size, (L - 1 - first) // g.stride[2] + 1))
                    at = to + i * step
                    if hi - lo < size:
                        for c in range(channels):
                            clear(data.scratch, at + c * g.pitch, lo)
                            clear(data.scratch, at + c * g.pitch + hi, size - hi)
                    begin = source + (first + lo * g.stride[2]) * g.x_step[2]
                    turn_rows(g, data.x, begin, hi - lo, channels, data.scratch, at + lo)
                to += channels * g.pitch

    return turn
