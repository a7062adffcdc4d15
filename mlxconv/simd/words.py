"""SIMD vocabulary: the words kernels are written in.

Every word has a *meaning*, a line of NumPy that runs under NUMBA_DISABLE_JIT=1 and that the tests
compare with, and right below it a *lowering*, the LLVM it becomes.  `a` is always a flat (1-D,
C-contiguous) array of the vector's element type, or of one that is widened to it when read, or
that it is rounded to when written, see halves.py; `i` is an offset in elements.  Both are checked
when a kernel is compiled, so that a float64 array can never be read as float32.  Offsets are
neither bounds-checked nor wrapped around.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError

from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES
from mlxconv.simd.halves import kept_as, narrow, rounded, widen, widened
from mlxconv.simd.lowering import (
    check,
    check_counter,
    choose,
    first_lanes,
    i32,
    i64,
    intrinsic,
    lowers,
    mangled,
    masked_load,
    pointer,
    size_of,
    splat,
)
from mlxconv.simd.vector import Vec


def zero(vec):
    """0 in every lane."""
    return np.zeros(vec.lanes, vec.dtype)


@lowers(zero, lambda vec: vec)
def _zero(context, builder, sig, args):
    return ir.Constant(sig.return_type.llvm, None)


def load(vec, a, i):
    """The `vec.lanes` consecutive elements of `a` that start at a[i]."""
    return widened(a[i : i + vec.lanes])


@lowers(load, lambda vec, a, i: check(vec, a, i))
def _load(context, builder, sig, args):
    vec, dtype = sig.return_type, sig.args[1].dtype
    kept = kept_as(dtype, vec.lanes)
    v = builder.load(pointer(context, builder, sig, args, 1, kept))
    v.align = size_of(kept)
    return widen(builder, v, dtype)


def load_n(vec, a, i, n):
    """a[i], ..., a[i+n-1] in the first n lanes, 0 in the others; touches no memory behind them."""
    n = max(0, min(n, vec.lanes))
    v = np.zeros(vec.lanes, vec.dtype)
    v[:n] = widened(a[i : i + n])
    return v


@lowers(load_n, lambda vec, a, i, n: check(vec, a, i, n))
def _load_n(context, builder, sig, args):
    vec, dtype = sig.return_type, sig.args[1].dtype
    kept = kept_as(dtype, vec.lanes)
    p = pointer(context, builder, sig, args, 1, kept)
    mask = first_lanes(context, builder, args[3], sig.args[3], vec.lanes)
    return widen(builder, masked_load(builder, p, mask, kept), dtype)


def broadcast(vec, a, i):
    """a[i] in every lane."""
    return np.full(vec.lanes, widened(a[i : i + 1]))


@lowers(broadcast, lambda vec, a, i: check(vec, a, i))
def _broadcast(context, builder, sig, args):
    vec, dtype = sig.return_type, sig.args[1].dtype
    kept = kept_as(dtype, vec.lanes)
    x = builder.load(pointer(context, builder, sig, args, 1, kept.element))
    return widen(builder, splat(builder, x, kept), dtype)


def fma(a, b, c):
    """a * b + c lane by lane; rounded once where the processor has such an instruction."""
    return a * b + c


@lowers(fma, lambda a, b, c: c if a == b == c and isinstance(c, Vec) else None)
def _fma(context, builder, sig, args):
    vec = sig.return_type
    return intrinsic(builder, f"llvm.fmuladd.{mangled(vec.llvm)}", vec.llvm, list(args))


def store(v, a, i):
    """Write the lanes of `v` to `a`, from a[i] on."""
    a[i : i + len(v)] = rounded(v, a.dtype)


@lowers(store, lambda v, a, i: check(v, a, i, writes=True) and types.void)
def _store(context, builder, sig, args):
    v = narrow(builder, args[0], sig.args[1].dtype)
    _written(builder, v, pointer(context, builder, sig, args, 1, v.type))
    return context.get_dummy_value()


def _written(builder, v, p):
    """The instruction that writes a vector, whole elements of which are aligned."""
    s = builder.store(v, builder.bitcast(p, v.type.as_pointer()))
    s.align = size_of(v.type)
    return s


def stream(v, a, i):
    """As `store`, past the caches, for what is not read again soon; a[i] lies at a multiple of the
    bytes that are written."""
    store(v, a, i)


@lowers(stream, lambda v, a, i: check(v, a, i, writes=True) and types.void)
def _stream(context, builder, sig, args):
    v = narrow(builder, args[0], sig.args[1].dtype)
    s = _written(builder, v, pointer(context, builder, sig, args, 1, v.type))
    s.align *= v.type.count
    s.set_metadata("nontemporal", builder.module.add_metadata([i32(1)]))
    return context.get_dummy_value()


def starts_line(vec, a, i):
    """Whether a cache line starts at a[i]."""
    return (a.ctypes.data + i * a.itemsize) % CACHE_LINE_BYTES == 0


@lowers(starts_line, lambda vec, a, i: check(vec, a, i) and types.boolean)
def _starts_line(context, builder, sig, args):
    p = builder.ptrtoint(pointer(context, builder, sig, args, 1, ir.IntType(8)), i64)
    rest = builder.and_(p, ir.Constant(i64, CACHE_LINE_BYTES - 1))
    return builder.icmp_unsigned("==", rest, ir.Constant(i64, 0))


def prefetch(vec, a, i):
    """Have the cache line of a[i] brought to L1, to be written if it may be; a hint, for any
    offset."""
    return


@lowers(prefetch, lambda vec, a, i: check(vec, a, i) and types.void)
def _prefetch(context, builder, sig, args):
    p = pointer(context, builder, sig, args, 1, ir.IntType(8))
    hints = [i32(int(sig.args[1].mutable)), i32(3), i32(1)]  # whether to write, to L1, data
    intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), [p, *hints])
    return context.get_dummy_value()


def prefetch_at(address):
    """Have the cache line at this address brought to L1, to be read; a hint, for any address."""
    return


@lowers(prefetch_at, lambda address: _check_address(address))
def _prefetch_at(context, builder, sig, args):
    address = context.cast(builder, args[0], sig.args[0], types.intp)
    p = builder.inttoptr(address, ir.IntType(8).as_pointer())
    intrinsic(builder, "llvm.prefetch.p0", ir.VoidType(), [p, i32(0), i32(3), i32(1)])
    return context.get_dummy_value()


def _check_address(address):
    """The typing rule of `prefetch_at`."""
    if not isinstance(address, types.Integer):
        raise TypingError(f"an address is an integer, got {address}")
    return types.void


def store_n(v, a, i, n):
    """Write the first n lanes of `v` to a[i], ..., a[i+n-1] and nothing behind them; n may be
    less than 0, none, or more than there are, all."""
    n = max(0, min(n, len(v)))
    a[i : i + n] = rounded(v[:n], a.dtype)


@lowers(store_n, lambda v, a, i, n: check(v, a, i, n, writes=True) and types.void)
def _store_n(context, builder, sig, args):
    v = narrow(builder, args[0], sig.args[1].dtype)
    p = pointer(context, builder, sig, args, 1, v.type.element)
    if processor.masks_stores():
        mask = first_lanes(context, builder, args[3], sig.args[3], v.type.count)
        name, p = f"llvm.masked.store.{mangled(v.type)}.p0", builder.bitcast(p, v.type.as_pointer())
        intrinsic(builder, name, ir.VoidType(), [v, p, i32(size_of(v.type)), mask])
        return context.get_dummy_value()
    n = context.cast(builder, args[3], sig.args[3], types.int64)
    n = builder.select(builder.icmp_signed("<", n, i64(0)), i64(0), n)
    is_whole = builder.icmp_signed(">=", n, i64(v.type.count))
    with builder.if_else(is_whole) as (whole, in_pieces):
        with whole:
            _written(builder, v, p)
        with in_pieces:
            _pieces_written(builder, v, p, n)
    return context.get_dummy_value()


def _pieces_written(builder, v, p, n):
    """Write the first n lanes, fewer than there are: halves of a half of a half, by the bits of n.
    On AMD's Zen 3 a masked store takes 12 cycles, four of those."""
    while (size := v.type.count // 2) > 0:
        low, high = (choose(builder, v, v, range(at, at + size)) for at in (0, size))
        taken = builder.and_(n, i64(size))
        takes = builder.icmp_unsigned("!=", taken, i64(0))
        with builder.if_then(takes):
            _written(builder, low, p)
        v, p = builder.select(takes, high, low), builder.gep(p, [taken])


def fetch_add(a, i, n):
    """a[i], to which n is then added; no other thread gets the same value."""
    before = a[i]
    a[i] += n
    return before


@lowers(fetch_add, lambda a, i, n: check_counter(a, i, n))
def _fetch_add(context, builder, sig, args):
    p = pointer(context, builder, sig, args, 0, context.get_value_type(types.int64))
    n = context.cast(builder, args[2], sig.args[2], types.int64)
    return builder.atomic_rmw("add", p, n, "monotonic")
