"""How a word becomes LLVM: what the files of words share."""

import inspect

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import lower_builtin, type_callable

from mlxconv.simd.halves import may_hold
from mlxconv.simd.vector import Vec

i1, i32, i64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def lowers(word, result):
    """Attach the decorated code generator to `word`; `result` types it from its argument types."""

    def attach(codegen):
        def typer(*args):
            return result(*(getattr(a, "instance_type", a) for a in args))

        typer.__signature__ = inspect.signature(word)
        type_callable(word)(lambda context: typer)
        lower_builtin(word, types.VarArg(types.Any))(codegen)

    return attach


def check(vec, a, *integers, writes=False):
    """The typing rule all memory words share; returns `vec`.  Elements may be of a type that lanes
    are widened from, or rounded to."""
    if not isinstance(vec, Vec):
        raise TypingError(f"expected a vector type, got {vec}")
    flat = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C"
    if not flat or not may_hold(str(a.dtype), vec.dtype.name):
        raise TypingError(f"{vec} needs a flat C-contiguous {vec.dtype} array, got {a}")
    if writes and not a.mutable:
        raise TypingError(f"cannot store {vec} to the read-only {a}")
    for i in integers:
        if not isinstance(i, types.Integer):
            raise TypingError(f"an offset or count of lanes is an integer, got {i}")
    return vec


def check_counter(a, *integers):
    """The typing rule of words on counters; returns the type of one."""
    flat = isinstance(a, types.Array) and a.ndim == 1 and a.layout == "C" and a.mutable
    if (
        not flat
        or a.dtype != types.int64
        or not all(isinstance(i, types.Integer) for i in integers)
    ):
        raise TypingError(f"a counter is an element of a flat int64 array, got {a}, {integers}")
    return types.int64


def pointer(context, builder, sig, args, position, pointee):
    """&a[i] as a pointer to `pointee`, where a and i are the arguments from `position` on."""
    array = context.make_array(sig.args[position])(context, builder, args[position])
    i = context.cast(builder, args[position + 1], sig.args[position + 1], types.intp)
    return builder.bitcast(builder.gep(array.data, [i]), pointee.as_pointer())


def splat(builder, scalar, vector):
    undef = ir.Constant(vector, ir.Undefined)
    first = ir.Constant(ir.VectorType(i32, vector.count), None)
    return builder.shuffle_vector(builder.insert_element(undef, scalar, i32(0)), undef, first)


def choose(builder, v, u, lanes):
    """The vector of these lanes of `v` and `u`, side by side."""
    order = ir.Constant(ir.VectorType(i32, len(lanes)), [*map(int, lanes)])
    return builder.shuffle_vector(v, u, order)


def first_lanes(context, builder, n, n_type, lanes):
    """The mask whose lanes 0 .. n-1 are set."""
    vector = ir.VectorType(i32, lanes)
    n = splat(builder, context.cast(builder, n, n_type, types.int32), vector)
    return builder.icmp_signed("<", ir.Constant(vector, list(range(lanes))), n)


def intrinsic(builder, name, returns, arguments):
    function = ir.FunctionType(returns, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def masked_load(builder, p, mask, vector):
    p = builder.bitcast(p, vector.as_pointer())
    arguments = [p, i32(size_of(vector)), mask, ir.Constant(vector, None)]
    return intrinsic(builder, f"llvm.masked.load.{mangled(vector)}.p0", vector, arguments)


def mangled(vector):
    """The name of this type in those of intrinsics."""
    kind = "i" if isinstance(vector.element, ir.IntType) else "f"
    return f"v{vector.count}{kind}{8 * size_of(vector)}"


def size_of(vector):
    """Bytes of an element."""
    return {"i16": 2, "float": 4, "double": 8}[str(vector.element)]
