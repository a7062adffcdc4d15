"""Lanes of numbers that lie in memory in a narrower type: how words widen and round them.

Kernels see half types as bits: float16 as uint16, bfloat16 as int16.  Rounding is to nearest, ties
to even; subnormals, infinities and NaN are kept.  Processors without instructions for a type do it
in integer arithmetic, and so does AVX-512, whose instruction for bfloat16 makes zeros of
subnormals, for vectors that hold one, or a zero.
"""

import numpy as np
from llvmlite import ir

from mlxconv import processor
from mlxconv.arrays import BITS
from mlxconv.simd.vector import LLVM_ELEMENT


class _BFloat(ir.Type):
    """The type of bfloat16, which llvmlite lacks."""

    def _to_string(self):
        return "bfloat"


BFLOAT = _BFloat()


def may_hold(kept: str, lane: str) -> bool:
    """Whether memory of elements of the type `kept` may hold lanes of the type `lane`."""
    return kept == lane or (lane == "float32" and kept in BITS.values())


def widened(a: np.ndarray) -> np.ndarray:
    """A copy of the elements `a`, of bits the float32 that they stand for."""
    if a.dtype == np.int16:
        return (a.astype(np.int32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return a.view(np.float16).astype(np.float32) if a.dtype == np.uint16 else a.copy()


def rounded(v: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The lanes `v` as elements of this type, which may be bits."""
    if dtype == np.uint16:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return v.astype(np.float16).view(np.uint16)
    if dtype == np.int16:
        b = v.view(np.uint32)
        halfway = (b + np.uint32(0x7FFF) + ((b >> 16) & 1)) >> 16
        b = np.where(np.isnan(v), (b >> 16) | 0x40, halfway)
        return b.astype(np.uint16).view(np.int16)
    return v


def kept_as(dtype, lanes):
    """The LLVM type of so many elements of the Numba type `dtype`."""
    return ir.VectorType(LLVM_ELEMENT.get(str(dtype), ir.IntType(16)), lanes)


def widen(builder, v, dtype):
    """The elements `v`, of the Numba type `dtype`, as lanes."""
    name, floats = str(dtype), ir.VectorType(ir.FloatType(), v.type.count)
    if name == "int16":
        return builder.bitcast(_each(builder, "shl", _integers(builder, v), 16), floats)
    return _from_float16(builder, v, floats) if name == "uint16" else v


def narrow(builder, v, dtype):
    """The float32 lanes `v` rounded to the Numba type `dtype`, if that is another."""
    name = str(dtype)
    if name == "int16":
        return _to_bfloat16(builder, v)
    return _to_float16(builder, v) if name == "uint16" else v


def _integers(builder, v):
    """Bits, or those of float32, as integers of 32."""
    integers = ir.VectorType(ir.IntType(32), v.type.count)
    if isinstance(v.type.element, ir.IntType):
        return builder.zext(v, integers)
    return builder.bitcast(v, integers)


def _each(builder, operation, v, number):
    """`operation` of integers with the same number in each lane."""
    return getattr(builder, operation)(v, _all(v.type, number))


def _from_float16(builder, v, floats):
    if processor.converts_float16():
        return builder.fpext(builder.bitcast(v, _float16(v)), floats)
    b = _integers(builder, v)
    magnitude = _each(builder, "shl", _each(builder, "and_", b, 0x7FFF), 13)
    scale = _all(floats, 2.0**112)  # the biases: 127 - 15; exact
    value = _integers(builder, builder.fmul(builder.bitcast(magnitude, floats), scale))
    is_special = builder.icmp_unsigned(">=", magnitude, _all(b.type, 0x0F800000))  # Inf or NaN
    value = builder.or_(
        value, builder.select(is_special, _all(b.type, 0x7F800000), _all(b.type, 0))
    )
    sign = _each(builder, "shl", _each(builder, "and_", b, 0x8000), 16)
    return builder.bitcast(builder.or_(value, sign), floats)


def _to_float16(builder, v):
    halves = ir.VectorType(ir.IntType(16), v.type.count)
    if processor.converts_float16():
        return builder.bitcast(builder.fptrunc(v, _float16(v)), halves)
    b = _integers(builder, v)
    magnitude = _each(builder, "and_", b, 0x7FFFFFFF)
    sign = _each(builder, "and_", _each(builder, "lshr", b, 16), 0x8000)
    # subnormal: the sum's rounding leaves the result in its low bits
    sum_ = builder.fadd(builder.bitcast(magnitude, v.type), _all(v.type, 0.5))
    result = _each(builder, "and_", _integers(builder, sum_), 0x7FF)
    odd = _each(builder, "and_", _each(builder, "lshr", magnitude, 13), 1)
    normal = builder.add(_each(builder, "sub", magnitude, 0x38000000 - 0x0FFF), odd)
    normal = _each(builder, "lshr", normal, 13)  # 2**-14 and up: drop 13 bits, halfway to even
    for least, those in (
        (0x38800000, normal),
        (0x477FF000, _all(b.type, 0x7C00)),  # 65520 and up: infinity
        (0x7F800001, _all(b.type, 0x7E00)),  # NaN
    ):
        reached = builder.icmp_unsigned(">=", magnitude, _all(b.type, least))
        result = builder.select(reached, those, result)
    return builder.trunc(builder.or_(result, sign), halves)


def _to_bfloat16(builder, v):
    if not processor.rounds_to_bfloat16():
        return _to_bfloat16_by_integers(builder, v)
    exponents = _each(builder, "and_", _integers(builder, v), 0x7F800000)
    is_small = builder.icmp_unsigned("==", exponents, _all(exponents.type, 0))  # 0, or subnormal
    any_small = builder.bitcast(is_small, ir.IntType(v.type.count))
    any_small = builder.icmp_unsigned("!=", any_small, any_small.type(0))
    with builder.if_else(any_small, likely=False) as (by_integers, by_instruction):
        with by_integers:
            exact, after_integers = _to_bfloat16_by_integers(builder, v), builder.block
        with by_instruction:
            fast = builder.fptrunc(v, ir.VectorType(BFLOAT, v.type.count))
            fast, after_instruction = builder.bitcast(fast, exact.type), builder.block
    result = builder.phi(exact.type)
    result.add_incoming(exact, after_integers)
    result.add_incoming(fast, after_instruction)
    return result


def _to_bfloat16_by_integers(builder, v):
    b = _integers(builder, v)
    upper = _each(builder, "lshr", b, 16)
    odd = _each(builder, "and_", upper, 1)
    result = _each(builder, "lshr", builder.add(_each(builder, "add", b, 0x7FFF), odd), 16)
    quiet = _each(builder, "or_", upper, 0x40)  # of a NaN, whose sign is kept
    result = builder.select(builder.fcmp_unordered("uno", v, v), quiet, result)
    return builder.trunc(result, ir.VectorType(ir.IntType(16), v.type.count))


def _float16(v):
    return ir.VectorType(ir.HalfType(), v.type.count)


def _all(vector, number):
    return ir.Constant(vector, [number] * vector.count)
