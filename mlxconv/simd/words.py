"""SIMD vocabulary: the words kernels are written in.

Every word has a *meaning*, a line of NumPy that runs under NUMBA_DISABLE_JIT=1 and that the tests
compare with, and right below it a *lowering*, the LLVM it becomes.  `a` is always a flat (1-D,
C-contiguous) array of the vector's element type, and `i` an offset in elements; both are checked
when a kernel is compiled, so that a float64 array can never be read as float32.  Offsets are
neither bounds-checked nor wrapped around.
"""

import inspect

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import lower_builtin, type_callable

from mlxconv.simd.vector import Vec

_i1, _i32 = ir.IntType(1), ir.IntType(32)


def lowers(word, result):
    """Attach the decorated code generator to `word`; `result` types it from its argument types."""

    def attach(codegen):
        def typer(*args):
            return result(*(getattr(a, "instance_type", a) for a in args))

        typer.__signature__ = inspect.signature(word)
        type_callable(word)(lambda context: typer)
        lower_builtin(word, types.VarArg(types.Any))(codegen)

    return attach


def _check(vec, a, *integers, writes=False):
    """The typing rule all memory words share; returns `vec`."""
    if not isinstance(vec, Vec):
        raise TypingError(f"expected a vector type, got {vec}")
    flat = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C"
    if not flat or a.dtype.name != vec.dtype.name:
        raise TypingError(f"{vec} needs a flat C-contiguous {vec.dtype} array, got {a}")
    if writes and not a.mutable:
        raise TypingError(f"cannot store {vec} to the read-only {a}")
    for i in integers:
        if not isinstance(i, types.Integer):
            raise TypingError(f"an offset or count of lanes is an integer, got {i}")
    return vec


def _pointer(context, builder, sig, args, position, pointee):
    """&a[i] as a pointer to `pointee`, where a and i are the arguments from `position` on."""
    array = context.make_array(sig.args[position])(context, builder, args[position])
    i = context.cast(builder, args[position + 1], sig.args[position + 1], types.intp)
    return builder.bitcast(builder.gep(array.data, [i]), pointee.as_pointer())


def _splat(builder, scalar, vector):
    undef = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(_i32, vector.count), None)
    return builder.shuffle_vector(builder.insert_element(undef, scalar, _i32(0)), undef, first)


def _first_lanes(context, builder, n, n_type, lanes):
    """The mask whose lanes 0 .. n-1 are set."""
    vector = ir.VectorType(_i32, lanes)
    n = _splat(builder, context.cast(builder, n, n_type, types.int32), vector)
    return builder.icmp_signed("<", ir.Constant(vector, list(range(lanes))), n)


def _intrinsic(builder, name, returns, arguments):
    function = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


# ---------------------------------------------------------------- the words


def zero(vec):
    """0 in every lane."""
    return np.zeros(vec.lanes, vec.dtype)


@lowers(zero, lambda vec: vec)
def _zero(context, builder, sig, args):
    return ir.Constant(sig.return_type.llvm, None)


def load(vec, a, i):
    """The `vec.lanes` consecutive elements of `a` that start at a[i]."""
    return a[i : i + vec.lanes].copy()


@lowers(load, lambda vec, a, i: _check(vec, a, i))
def _load(context, builder, sig, args):
    vec = sig.return_type
    v = builder.load(_pointer(context, builder, sig, args, 1, vec.llvm))
    v.align = vec.dtype.itemsize
    return v


def load_n(vec, a, i, n):
    """a[i], ..., a[i+n-1] in the first n lanes, 0 in the others; touches no memory behind them."""
    n = max(0, min(n, vec.lanes))
    v = np.zeros(vec.lanes, vec.dtype)
    v[:n] = a[i : i + n]
    return v


@lowers(load_n, lambda vec, a, i, n: _check(vec, a, i, n))
def _load_n(context, builder, sig, args):
    vec = sig.return_type
    p = _pointer(context, builder, sig, args, 1, vec.llvm)
    mask = _first_lanes(context, builder, args[3], sig.args[3], vec.lanes)
    return _masked_load(builder, p, mask, vec.llvm, vec.dtype.itemsize)


def _masked_load(builder, p, mask, vector, itemsize):
    name = f"llvm.masked.load.v{vector.count}f{8 * itemsize}.p0"
    p = builder.bitcast(p, vector.as_pointer())
    return _intrinsic(builder, name, vector, [p, _i32(itemsize), mask, ir.Constant(vector, None)])


def broadcast(vec, a, i):
    """a[i] in every lane."""
    return np.full(vec.lanes, a[i], vec.dtype)


@lowers(broadcast, lambda vec, a, i: _check(vec, a, i))
def _broadcast(context, builder, sig, args):
    vec = sig.return_type
    x = builder.load(_pointer(context, builder, sig, args, 1, vec.element))
    return _splat(builder, x, vec.llvm)


def broadcast_each(vec, a, i, step, size):
    """a[i], a[i + step], a[i + 2*step], ..., each in `size` lanes, the last in what is left, too.
    size is a constant; if step is one as well, one or two loads bring all of them."""
    return a[i + _parts_of(vec.lanes, size) * step]


@lowers(
    broadcast_each,
    lambda vec, a, i, step, size: _sized(size, _check(vec, a, i, step)),
)
def _broadcast_each(context, builder, sig, args):
    vec, size = sig.return_type, sig.args[4].literal_value
    constant = getattr(sig.args[3], "literal_value", 2 * vec.lanes)
    parts, p = _parts_of(vec.lanes, size), _pointer(context, builder, sig, args, 1, vec.element)
    extent = int(parts[-1]) * constant + 1
    if 1 < extent <= 2 * vec.lanes:
        return _chosen(builder, *_loaded(builder, p, extent, vec), parts * constant)
    step = context.cast(builder, args[3], sig.args[3], types.intp)
    values = ir.Constant(ir.VectorType(vec.element, int(parts[-1]) + 1), ir.Undefined)
    for g in range(values.type.count):
        x = builder.load(builder.gep(p, [builder.mul(step, step.type(g))]))
        values = builder.insert_element(values, x, _i32(g))
    return _chosen(builder, values, values, parts)


def _loaded(builder, p, extent, vec):
    """Two vectors whose elements, side by side, begin with the `extent` ones at `p`."""
    span = min(vec.lanes, 1 << (extent - 1).bit_length())
    low = _load_first(builder, p, min(extent, span), vec, span)
    if extent <= span:
        return low, low
    behind = builder.gep(p, [ir.IntType(64)(span)])
    return low, _load_first(builder, behind, extent - span, vec, span)


def _load_first(builder, p, n, vec, lanes):
    """The first n of so many lanes, as a load of all of them where n says so."""
    mask = ir.Constant(ir.VectorType(_i1, lanes), [int(lane < n) for lane in range(lanes)])
    return _masked_load(builder, p, mask, ir.VectorType(vec.element, lanes), vec.dtype.itemsize)


def repeat(v, j, size):
    """v[j], v[size + j], v[2*size + j], ..., each in `size` lanes, the last in what is left, too;
    j and size are constants."""
    return v[_parts_of(len(v), size) * size + j]


@lowers(repeat, lambda v, j, size: _sized(size, v, j))
def _repeat(context, builder, sig, args):
    j, size = (sig.args[i].literal_value for i in (1, 2))
    return _chosen(builder, args[0], args[0], _parts_of(sig.args[0].lanes, size) * size + j)


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


def _chosen(builder, v, u, lanes):
    """The vector of these lanes of `v` and `u`, side by side."""
    return builder.shuffle_vector(
        v, u, ir.Constant(ir.VectorType(_i32, len(lanes)), [*map(int, lanes)])
    )


def fma(a, b, c):
    """a * b + c lane by lane; rounded once where the processor has such an instruction."""
    return a * b + c


@lowers(fma, lambda a, b, c: c if a == b == c and isinstance(c, Vec) else None)
def _fma(context, builder, sig, args):
    vec = sig.return_type
    name = f"llvm.fmuladd.v{vec.lanes}f{8 * vec.dtype.itemsize}"
    return _intrinsic(builder, name, vec.llvm, list(args))


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
    order = [int(i) for i in word(lanes[: vec.lanes], lanes[vec.lanes :])]
    return builder.shuffle_vector(*args, ir.Constant(ir.VectorType(_i32, vec.lanes), order))


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
        low, high = (
            builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(_i32, lanes), list(order)))
            for order in (range(lanes), range(lanes, 2 * lanes))
        )
        v = builder.fadd(low, high)
    return builder.extract_element(v, _i32(0))


def store(v, a, i):
    """Write the lanes of `v` to `a`, from a[i] on."""
    a[i : i + len(v)] = v


@lowers(store, lambda v, a, i: _check(v, a, i, writes=True) and types.void)
def _store(context, builder, sig, args):
    vec = sig.args[0]
    s = builder.store(args[0], _pointer(context, builder, sig, args, 1, vec.llvm))
    s.align = vec.dtype.itemsize
    return context.get_dummy_value()


def prefetch(vec, a, i):
    """Have the cache line of a[i] brought to L1, to be written if `a` can be; a hint, for any
    offset."""
    return


@lowers(prefetch, lambda vec, a, i: _check(vec, a, i) and types.void)
def _prefetch(context, builder, sig, args):
    p = _pointer(context, builder, sig, args, 1, ir.IntType(8))
    hints = [_i32(int(sig.args[1].mutable)), _i32(3), _i32(1)]  # to write or read, to L1, data
    _intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), [p, *hints])
    return context.get_dummy_value()


def store_n(v, a, i, n):
    """Write the first n lanes of `v` to a[i], ..., a[i+n-1] and nothing behind them; n may be
    less than 0, none, or more than there are, all."""
    n = max(0, min(n, len(v)))
    a[i : i + n] = v[:n]


@lowers(store_n, lambda v, a, i, n: _check(v, a, i, n, writes=True) and types.void)
def _store_n(context, builder, sig, args):
    vec = sig.args[0]
    p = _pointer(context, builder, sig, args, 1, vec.llvm)
    mask = _first_lanes(context, builder, args[3], sig.args[3], vec.lanes)
    name = f"llvm.masked.store.v{vec.lanes}f{8 * vec.dtype.itemsize}.p0"
    _intrinsic(builder, name, ir.VoidType(), [args[0], p, _i32(vec.dtype.itemsize), mask])
    return context.get_dummy_value()


def fetch_add(a, i, n):
    """a[i], to which n is then added; no other thread gets the same value."""
    before = a[i]
    a[i] += n
    return before


@lowers(fetch_add, lambda a, i, n: _check_counter(a, i, n))
def _fetch_add(context, builder, sig, args):
    p = _pointer(context, builder, sig, args, 0, context.get_value_type(types.int64))
    n = context.cast(builder, args[2], sig.args[2], types.int64)
    return builder.atomic_rmw("add", p, n, "monotonic")


def _check_counter(a, *integers):
    """The typing rule of `fetch_add`; returns the type of a counter."""
    flat = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C" and a.mutable
    if (
        not flat
        or a.dtype != types.int64
        or not all(isinstance(i, types.Integer) for i in integers)
    ):
        raise TypingError(f"a counter is an element of a flat int64 array, got {a}, {integers}")
    return types.int64
