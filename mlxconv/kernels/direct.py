"""Direct convolution by register tiles: MR output positions x NV vectors of filters.

Computes    y[n, l, o] = sum over taps k, channels c of x[n, l*stride - padding + k*dilation, c]
            * w[o, k, c], per group, with one to three spatial axes.
For         any problem without input dilation; best with many filters per group.
Layout      a tile reads MR windows, `row` elements apart, and one panel of NR filters

                window of l+0   x x x x x x x x ...        panel  w w .. w   <- NR filters
                window of l+1       x x x x x x x x ...           w w .. w
                ...                                               : :    :   one row per element

Registers   MR*NV accumulators + NV of a panel row + 1 broadcast: see TILES.
Order       every output is one chain of multiply-adds over runs in order and elements in order,
            whatever the tile, the block or the number of threads.
References  G. Goto and R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008;
            E. Georganas et al., Anatomy of High-Performance Deep Learning Convolutions, 2018.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from mlxconv import processor
from mlxconv.kernels.schedule import Schedule, schedule_of
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.words import broadcast, fma, load, store_n, zero

if TYPE_CHECKING:
    from mlxconv.problem import Problem

# registers of the machine -> (MR, NV)
TILES = {
    16: (6, 2),  # 12 + 2 + 1 = 15 of 16; 8 loads feed 12 FMA
    32: (14, 2),  # 28 + 2 + 1 = 31 of 32; 16 loads feed 28 FMA
}


@lru_cache
def micro_kernel(MR, NV, vec):
    """The register tile of MR positions x NV vectors."""
    LANES = vec.lanes

    @kernel
    def tile(x, runs, panel, y, filters):
        """y[m][o] = sum over runs r, elements s of x[m][runs[r] + s] * panel[rows[r] + s][o],
        for m < MR and o < filters; x, panel and y are Rows."""
        acc = registers(MR, NV, fill=zero(vec))
        w = registers(NV)
        for r in range(runs.count):
            x_r = x.at + runs.table[2 * r]
            w_r = panel.at + runs.table[2 * r + 1] * panel.step
            for s in range(runs.length):  # one rank-1 update of the tile
                for v in static_range(NV):
                    w[v] = load(vec, panel.a, w_r + s * NV * LANES + v * LANES)
                for m in static_range(MR):
                    x_ms = broadcast(vec, x.a, x_r + m * x.step + s)
                    for v in static_range(NV):
                        acc[m, v] = fma(x_ms, w[v], acc[m, v])
        for m in static_range(MR):
            for v in static_range(NV):
                at = y.at + m * y.step + v * LANES
                store_n(acc[m, v], y.a, at, filters - v * LANES)

    return tile


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    return f"the input is dilated by {p.input_dilation}" if max(p.input_dilation) > 1 else ""


def schedule(p: "Problem") -> Schedule:
    """The tile of this machine, and blocks of positions whose input stays in L2."""
    return schedule_of(p, micro_kernel, TILES[processor.registers()])
