"""Words that move lanes: to repeat elements of memory, and to mix two vectors.

Meanings and lowerings as in words.py.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError

from mlxconv.simd.halves import kept_as, widen, widened
from mlxconv.simd.lowering import check, choose, i1, i32, i64, lowers, masked_load, pointer
from mlxconv.simd.vector import Vec

MOST_LOADS = 4  # of whole vectors, to choose single elements of; more take longer than those


def broadcast_each(vec, a, i, step, size, t, turns):
    """a[i + t], a[i + step + t], a[i + 2*step + t], ..., each in `size` lanes, the last in what is
    left, too.  size, t and turns are constants; if step is one as well, up to four loads bring what
    all t < turns take their turns with."""
    return widened(a[i + _parts_of(vec.lanes, size) * step + t])


@lowers(
    broadcast_each,
    lambda vec, a, i, step, size, t, turns: _sized(size, check(vec, a, i, step), t, turns),
)
def _broadcast_each(context, builder, sig, args):
    vec, dtype = sig.return_type, sig.args[1].dtype
    size, t, turns = (constant.literal_value for constant in sig.args[4:])
    kept = kept_as(dtype, vec.lanes)
    constant = getattr(sig.args[3], "literal_value", MOST_LOADS * vec.lanes)
    parts, p = _parts_of(vec.lanes, size), pointer(context, builder, sig, args, 1, kept.element)
    extent = int(parts[-1]) * constant + turns
    if 1 < extent <= MOST_LOADS * vec.lanes:
        vectors = _loaded(builder, p, extent, kept)
        if turns > 1:  # once for all of them
            vectors, dtype = [widen(builder, v, dtype) for v in vectors], vec.dtype
        return widen(builder, _chosen_of(builder, vectors, parts * constant + t), dtype)
    step = context.cast(builder, args[3], sig.args[3], types.intp)
    values = ir.Constant(ir.VectorType(kept.element, int(parts[-1]) + 1), ir.Undefined)
    for g in range(values.type.count):
        at = builder.add(builder.mul(step, step.type(g)), step.type(t))
        values = builder.insert_element(values, builder.load(builder.gep(p, [at])), i32(g))
    return widen(builder, choose(builder, values, values, parts), dtype)


def _loaded(builder, p, extent, kept):
    """Vectors whose elements, side by side, begin with the `extent` ones at `p`."""
    span = min(kept.count, 1 << (extent - 1).bit_length())
    return [
        _load_first(builder, builder.gep(p, [i64(i)]), min(extent - i, span), kept.element, span)
        for i in range(0, extent, span)
    ]


def _chosen_of(builder, vectors, lanes):
    """The vector of these lanes of all `vectors`, side by side: lanes that the first ones lack are
    taken from the next, one vector after the other."""
    chosen, span = vectors[0], vectors[0].type.count
    if len(vectors) == 1:
        return choose(builder, chosen, chosen, lanes)
    order = lanes
    for n, v in enumerate(vectors[1:], 1):
        chosen = choose(builder, chosen, v, np.where(lanes < n * span, order, span + lanes % span))
        order = np.arange(len(lanes))
    return chosen


def _load_first(builder, p, n, element, lanes):
    """The first n of so many lanes, as a load of all of them where n says so."""
    mask = ir.Constant(ir.VectorType(i1, lanes), [int(lane < n) for lane in range(lanes)])
    return masked_load(builder, p, mask, ir.VectorType(element, lanes))


def _parts_of(lanes, size):
    """For each lane, the part of `size` lanes that it is in, the last one if it is left over."""
    return np.minimum(np.arange(lanes) // size, lanes // size - 1)


def _sized(size, vec, *constants):
    """The typing rule of words for parts of a vector; returns `vec`, or None while the constants
    are seen as mere integers."""
    if not isinstance(vec, Vec):
        raise TypingError(f"expected a vector type, got {vec}")
    if not all(isinstance(value, types.IntegerLiteral) for value in (size, *constants)):
        return None
    if not 1 <= size.literal_value <= vec.lanes:
        raise TypingError(f"{vec} has no parts of {size.literal_value} lanes")
    return vec


def zip_low(a, b):
    """a[0], b[0], a[1], b[1], ...: the lower halves of `a` and `b`, interleaved, in each part."""
    return np.stack([_parts(a), _parts(b)], -1).reshape(len(_parts(a)), 2, -1)[:, 0].ravel()


@lowers(zip_low, lambda a, b: a if a == b and isinstance(a, Vec) else None)
def _zip_low(context, builder, sig, args):
    return _shuffled(builder, zip_low, sig.return_type, args)


def zip_high(a, b):
    """The upper halves of `a` and `b`, interleaved, in each part."""
    return np.stack([_parts(a), _parts(b)], -1).reshape(len(_parts(a)), 2, -1)[:, 1].ravel()


@lowers(zip_high, lambda a, b: a if a == b and isinstance(a, Vec) else None)
def _zip_high(context, builder, sig, args):
    return _shuffled(builder, zip_high, sig.return_type, args)


def even_parts(a, b):
    """Parts 0, 2, ... of `a`, then those of `b`; there are at least two."""
    return np.concatenate([_parts(a)[::2], _parts(b)[::2]]).ravel()


@lowers(even_parts, lambda a, b: a if a == b and isinstance(a, Vec) else None)
def _even_parts(context, builder, sig, args):
    return _shuffled(builder, even_parts, sig.return_type, args)


def odd_parts(a, b):
    """Parts 1, 3, ... of `a`, then those of `b`."""
    return np.concatenate([_parts(a)[1::2], _parts(b)[1::2]]).ravel()


@lowers(odd_parts, lambda a, b: a if a == b and isinstance(a, Vec) else None)
def _odd_parts(context, builder, sig, args):
    return _shuffled(builder, odd_parts, sig.return_type, args)


PART_BYTES = 16  # shuffles inside such parts of a register start twice as often as others


def _parts(v):
    """A row for each part of `v`."""
    return v.reshape(-1, PART_BYTES // v.itemsize)


def _shuffled(builder, word, vec, args):
    """What `word` makes of two registers, as it says itself of the numbers of their lanes."""
    lanes = np.arange(2 * vec.lanes, dtype=f"i{vec.dtype.itemsize}")
    return choose(builder, *args, word(lanes[: vec.lanes], lanes[vec.lanes :]))


def add_halves(a, b, parts):
    """The halves of each of `parts` equal parts of `a` added, then those of `b`: half as many
    lanes of twice as many sums.  parts is a constant."""
    low, high = np.hstack([_halves(a, parts), _halves(b, parts)])
    return low + high


def _halves(v, parts):
    """The lower halves of equal parts of `v`, and the upper ones."""
    return v.reshape(parts, 2, -1).swapaxes(0, 1).reshape(2, -1)


@lowers(add_halves, lambda a, b, parts: _sized(parts, a) if a == b else None)
def _add_halves(context, builder, sig, args):
    vec, parts = sig.return_type, sig.args[2].literal_value
    lanes = np.arange(2 * vec.lanes)
    halves = np.hstack([_halves(of_one, parts) for of_one in np.split(lanes, 2)])
    return builder.fadd(*(choose(builder, *args[:2], half) for half in halves))


def sum_lanes(v):
    """The sum of all lanes: halves are added until one lane is left."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


@lowers(sum_lanes, lambda v: types.float32 if v.dtype == np.float32 else types.float64)
def _sum_lanes(context, builder, sig, args):
    v, lanes = args[0], sig.args[0].lanes
    while lanes > 1:
        lanes //= 2
        low, high = range(lanes), range(lanes, 2 * lanes)
        v = builder.fadd(*(choose(builder, v, v, half) for half in (low, high)))
    return builder.extract_element(v, i32(0))
