"""Arguments -> Problem: sizes and parameters of one convolution, checked, and without any data.

A Problem is a NamedTuple, hence hashable: everything later stages derive from it is cached on it.
All of the ValueErrors of a convolution are raised here, before any work, in the order and the
words of MLX 0.32, so that code moved from MLX keeps seeing the messages it knows.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mlxconv.arrays import check_input_dtype, result_dtype
from mlxconv.parameters import RANKS, Ints, Parameters, described, integer, steps_of


class Problem(NamedTuple):
    """One convolution, normalised; per-axis values are tuples, in the order of the axes."""

    N: int  # batch
    L: Ints  # input extents, per spatial axis
    C: int  # input channels
    O: int  # filters (output channels)
    K: Ints  # taps, per spatial axis
    stride: Ints
    padding_lo: Ints
    padding_hi: Ints
    kernel_dilation: Ints
    input_dilation: Ints
    groups: int = 1
    flip: bool = False
    dtype: str = "float32"  # of the result
    input_dtype: str = "float32"  # of the input, as it lies in memory

    @property
    def output_L(self) -> Ints:
        """L_out = floor((1 + idil (L - 1) + lo + hi - (1 + d (K - 1))) / stride) + 1, per axis."""
        return _output_L(self)

    @property
    def padded_L(self) -> Ints:
        """Extents of the input once it is dilated and padded."""
        axes = zip(self.dilated_L, self.padding_lo, self.padding_hi, strict=True)
        return tuple(L + lo + hi for L, lo, hi in axes)

    @property
    def dilated_L(self) -> Ints:
        """Extents of the input with its elements input_dilation apart, 1 + idil (L - 1)."""
        axes = zip(self.L, self.input_dilation, strict=True)
        return tuple(1 + idil * (L - 1) if L else 0 for L, idil in axes)

    @property
    def window(self) -> Ints:
        """Extents of the dilated filter, 1 + d (K - 1)."""
        return tuple(1 + d * (K - 1) for K, d in zip(self.K, self.kernel_dilation, strict=True))

    @property
    def input_shape(self) -> Ints:
        return (self.N, *self.L, self.C)

    @property
    def weight_shape(self) -> Ints:
        return (self.O, *self.K, self.C // self.groups)

    @property
    def output_shape(self) -> Ints:
        return (self.N, *self.output_L, self.O)

    @property
    def flop(self) -> int:
        """Two per multiply-add, taps that meet padding included, the field's way to count, but
        not those that meet the zeros of a dilated input."""
        axes = (self.output_L, self.K, self.stride, self.padding_lo)
        steps = (self.kernel_dilation, self.input_dilation)
        met = math.prod(_taps_met(*sizes) for sizes in zip(*axes, *steps, strict=True))
        return 2 * self.N * self.O * met * (self.C // self.groups)


@lru_cache(maxsize=8)  # to choose how one is computed asks for it a hundred times
def _output_L(p: Problem) -> Ints:
    return tuple(
        (padded - window) // stride + 1
        for padded, window, stride in zip(p.padded_L, p.window, p.stride, strict=True)
    )


def _taps_met(L_out: int, K: int, stride: int, lo: int, dilation: int, idil: int) -> int:
    """Pairs of an output and a tap that meets an element of the input or padding, on one axis."""
    if idil == 1:
        return L_out * K
    apart = idil // math.gcd(idil, stride)  # outputs that meet the same taps
    return sum(
        len(range(first, L_out, apart))
        * sum((first * stride - lo + k * dilation) % idil == 0 for k in range(K))
        for first in range(min(apart, L_out))
    )


def problem_of(
    q: Parameters, x_shape: Ints, x_dtype: np.dtype, w_shape: Ints, w_dtype: np.dtype
) -> Problem:
    """The Problem that a call poses, or the error that says why it poses none."""
    _check_rank(q.function, x_shape)
    check_input_dtype(x_dtype)
    rank = len(x_shape) - 2
    _check_weight_rank(w_shape, rank)
    dtype = result_dtype(x_dtype, w_dtype)
    L, K = x_shape[1:-1], w_shape[1:-1]
    steps = steps_of(q, L, K)
    if not isinstance(q.flip, bool):
        raise TypeError(f"flip takes a bool, got {described(q.flip)}")
    problem = Problem(
        N=x_shape[0],
        L=L,
        C=x_shape[-1],
        O=w_shape[0],
        K=K,
        **steps._asdict(),
        groups=integer("groups", q.groups),
        flip=q.flip,
        dtype=dtype,
        input_dtype=x_dtype.name,
    )
    _check(problem, w_shape)
    return problem


def _check(problem: Problem, weight_shape: Ints) -> None:
    """Whether filters and parameters fit the input: MLX's ValueErrors, in MLX's order."""
    _check_groups(problem)
    _check_channels(problem, weight_shape)
    _check_steps(problem)
    _check_extents(problem, weight_shape)
    _check_size(problem)


def _check_rank(function: str, shape: Ints) -> None:
    """The input of conv1d has one spatial axis, and so on; the layout is channels-last."""
    ranks = RANKS[function]
    if len(shape) - 2 in ranks:
        return
    layouts = {1: "[N, L, C_in]", 2: "[N, H, W, C_in]", 3: "[N, D, H, W, C_in]"}
    expected = " or ".join(layouts[rank] for rank in ranks)
    raise ValueError(
        f"[{function}] Expected an input in the format [N, ..., C_in], here {expected}, "
        f"but got one with {len(shape)} dimensions, of shape {_shape(shape)}"
    )


def _check_weight_rank(weight_shape: Ints, rank: int) -> None:
    if len(weight_shape) != rank + 2:
        raise ValueError(
            f"[conv] Invalid weight array with {len(weight_shape)} dimensions for {rank}D "
            f"convolution. Expected an array with {rank + 2} dimensions following the format "
            "[C_out, ..., C_in]."
        )


def _check_groups(p: Problem) -> None:
    if p.groups < 1:
        raise ValueError(f"[conv] The number of groups must be positive. Got {p.groups} groups.")
    if p.C % p.groups:
        raise ValueError(
            "[conv] The input channels must be divisible by the number of groups. Got input with "
            f"shape {_shape(p.input_shape)} and {p.groups} groups."
        )
    if p.groups > 1 and p.O % p.groups:
        raise ValueError(
            "[conv] If groups > 1, the output channels must be divisible by the number of groups. "
            f"Got {p.O} output channels and {p.groups} groups."
        )


def _check_channels(p: Problem, weight_shape: Ints) -> None:
    expected = weight_shape[-1] * p.groups
    if expected == p.C:
        return
    hint = ""
    if expected in p.L:
        hint = (
            f" The input looks like channels-first data, (N, C, ...): its axis "
            f"{p.L.index(expected) + 1} has {expected} elements. mlxconv is channels-last; "
            "move that axis to the end with numpy.moveaxis."
        )
    if p.groups == 1:
        raise ValueError(
            "[conv] Expect the input channels in the input and weight array to match but got "
            f"shapes - input: {_shape(p.input_shape)} and weight: {_shape(weight_shape)}.{hint}"
        )
    raise ValueError(
        f"Given groups={p.groups} and weights of shape {_shape(weight_shape)}, expected to have "
        f"{expected} input channels but got {p.C} input channels instead.{hint}"
    )


def _check_steps(p: Problem) -> None:
    for what, got, values in (
        ("Kernel dilation", "kernel dilation", p.kernel_dilation),
        ("Input dilation", "input dilation", p.input_dilation),
        ("Stride", "strides", p.stride),
    ):
        if any(v < 1 for v in values):
            raise ValueError(f"[conv] {what} sizes must be positive. Got {got} {_shape(values)}.")


def _check_extents(p: Problem, weight_shape: Ints) -> None:
    for axis in range(len(p.L)):
        if fault := _fault_of_extents(p, axis):
            raise ValueError(
                f"[conv] {fault} Got error at axis {axis + 1} for input with shape "
                f"{_shape(p.input_shape)}, padding low {_shape(p.padding_lo)}, padding high "
                f"{_shape(p.padding_hi)}, and weight of shape {_shape(weight_shape)}."
            )


def _fault_of_extents(p: Problem, axis: int) -> str:
    """What is wrong with the extents along `axis`; empty if nothing."""
    if p.K[axis] < 1:
        return "A filter needs at least one tap per axis."
    if max(0, -p.padding_lo[axis]) + max(0, -p.padding_hi[axis]) > p.dilated_L[axis]:
        return "Negative padding crops more than the input has."
    if p.padded_L[axis] < p.window[axis]:
        return (
            "Spatial dimensions of input after padding cannot be smaller than weight spatial "
            "dimensions."
        )
    return ""


def _check_size(p: Problem) -> None:
    if math.prod(p.output_shape) * 16 >= 2**63 or max(p.padded_L + p.window) >= 2**62:
        raise OverflowError(
            f"[conv] An output of shape {_shape(p.output_shape)} is larger than any memory"
        )


def _shape(values: Ints) -> str:
    """A shape as MLX prints it: (1,5,2), (3)."""
    return "(" + ",".join(map(str, values)) + ")"
