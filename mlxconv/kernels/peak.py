"""The machine's FMA peak: what a convolution that is nothing but multiply-adds could reach.

Computes    nothing of use: independent chains of multiply-adds that stay in registers.
For         the bound that figures are given in percent of, measured beside them and under the same
            threading; the clock of a shared machine moves by a quarter within minutes.
Registers   12 accumulators + 2 factors: enough chains to hide a latency of 4-5 cycles on two ports.
"""

from functools import lru_cache

import numpy as np

from mlxconv import processor
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import GEOMETRY
from mlxconv.kernels.schedule import Schedule, Step
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import vec_of
from mlxconv.simd.words import broadcast, fma, load, store

CHAINS, ROUNDS = 12, 20_000


@lru_cache
def chains(vec):
    """The range kernel whose jobs are ROUNDS multiply-adds on each of CHAINS registers."""
    CHAINS_, ROUNDS_ = CHAINS, ROUNDS

    @kernel
    def fma_chains(data, lo, hi):
        """y[...] = y * w + x, over and over."""
        acc = registers(CHAINS_)
        for c in static_range(CHAINS_):
            acc[c] = load(vec, data.scratch, c)
        factor, term = broadcast(vec, data.w, 0), broadcast(vec, data.w, 1)
        for _ in range(lo, hi):
            for _ in range(ROUNDS_):
                for c in static_range(CHAINS_):
                    acc[c] = fma(acc[c], factor, term)
        for c in static_range(CHAINS_):
            store(acc[c], data.scratch, c)

    return fma_chains


def peak_schedule(dtype: str, jobs: int) -> Schedule:
    """`jobs` equal pieces of multiply-adds; scratch is the only memory they touch."""
    vec = vec_of(dtype, processor.vector_bytes())
    flop = 2 * CHAINS * ROUNDS * vec.lanes * jobs
    step = Step(chains(vec), jobs, flop)
    scratch = CHAINS + vec.lanes
    return Schedule(Elements(dtype, dtype), np.zeros(1, GEOMETRY), (step,), scratch=scratch)
