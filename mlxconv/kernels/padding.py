"""Which taps meet padding along an axis, and which of them blocks of its positions leave out."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mlxconv.problem import Problem


class Axis(NamedTuple):
    """What says which rows of the input the windows along one axis meet."""

    L: int  # rows of the input
    W: int  # positions of the output
    K: int
    stride: int
    dilation: int
    padding: int


def _sizes(p: "Problem") -> tuple[tuple[int, ...], ...]:
    """The fields of an Axis, for all axes of `p`."""
    return p.L, p.output_L, p.K, p.stride, p.kernel_dilation, p.padding_lo


def axes_of(p: "Problem") -> Iterator[Axis]:
    """Those of `p`, in order."""
    return map(Axis, *_sizes(p))


def line_of(p: "Problem") -> Axis:
    """The last axis of `p`."""
    return Axis(*(sizes[-1] for sizes in _sizes(p)))


def line_in(g: np.ndarray) -> Axis:
    """The last axis of a geometry."""
    names = ("L", "out", "K", "stride", "dilation", "padding")
    return Axis(*(int(g[name][0, 2]) for name in names))


def whole_windows(axis: Axis) -> int:
    """The positions whose windows lie inside the input."""
    L, W, K, stride, dilation, padding = axis
    lo = min(W, max(0, -(-padding // stride)))
    return max(0, min(W, (L - 1 - (K - 1) * dilation + padding) // stride + 1) - lo)


def ends_of(axis: Axis, MR: int) -> int:
    """The positions at both ends of a line that copy what they read: those whose windows reach out
    of the input, and others that fill their tiles of MR."""
    reaching = axis.W - whole_windows(axis)
    return 2 * -(-reaching // (2 * MR)) * MR


def copied_rows(axis: Axis, positions: int) -> int:
    """Rows of the input that so many positions of a line copy."""
    span = (positions - 1) * axis.stride + 1
    return span + (axis.K - 1) * min(axis.dilation, span)


def meets_padding(p: "Problem") -> bool:
    """Whether some window of `p` reaches past the ends of an axis."""
    return any(whole_windows(axis) < axis.W for axis in axes_of(p))


@lru_cache(maxsize=256)  # a model asks for the same line with each of its choices
def met(axis: Axis, rows: int = 1) -> float:
    """The share of the taps that blocks of so many positions compute: those that some of their
    positions meet the input with."""
    L, W, K, stride, dilation, padding = axis
    if whole_windows(axis) == W:
        return 1.0
    first = np.arange(K) * dilation - padding  # the row that a tap of the first window meets
    lo, hi = np.maximum(0, -(first // stride)), np.minimum(W, (L - 1 - first) // stride + 1)
    blocks = np.where(lo < hi, -(-hi // rows) - lo // rows, 0)
    return float(np.minimum(W, blocks * rows).mean()) / W


SHORT = (8, 16, 32)  # blocks of a line, which leave out taps that only others meet the input with


def shortened(axis: Axis, positions: int, MR: int, least: int, begins: float) -> int:
    """The positions of a block, or fewer, but `least` tiles of MR: short blocks leave out taps that
    only others meet the input with, and there are more to begin, each for so much of the time that
    all taps of a line take.  1.03x for dilated problems, up to 1.8x where padding is longer than
    the input."""
    choices = [min(positions, max(least, axis.W // MR // n) * MR) for n in SHORT]
    return min([positions, *choices], key=lambda n: met(axis, n) + -(-axis.W // n) * begins)
