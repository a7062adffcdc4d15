"""A SIMD register as a Numba type: f32x16, f32x8, f32x4, f64x8, f64x4, f64x2.

The type is the only thing a kernel needs to know about the width of the machine: the same source
compiled with f32x16 is AVX-512 code, with f32x8 AVX2 code, with f32x4 SSE or NEON code.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

LLVM_ELEMENT = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class Vec(types.Type):
    """A register of `lanes` elements of `dtype`, e.g. f32x8 (one AVX2 register)."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = np.dtype(dtype), lanes
        self.element = LLVM_ELEMENT[self.dtype.name]
        self.llvm = ir.VectorType(self.element, lanes)
        super().__init__(name=f"f{8 * self.dtype.itemsize}x{lanes}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        super().__init__(manager, vec, vec.llvm)


f32x16, f32x8, f32x4 = Vec("f4", 16), Vec("f4", 8), Vec("f4", 4)
f64x8, f64x4, f64x2 = Vec("f8", 8), Vec("f8", 4), Vec("f8", 2)

VECTORS = {vec.name: vec for vec in (f32x16, f32x8, f32x4, f64x8, f64x4, f64x2)}


def vec_of(dtype: str, vector_bytes: int) -> Vec:
    """The register of `dtype` elements that is `vector_bytes` wide."""
    itemsize = np.dtype(dtype).itemsize
    return VECTORS[f"f{8 * itemsize}x{vector_bytes // itemsize}"]
