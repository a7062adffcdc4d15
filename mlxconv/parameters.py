"""What a caller said of a convolution, and what that means for each spatial axis."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

Ints = tuple[int, ...]


class Parameters(NamedTuple):
    """What a caller said beside the two arrays, as said, and which function was called."""

    function: str
    stride: Any
    padding: Any
    kernel_dilation: Any
    input_dilation: Any
    groups: Any
    flip: Any
    output_padding: Any = 0  # of transposed convolutions

    @property
    def is_transposed(self) -> bool:
        return self.function.startswith("conv_transpose")


RANKS = {"conv_general": (1, 2, 3)} | {
    f"{name}{rank}d": (rank,) for name in ("conv", "conv_transpose") for rank in (1, 2, 3)
}


class Steps(NamedTuple):
    """The parameters per axis."""

    stride: Ints
    padding_lo: Ints
    padding_hi: Ints
    kernel_dilation: Ints
    input_dilation: Ints


def steps_of(q: Parameters, L: Ints, K: Ints) -> Steps:
    """The parameters of a call on an input of extents `L` with filters of `K` taps."""
    rank, general = len(L), q.function == "conv_general"
    values = integer_per_axis if q.function.endswith("1d") else per_axis  # MLX takes ints only
    stride = values("stride", q.stride, rank, 1)
    dilation = values("kernel_dilation" if general else "dilation", q.kernel_dilation, rank, 1)
    if q.is_transposed:
        return _transposed(q, K, stride, dilation)
    if general:
        lo, hi = _general_padding(q.padding, rank)
    else:
        lo, hi = _padding(q.padding, rank, K, L, stride, dilation)
    return Steps(stride, lo, hi, dilation, per_axis("input_dilation", q.input_dilation, rank, 1))


def _transposed(q: Parameters, K: Ints, stride: Ints, dilation: Ints) -> Steps:
    """A transposed convolution with `stride` is one of the input dilated by `stride`."""
    values = integer_per_axis if q.function.endswith("1d") else per_axis
    padding = values("padding", q.padding, len(K), 0)
    extra = values("output_padding", q.output_padding, len(K), 0)
    if min(extra) < 0:
        raise ValueError(f"output_padding must not be negative, got {q.output_padding!r}")
    lo = tuple(d * (k - 1) - p for d, k, p in zip(dilation, K, padding, strict=True))
    hi = tuple(map(sum, zip(lo, extra, strict=True)))
    return Steps((1,) * len(K), lo, hi, dilation, stride)


def integer(name: str, value: Any) -> int:
    """`value` as an int, by `__index__`: ints, bools and NumPy integers, but no float."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} takes an int, got {described(value)}") from None


def per_axis(name: str, value: Any, rank: int, default: int) -> Ints:
    """`value`, an int or a sequence of ints, as one int for each of `rank` spatial axes."""
    if type(value) is int:
        return (value,) * rank
    if not is_sequence(value):
        try:
            return (operator.index(value),) * rank
        except TypeError:
            kinds = f"an int or a sequence of {rank} int{'s' * (rank > 1)}"
            raise TypeError(f"{name} takes {kinds}, got {described(value)}") from None
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


def described(value: Any) -> str:
    return f"{value!r} of type {type(value).__name__}"
