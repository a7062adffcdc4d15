"""Depthwise convolution: one filter on each channel, vectors over channels.

Computes    y[n, l, c] = sum over taps k of x[n, l*stride - padding + k*dilation, c] * w[c, k],
            with one to three spatial axes.
For         problems with one input channel and one filter per group; there is no sum over
            channels, so K taps of a vector of channels are all a position needs.
Layout      the tile of grouped.py for groups of one channel and one filter: it reads MR windows of
            NR neighbouring channels, and a panel of NR filters

                x  [c c c ... c]  row l         panel  [w w w ... w]  tap 0     <- NR channels
                   [c c c ... c]  row l+1              [w w w ... w]  tap 1

Registers   and order: see grouped.py.
Bound       memory for few taps: at K = 4 a position moves 8 bytes per channel for 8 FLOP.
"""

from functools import partial
from typing import TYPE_CHECKING

from mlxconv.kernels.grouped import micro_kernel, over_groups
from mlxconv.kernels.schedule import Schedule

if TYPE_CHECKING:
    from mlxconv.problem import Problem


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    if p.groups != p.C:
        return f"each filter sums over {p.C // p.groups} channels, not one"
    if p.groups != p.O:
        return f"each channel feeds {p.O // p.groups} filters, not one"
    return ""


def schedule(p: "Problem") -> Schedule:
    """Vectors run over channels."""
    return over_groups(p, partial(micro_kernel, 1, 1))
