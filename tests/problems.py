"""Random convolutions that people might write, and the corners between them."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import mlxconv
from tests import helpers

DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")


class Case(NamedTuple):
    """The arguments of one conv_general, without data."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding_lo: tuple[int, ...]
    padding_hi: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    groups: int
    flip: bool

    @property
    def parameters(self):
        """As the helpers take them."""
        return self[2:]

    @property
    def outputs(self):
        """Output positions of one image."""
        L, K, axes = self.x_shape[1:-1], self.w_shape[1:-1], self.parameters[:-2]
        return math.prod(helpers.output_extents(L, K, *axes))

    def data(self, rng, dtype, fill=helpers.integer_array):
        """Input and weight; integers small enough that every sum is exact in float16."""
        dtype = np.dtype(getattr(ml_dtypes, dtype)) if dtype == "bfloat16" else np.dtype(dtype)
        largest = 1 if dtype.itemsize == 2 else 8
        more = (largest,) if fill is helpers.integer_array else ()
        return fill(rng, self.x_shape, dtype, *more), fill(rng, self.w_shape, dtype, *more)

    def run(self, x, w, **named):
        padding = (self.padding_lo, self.padding_hi)
        return mlxconv.conv_general(
            x,
            w,
            self.stride,
            padding,
            self.kernel_dilation,
            self.input_dilation,
            self.groups,
            self.flip,
            **named,
        )


@st.composite
def cases(draw, ranks=(1,), dilated_input=True):
    """Small problems of every kind: dense, few filters on vectors of channels, grouped, depthwise,
    strided, dilated, cropped."""
    rank = draw(st.sampled_from(ranks))
    small = 1 if rank == 1 else 2  # divides extents, so that two and three axes stay small
    groups, C, O = draw(channels())
    K = [draw(st.integers(1, 9 // small)) for _ in range(rank)]
    axes = [axis(draw, k, small, dilated_input) for k in K]
    L, stride, lo, hi, dilation, idil = zip(*axes, strict=True)
    N = draw(st.integers(0, 3))
    flip = draw(st.booleans())
    x_shape, w_shape = (N, *L, groups * C), (groups * O, *K, C)
    return Case(x_shape, w_shape, stride, lo, hi, dilation, idil, groups, flip)


@st.composite
def channels(draw):
    """(groups, input channels, filters), the last two of one group."""
    if draw(st.booleans()):
        return 1, draw(st.integers(0, 20)), draw(st.integers(1, 40))
    if draw(st.booleans()):
        return draw(st.integers(2, 40)), 1, draw(st.integers(1, 9))  # depthwise
    if draw(st.booleans()):
        return draw(st.integers(1, 3)), draw(st.sampled_from((16, 32))), draw(st.integers(1, 4))
    return draw(st.integers(2, 20)), draw(st.integers(1, 9)), draw(st.integers(1, 19))


def axis(draw, K, small, dilated_input):
    """(L, stride, lo, hi, dilation, input dilation) for which the window fits the input."""
    stride = draw(st.integers(1, 4))
    dilation = draw(st.sampled_from((1, 1, 2, 3, 11)))
    idil = draw(st.sampled_from((1, 1, 1, 2, 3))) if dilated_input else 1
    reach = dilation * (K - 1)
    lo, hi = (draw(st.integers(-2, min(reach + 3, 12))) for _ in range(2))
    L = draw(st.integers(0, 90 // small**3))
    dilated = 1 + idil * (L - 1) if L else 0
    crop = max(0, -lo) + max(0, -hi)
    missing = max(reach + 1 - (dilated + lo + hi), crop - dilated, 0)
    return L + -(-missing // idil) + (missing > 0 and L == 0), stride, lo, hi, dilation, idil


def random_cases(count, seed, ranks=(1,)):
    """`count` cases from a seed, without hypothesis' bookkeeping: for loops over thousands."""
    return [_random_case(np.random.default_rng((seed, i)), ranks) for i in range(count)]


def _random_case(rng, ranks):
    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def between(lo, hi):
        return int(rng.integers(lo, hi + 1))

    rank = pick(*ranks)
    small = 1 if rank == 1 else 2
    groups, C, O = pick(
        (1, between(1, 20), between(1, 40)),
        (1, between(1, 20), between(1, 40)),
        (between(2, 40), 1, between(1, 9)),  # depthwise
        (between(2, 20), between(1, 9), between(1, 9)),
        (between(1, 3), pick(16, 32), between(1, 4)),  # few filters on vectors of channels
    )
    rows = []
    for _ in range(rank):
        K, stride, dilation, idil = between(1, 9 // small), between(1, 4), pick(1, 1, 2, 11), 1
        if rng.random() < 0.2:
            idil = between(2, 3)
        reach = dilation * (K - 1)
        lo, hi = between(-2, min(reach + 3, 12)), between(-2, min(reach + 3, 12))
        L = between(5, 90 // small**3) + max(0, -(-(reach + 1 - lo - hi) // idil))
        rows.append((L, K, stride, lo, hi, dilation, idil))
    L, K, *steps = zip(*rows, strict=True)
    x_shape, w_shape = (between(1, 3), *L, groups * C), (groups * O, *K, C)
    return Case(x_shape, w_shape, *steps, groups, bool(rng.random() < 0.3))
