"""Types of elements: as they lie in memory, and as kernels compute with them.

Kernels see half types as bits and turn them into float32 and back in integer arithmetic:
processors without conversion instructions run these too; LLVM turns the loops they stand in into
vectors.  Rounding is to nearest, ties to even; subnormals, infinities and NaN are kept.
"""

from typing import NamedTuple

import numpy as np

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
    if magnitude > _u32(0x7F800000):  # NaN
        rounded = _u32(0x7E00)
    elif magnitude >= _u32(0x477FF000):  # 65520 and up: infinity
        rounded = _u32(0x7C00)
    elif magnitude >= _u32(0x38800000):  # 2**-14 and up: drop 13 bits, halfway to even
        odd = (magnitude >> _u32(13)) & _u32(1)
        rounded = _u32((magnitude - _u32(0x38000000) + _u32(0x0FFF) + odd) >> _u32(13))
    else:  # subnormal: the sum's rounding leaves the result in its low bits
        rounded = _u32(np.float32(magnitude.view(np.float32) + _HALF).view(np.uint32) & _u32(0x7FF))
    return np.uint16(rounded | sign)


@kernel
def from_bfloat16(bits):
    """The float32 that the bfloat16 `bits` stand for: its upper half."""
    return _u32(_u32(bits) << _u32(16)).view(np.float32)


@kernel
def to_bfloat16(value):
    """`value`, a float32, rounded to the bits of a bfloat16."""
    b = np.float32(value).view(np.uint32)
    if _u32(b & _u32(0x7FFFFFFF)) > _u32(0x7F800000):  # NaN: keep its sign and make it quiet
        return np.uint16((b >> _u32(16)) | _u32(0x40))
    odd = (b >> _u32(16)) & _u32(1)
    return np.uint16((b + _u32(0x7FFF) + odd) >> _u32(16))


@kernel(inline="always")
def unchanged(value):
    """`value`: for inputs and outputs that are not of a half type."""
    return value


_WIDEN = {"float16": from_float16, "bfloat16": from_bfloat16}
_NARROW = {"float16": to_float16, "bfloat16": to_bfloat16}


class Elements(NamedTuple):
    """The types of a real convolution: its input's, its output's, and the arithmetic's."""

    input: str
    output: str

    @property
    def name(self) -> str:
        """What these types add to a kernel's name."""
        return f"{self.input}_to_{self.output}"

    @property
    def dtype(self) -> str:
        """The type of the arithmetic: float32 for the half types."""
        return "float32" if self.output in _NARROW else self.output

    def arrays(self) -> dict[str, str]:
        """The types of a call's flat arrays, by their name in Data."""
        as_seen = dict.fromkeys(_WIDEN, "uint16")
        return {
            "x": as_seen.get(self.input, self.input),
            "w": self.dtype,
            "y": as_seen.get(self.output, self.output),
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
        """The kernel that turns an element of the output back into one of the arithmetic."""
        return _WIDEN.get(self.output, unchanged)

    @property
    def converts(self) -> bool:
        """Whether the input must be converted, hence copied, before vectors can be read from it."""
        return self.input != self.dtype

    @property
    def rounds(self) -> bool:
        """Whether sums are rounded to a narrower type on their way to the output."""
        return self.output != self.dtype
