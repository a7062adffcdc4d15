"""Types of elements: as they lie in memory, and as kernels compute with them.

Kernels see half types as bits.  Words turn vectors of them into float32 and back, see
simd/halves.py; here is what does the same to a single element, in integer arithmetic, which any
processor has.  Rounding is to nearest, ties to even; subnormals, infinities and NaN are kept.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import types

from mlxconv.arrays import BITS
from mlxconv.simd.address import entry_point
from mlxconv.simd.static import kernel

_u32 = np.uint32  # Numba widens the sum of two uint32 to uint64, hence the casts below
_2p112 = np.float32(2.0**112)  # float32's exponent bias less float16's: 127 - 15
_HALF = np.float32(0.5)


@kernel
def from_float16(bits):
    """The float32 that the float16 `bits` stand for."""
    b = _u32(bits)
    magnitude = _u32((b & _u32(0x7FFF)) << _u32(13))
    value = np.float32(magnitude.view(np.float32) * _2p112)  # exact, subnormals included
    special = _u32(0x7F800000) if magnitude >= _u32(0x0F800000) else _u32(0)  # Inf or NaN
    sign = (b & _u32(0x8000)) << _u32(16)
    return _u32(value.view(np.uint32) | special | sign).view(np.float32)


@kernel
def to_float16(value):
    """`value`, a float32, rounded to the bits of a float16."""
    b = np.float32(value).view(np.uint32)
    magnitude = _u32(b & _u32(0x7FFFFFFF))
    sign = (b >> _u32(16)) & _u32(0x8000)
    # subnormal: the sum's rounding leaves the result in its low bits
    rounded = _u32(np.float32(magnitude.view(np.float32) + _HALF).view(np.uint32) & _u32(0x7FF))
    odd = (magnitude >> _u32(13)) & _u32(1)  # 2**-14 and up: drop 13 bits, halfway to even
    normal = _u32((magnitude - _u32(0x38000000) + _u32(0x0FFF) + odd) >> _u32(13))
    rounded = normal if magnitude >= _u32(0x38800000) else rounded
    rounded = _u32(0x7C00) if magnitude >= _u32(0x477FF000) else rounded  # 65520 and up: infinity
    rounded = _u32(0x7E00) if magnitude > _u32(0x7F800000) else rounded  # NaN
    return np.uint16(rounded | sign)


@kernel
def from_bfloat16(bits):
    """The float32 that the bfloat16 `bits` stand for: its upper half."""
    return _u32(_u32(bits) << _u32(16)).view(np.float32)


@kernel
def to_bfloat16(value):
    """`value`, a float32, rounded to the bits of a bfloat16."""
    b = np.float32(value).view(np.uint32)
    odd = (b >> _u32(16)) & _u32(1)
    rounded = _u32(b + _u32(0x7FFF) + odd) >> _u32(16)
    quiet = (b >> _u32(16)) | _u32(0x40)  # of a NaN, whose sign is kept
    is_nan = _u32(b & _u32(0x7FFFFFFF)) > _u32(0x7F800000)
    return np.int16(np.uint16(quiet if is_nan else rounded))


@kernel(inline="always")
def unchanged(value):
    """`value`: for inputs and outputs that are not of a half type."""
    return value


_WIDEN = {"float16": from_float16, "bfloat16": from_bfloat16}
_NARROW = {"float16": to_float16, "bfloat16": to_bfloat16}


@lru_cache
def converts_runs(convert):
    """convert_run for one of these conversions."""

    @kernel
    def convert_run(a, first, b, to, count):
        """b[to + i] = convert(a[first + i]) for i < count.  Offsets that may be less than 0 would
        keep LLVM from making vectors of it, and so do branches in the conversion."""
        first, to = np.uint64(first), np.uint64(to)
        for i in range(np.uint64(count)):
            b[to + i] = convert(a[first + i])

    return convert_run


@lru_cache
def _widens(name):
    widen_run = converts_runs(_WIDEN[name])

    @kernel(no_cpython_wrapper=False)
    def widen_all(a, b):
        widen_run(a, 0, b, 0, a.size)

    bits = types.Array(getattr(types, BITS[name]), 1, "C", readonly=True)
    return entry_point(widen_all, (bits, types.Array(types.float32, 1, "C")))


def converted(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`a` as a C-contiguous array of this type; half types are widened ten times as fast as by
    NumPy and ml_dtypes, which convert one element after the other."""
    a, name = np.ascontiguousarray(a), a.dtype.name
    if name in _WIDEN and a.dtype.isnative and a.dtype != dtype:
        wide = np.empty(a.shape, np.float32)
        _widens(name)(a, wide)
        a = wide
    return np.ascontiguousarray(a, dtype)


class Elements(NamedTuple):
    """The types of a real convolution: its input's, its output's, and the arithmetic's."""

    input: str
    output: str
    in_vectors: bool = False  # whether tiles read half types by vectors, which widen them

    @property
    def name(self) -> str:
        """What these types add to a kernel's name."""
        by = "_in_vectors" if self.window != self.dtype else ""
        return f"{self.input}{by}_to_{self.output}"

    @property
    def dtype(self) -> str:
        """The type of the arithmetic: float32 for the half types."""
        return "float32" if self.output in _NARROW else self.output

    @property
    def window(self) -> str:
        """The type of windows as tiles read them, in the input or a strip of it."""
        widens = self.in_vectors and self.dtype == "float32"
        return BITS.get(self.input, self.dtype) if widens else self.dtype

    def arrays(self) -> dict[str, str]:
        """The types of a call's flat arrays, by their name in Data."""
        return {
            "x": BITS.get(self.input, self.input),
            "w": BITS.get(self.output, self.output),
            "y": BITS.get(self.output, self.output),
            "panels": self.dtype,
            "scratch": self.dtype,
            "runs": "int64",
            "counters": "int64",
        }

    @property
    def widen(self):
        """The kernel that turns an element of the input into one of the arithmetic."""
        return _WIDEN.get(self.input, unchanged)

    @property
    def narrow(self):
        """The kernel that rounds a sum to an element of the output."""
        return _NARROW.get(self.output, unchanged)

    @property
    def widen_output(self):
        """The kernel that turns an element of the output, or of a filter, into one of the
        arithmetic."""
        return _WIDEN.get(self.output, unchanged)

    @property
    def converts(self) -> bool:
        """Whether the input must be converted, hence copied, before tiles can read it."""
        return BITS.get(self.input, self.input) != self.window

    @property
    def one_by_one(self) -> bool:
        """Whether it is converted so: no word widens elements to float64."""
        return self.converts and self.dtype == "float64"
