"""Arguments -> Problem: sizes and parameters of one convolution, checked, and without any data.

A Problem is a NamedTuple, hence hashable: everything later stages derive from it is cached on it.
All of the ValueErrors of a convolution are raised here, before any work, in the order and the
words of MLX 0.32, so that code moved from MLX keeps seeing the messages it knows.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxconv.arrays import check_input_dtype, result_dtype

Ints = tuple[int, ...]


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
        return tuple(
            (padded - window) // stride + 1
            for padded, window, stride in zip(self.padded_L, self.window, self.stride, strict=True)
        )

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
        """Two per multiply-add, taps that meet padding included: the field's way to count."""
        return 2 * math.prod(self.output_shape) * math.prod(self.K) * (self.C // self.groups)


class Parameters(NamedTuple):
    """What a caller said beside the two arrays, as said, and which function was called."""

    function: str
    stride: Any
    padding: Any
    kernel_dilation: Any
    input_dilation: Any
    groups: Any
    flip: Any


RANKS = {"conv1d": (1,), "conv2d": (2,), "conv3d": (3,), "conv_general": (1, 2, 3)}


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
    single = q.function == "conv1d"  # MLX takes ints only
    values = integer_per_axis if single else per_axis
    stride = values("stride", q.stride, rank, 1)
    dilation_name = "kernel_dilation" if q.function == "conv_general" else "dilation"
    dilation = values(dilation_name, q.kernel_dilation, rank, 1)
    if q.function == "conv_general":
        lo, hi = _general_padding(q.padding, rank)
    else:
        lo, hi = _padding(q.padding, rank, K, L, stride, dilation)
    if not isinstance(q.flip, bool):
        raise TypeError(f"flip takes a bool, got {_described(q.flip)}")
    problem = Problem(
        N=x_shape[0],
        L=L,
        C=x_shape[-1],
        O=w_shape[0],
        K=K,
        stride=stride,
        padding_lo=lo,
        padding_hi=hi,
        kernel_dilation=dilation,
        input_dilation=per_axis("input_dilation", q.input_dilation, rank, 1),
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


def integer(name: str, value: Any) -> int:
    """`value` as an int, by `__index__`: ints, bools and NumPy integers, but no float."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} takes an int, got {_described(value)}") from None


def per_axis(name: str, value: Any, rank: int, default: int) -> Ints:
    """`value`, an int or a sequence of ints, as one int for each of `rank` spatial axes."""
    if type(value) is int:
        return (value,) * rank
    if not is_sequence(value):
        try:
            return (operator.index(value),) * rank
        except TypeError:
            kinds = f"an int or a sequence of {rank} int{'s' * (rank > 1)}"
            raise TypeError(f"{name} takes {kinds}, got {_described(value)}") from None
    values = tuple(integer(f"{name}[{i}]", v) for i, v in enumerate(value))
    if len(values) == 0:
        return (default,) * rank
    if len(values) == 1:
        return values * rank
    if len(values) != rank:
        raise ValueError(
            f"{name} has {len(values)} values, {list(values)}, but the convolution has {rank} "
            f"spatial ax{'es' if rank > 1 else 'is'}; give one int, or one per axis"
        )
    return values


def is_sequence(value: Any) -> bool:
    """Whether `value` lists one thing per axis: a list, a tuple, a 1-D array, but no string."""
    if isinstance(value, str | bytes):
        return False
    return isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1


def integer_per_axis(name: str, value: Any, rank: int, default: int) -> Ints:
    """`value`, which must be an int."""
    return (integer(name, value),) * rank


def _general_padding(value: Any, rank: int) -> tuple[Ints, Ints]:
    """The `padding` of conv_general: (lo, hi) with a sequence each, else both ends alike."""
    if is_sequence(value) and len(value) == 2 and all(map(is_sequence, value)):
        lo, hi = value
        return per_axis("padding[0]", lo, rank, 0), per_axis("padding[1]", hi, rank, 0)
    both = per_axis("padding", value, rank, 0)
    return both, both


def _padding(
    value: Any, rank: int, K: Ints, L: Ints, stride: Ints, dilation: Ints
) -> tuple[Ints, Ints]:
    """The `padding` of conv1d, conv2d and conv3d as (lo, hi), each with one int per axis.

    Beside MLX's int (for 2 and 3 axes also one int per axis) it may be one (lo, hi) per axis,
    which for one axis is just `(lo, hi)`, or "valid", "same" or, with one axis, "causal".
    """
    if isinstance(value, str):
        return _named_padding(value, rank, K, L, stride, dilation)
    pairs = [value] if rank == 1 else value
    if is_sequence(value) and len(pairs) == rank and all(map(is_sequence, pairs)):
        for axis, pair in enumerate(pairs):
            if len(pair) != 2:
                raise ValueError(f"padding of axis {axis + 1} takes (lo, hi), got {pair!r}")
        lo, hi = zip(*pairs, strict=True)
        return per_axis("padding", lo, rank, 0), per_axis("padding", hi, rank, 0)
    both = per_axis("padding", value, rank, 0)
    return both, both


def _named_padding(
    name: str, rank: int, K: Ints, L: Ints, stride: Ints, dilation: Ints
) -> tuple[Ints, Ints]:
    reach = tuple(d * (k - 1) for d, k in zip(dilation, K, strict=True))
    if name == "valid":
        return (0,) * rank, (0,) * rank
    if name == "causal" and rank == 1:
        return reach, (0,)
    if name == "same":
        total = tuple(
            max(0, (-(-n // s) - 1) * s + r + 1 - n) if s > 0 else 0
            for n, s, r in zip(L, stride, reach, strict=True)
        )
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    known = '"valid", "same"' + (' or "causal"' if rank == 1 else "")
    raise ValueError(f"padding takes an int, (lo, hi) per axis, or {known}; got {name!r}")


def _described(value: Any) -> str:
    return f"{value!r} of type {type(value).__name__}"


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
