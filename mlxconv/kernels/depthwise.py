"""Depthwise convolution: one input channel per group, vectors over channels.

Computes    y[n, l, o] = sum over taps k of x[n, l*stride - padding + k*dilation, o // multiplier]
            * w[o, k], with one to three spatial axes.
For         problems with one input channel per group and few filters on each; there is no sum
            over channels, so K taps of a vector of channels are all a position needs.
Layout      a tile reads MR windows of NR neighbouring channels, and a panel of NR filters

                x  [c c c ... c]  row l         panel  [w w w ... w]  tap 0     <- NR channels
                   [c c c ... c]  row l+1              [w w w ... w]  tap 1

Registers   MR*NV accumulators + NV of a panel row; inputs are operands of the multiply-adds.
Order       every output is one chain of multiply-adds over taps in order.
Bound       memory for few taps: at K = 4 a position moves 8 bytes per channel for 8 FLOP.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.schedule import Schedule, schedule_of
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import fma, load, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# registers of the machine -> (MR, NV)
TILES = {
    16: (6, 2),  # 12 + 2 of 16; 14 loads feed 12 FMA, which is what two load ports can give
    32: (12, 2),  # 24 + 2 of 32; 26 loads feed 24 FMA
}


@lru_cache
def micro_kernel(MR, NV, vec):
    """The register tile of MR positions x NV vectors of channels."""
    LANES = vec.lanes

    @kernel
    def depthwise_tile(x, runs, panel, y, filters):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s + o] * panel[rows[r] + s][o],
        for m < MR and o < filters; x, panel and y are Rows."""
        acc = registers(MR, NV, fill=zero(vec))
        w = registers(NV)
        for r in range(runs.count):
            x_r = x.at + runs.table[2 * r]
            w_r = panel.at + runs.table[2 * r + 1] * panel.step
            for s in range(runs.length):  # one tap
                for v in static_range(NV):
                    w[v] = load(vec, panel.a, w_r + s * NV * LANES + v * LANES)
                for m in static_range(MR):
                    for v in static_range(NV):
                        x_mv = load(vec, x.a, x_r + m * x.step + s + v * LANES)
                        acc[m, v] = fma(x_mv, w[v], acc[m, v])
        for m in static_range(MR):
            for v in static_range(NV):
                at = y.at + m * y.step + v * LANES
                store_n(acc[m, v], y.a, at, filters - v * LANES)

    return depthwise_tile


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    if p.groups != p.C:
        return f"each filter sums over {p.C // p.groups} channels, not one"
    return f"the input is dilated by {p.input_dilation}" if max(p.input_dilation) > 1 else ""


def schedule(p: "Problem") -> Schedule:
    """The tile of this machine; its vectors run over groups."""
    return schedule_of(p, micro_kernel, TILES[processor.registers()], depthwise=True)
