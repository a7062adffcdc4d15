"""Filters -> panels: NR filters side by side, in the order in which runs meet the window.

    w       (O, taps, C)             filter o, tap t, channel c, wherever taps lie
    panel   [taps * C][NR]           one row per weight of a filter, one column per filter

so that the micro-kernel reads a panel from front to back.  Columns past the last filter are zero.
Squares of LANES filters x LANES weights are transposed in registers.

With *phases* a panel holds each filter several times, every time shifted down by one stride, so
that one row of a tile computes several neighbouring positions of few filters (banks of filters
may also lie apart, and a panel holds them side by side):

    phase 0   w0 w1 w2 0  0           y[l]       meets x rows 0 1 2
    phase 1   0  w0 w1 w2 0           y[l + 1]   meets x rows 1 2 3       (stride 1)
    phase 2   0  0  w0 w1 w2          y[l + 2]   ...
"""

from functools import lru_cache

from mlxconv.kernels.copies import clears
from mlxconv.kernels.geometry import FILTERS, SUSPECT, pack_call
from mlxconv.simd.shuffles import PART_BYTES, even_parts, odd_parts, sum_lanes, zip_high, zip_low
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import fma, load, load_n, store, store_n, zero

CHAINS = 4  # of multiply-adds: as many as their latency has cycles
PIECE = 128  # weights of all columns, whose rows of the panel stay in L1
FEW = 1  # filters: a square takes as long as 25 of its weights, one by one


@lru_cache
def finite(vec):
    """is_finite for numbers of the type of `vec`."""
    LANES, CHAINS_ = vec.lanes, CHAINS

    @kernel
    def is_finite(a, first, rows, step, size):
        """Whether none of the `size` numbers of each of these rows, `step` apart, is an infinity or
        NaN: only those times zero are not zero."""
        if step == size:  # rows without gaps
            rows, size = 1, rows * size
        acc = registers(CHAINS_, fill=zero(vec))
        several = size - size % (CHAINS_ * LANES)
        for m in range(rows):
            at = first + m * step
            for i in range(at, at + several, CHAINS_ * LANES):
                for j in static_range(CHAINS_):
                    acc[j] = fma(load(vec, a, i + j * LANES), zero(vec), acc[j])
            for j in static_range(CHAINS_):
                left = size - several - j * LANES
                if left > 0:
                    acc[j] = fma(load_n(vec, a, at + several + j * LANES, left), zero(vec), acc[j])
        for j in static_range(CHAINS_ - 1):
            acc[0] = fma(acc[j + 1], zero(vec), acc[0])
        return sum_lanes(acc[0]) == 0

    return is_finite


@lru_cache
def squares(vec, WHOLE):
    """pack_squares for weights of the type of `vec`: WHOLE squares, or any."""
    LANES, PART = vec.lanes, PART_BYTES // vec.dtype.itemsize
    INSIDE, ACROSS = PART.bit_length() - 1, (LANES // PART).bit_length() - 1

    @kernel
    def pack_squares(w, source, step, panels, to, S, NR, n):
        """panels[to + s*NR + i] = w[source + i*step + s] for s < S and i < n; WHOLE squares have
        LANES of s, and write as many columns.  They are transposed inside parts of registers, then
        across them.  What is missing is read from the last filter: to read nothing of a page that
        is not there takes hundreds of cycles, and behind w there may be none."""
        r = registers(LANES)
        t = registers(LANES)
        for s in range(0, S, LANES):
            for i in static_range(LANES):
                at = source + min(i, n - 1) * step + s
                if WHOLE:
                    r[i] = load(vec, w, at)
                else:
                    r[i] = load_n(vec, w, at, S - s)
            for k in static_range(INSIDE):  # registers 2, then 1 apart
                for i in static_range(LANES):
                    if i // (PART >> (k + 1)) % 2 == 0:
                        t[i] = zip_low(r[i], r[i + (PART >> (k + 1))])
                        t[i + (PART >> (k + 1))] = zip_high(r[i], r[i + (PART >> (k + 1))])
                for i in static_range(LANES):
                    r[i] = t[i]
            for k in static_range(ACROSS):  # 4, then 8 apart
                for i in static_range(LANES):
                    if i // (PART << k) % 2 == 0:
                        t[i] = even_parts(r[i], r[i + (PART << k)])
                        t[i + (PART << k)] = odd_parts(r[i], r[i + (PART << k)])
                for i in static_range(LANES):
                    r[i] = t[i]
            for i in static_range(LANES):
                if WHOLE:
                    store(r[i], panels, to + (s + i) * NR)
                elif i < S - s:
                    store_n(r[i], panels, to + (s + i) * NR, n)

    return pack_squares


@lru_cache
def packers(elements, vec):
    """pack_panel for weights of the output's type."""
    LANES, FEW_, PIECE_, FILTERS_ = vec.lanes, FEW, PIECE, FILTERS
    widen = elements.widen_output
    is_finite, clear = finite(vec), clears(vec)
    pack_whole, pack_edges = squares(vec, True), squares(vec, False)

    @kernel
    def pack_rows(w, source, step, panels, to, S, NR, n):
        """panels[to + s*NR + j] = w[source + s*step + j], j < n: filters that are neighbours."""
        for s in range(S):
            for j in range(0, n, LANES):
                v = load_n(vec, w, source + s * step + j, n - j)
                store_n(v, panels, to + s * NR + j, n - j)

    @kernel
    def pack_piece(g, w, source, first, filters, S, panels, to, step):
        """panels[to + s*step + j] = w[source + filter first + j, s*w_channel], s < S: vectors of
        filters, each of one bank."""
        v, O, NR = 0, g.O // g.banks, abs(step)
        while v < filters:
            bank, o = (first + v) // O, (first + v) % O
            n, packed = min(LANES, filters - v, O - o), 0
            at, row = source + bank * g.w_bank + o * g.w_filter, to + bank * g.bank_rows * NR + v
            if g.w_channel != 1 or n <= FEW_ or n * S < LANES:
                for j in range(n):
                    for s in range(S):
                        weight = w[at + j * g.w_filter + s * g.w_channel]
                        panels[row + s * step + j] = widen(weight)
            else:
                if n == LANES or v + n == filters <= NR - LANES + n:
                    packed = S // LANES * LANES  # columns past the last filter are idle
                    pack_whole(w, at, g.w_filter, panels, row, packed, step, n)
                if packed < S:
                    at, row = at + packed, row + packed * step
                    pack_edges(w, at, g.w_filter, panels, row, S - packed, step, n)
            v += n

    @kernel
    def pack_run(data, unit, source, lo, hi, panels, to, NR, filters):
        """panels[to + s*NR + j] = w[source + filter of column j + (lo + s)*w_channel], for elements
        [lo, hi) of a run."""
        g, w, O = data.geometry[0], data.w, data.geometry[0].O // data.geometry[0].banks
        group, first = unit // g.panels, unit % g.panels * g.NR
        first = min(first, g.O - g.NR) if g.overlaps else first
        source += group * (g.w_group if g.w_group else O * g.w_filter)
        source += 1 - hi if g.w_turned else lo * g.w_channel
        size = hi - lo
        if NR == 1 and g.w_channel == 1 and not g.w_turned:
            source += first // O * g.w_bank + first % O * g.w_filter
            pack_rows(w, source, 0, panels, to, 1, size, size)
            return
        if g.w_filter == 1 and g.banks == 1 and (g.w_channel != 1 or g.w_run == 1):
            pack_rows(w, source + first, g.w_channel, panels, to, size, NR, filters)
            return
        row, step = to + ((size - 1) * NR if g.w_turned else 0), -NR if g.w_turned else NR
        for s in range(0, size, PIECE_):
            S, at = min(PIECE_, size - s), source + s * g.w_channel
            pack_piece(g, w, at, first, filters, S, panels, row + s * step, step)

    @kernel
    def pack_panel(data, unit, lo, hi, panels, to):
        """panels[to + row*NR + j] = w[filter of column j, lo + row - first row of its bank], for
        rows [lo, hi) of panel `unit`, counted over all groups.  Those that are not finite make the
        call suspect if it `checks` filters: a zero of the padding that meets one is a NaN that must
        not be."""
        g = data.geometry[0]
        lines, line, taps = g.K[0] * g.K[1], g.K[2] * g.C, g.weights // g.C
        first = min(unit % g.panels * g.NR, g.O - g.NR) if g.overlaps else unit % g.panels * g.NR
        filters = min(g.NR, g.O - first)
        NR = g.narrow_NR if g.narrow_NR and filters < g.NR else g.NR
        if filters < NR or g.bank_rows > 0:
            clear(panels, to, (hi - lo) * NR)
        for tap in range(0, lines * taps, g.w_run // g.C):  # taps that lie without gaps are one run
            i, k = tap // taps, tap % taps
            source = i // g.K[1] * g.w_step[0] + i % g.K[1] * g.w_step[1] + k * g.w_step[2]
            row = i * line + k * g.C
            start, end = max(0, lo - row), min(g.w_run, hi - row)
            if start < end:
                at = to + (row + start - lo) * NR
                pack_run(data, unit, g.w_offset + source, start, end, panels, at, NR, filters)
        if g.checks == FILTERS_ and not is_finite(panels, to, 1, 0, (hi - lo) * NR):
            data.counters[SUSPECT] = 1

    return pack_panel


@lru_cache
def packs(elements):
    """The range kernel over panels, for weights of the output's type."""
    call_pack = pack_call(elements)

    @kernel
    def pack_panels(data, lo, hi):
        """Panels [lo, hi), one behind the other, in the memory that all workers share."""
        g = data.geometry[0]
        rows = g.K[0] * g.K[1] * g.K[2] * g.C
        for unit in range(lo, hi):
            call_pack(g.pack, data, unit, 0, rows, data.panels, unit * rows * g.NR)

    return pack_panels
