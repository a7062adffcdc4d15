"""Filters -> panels: NR filters side by side, in the order in which runs meet the window.

    w       (O, taps, C)             filter o, tap t, channel c
    panel   [taps * C][NR]           one row per weight of a filter, one column per filter

so that the micro-kernel reads a panel from front to back.  Columns past the last filter are zero.
Beside each panel a flag says whether its weights are finite: only then may padding be multiplied
as a zero.
"""

from mlxconv.simd.static import kernel

ROWS = 128  # rows packed at a time: 128 x 16 floats are a quarter of a 32 KB L1


@kernel
def pack_panels(data, lo, hi):
    """panels[g, p, s, j] = w[g*O + p*NR + j, s], s over taps and channels, for panels [lo, hi)
    counted over all groups."""
    g = data.geometry[0]
    S, NR = g.K[0] * g.K[1] * g.K[2] * g.C, g.NR
    w, panels = data.w, data.panels
    for unit in range(lo, hi):
        group, p = unit // g.panels, unit % g.panels
        filters = min(NR, g.O - p * NR)
        source, to = (group * g.O + p * NR) * S, unit * S * NR
        infinite = 0
        for s0 in range(0, S, ROWS):
            s1 = min(s0 + ROWS, S)
            for j in range(filters):
                for s in range(s0, s1):
                    weight = w[source + j * S + s]
                    infinite += weight - weight != 0  # of NaN and infinities that is NaN
                    panels[to + s * NR + j] = weight
            for j in range(filters, NR):
                for s in range(s0, s1):
                    panels[to + s * NR + j] = 0
        data.finite[unit] = infinite == 0
