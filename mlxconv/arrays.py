"""Anything NumPy can view -> ndarray, the type of the result, and memory as kernels see it."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

FLOATING = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
REAL_OF = {"complex64": "float32", "complex128": "float64"}  # a pair of these is one element
BITS = {"float16": "uint16", "bfloat16": "int16"}  # as which kernels see them, and tell them apart
CACHE_LINE_BYTES = 64


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as an ndarray, without a copy wherever NumPy can view its memory."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask a convolution would ignore; "
            f"pass {name}.filled(value) to say what masked elements are"
        )
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:  # whatever the other library raises, say which argument it was
        raise TypeError(
            f"{name} must be something NumPy can view as an array on the CPU, "
            f"got {type(value).__name__}: {error}"
        ) from error


def check_input_dtype(x: np.dtype) -> None:
    if x.name in FLOATING:
        return
    hint = " (hint: input.astype(numpy.float32) converts it)" if x.kind in "biuf" else ""
    raise ValueError(
        f"[conv] Invalid input array with type {x.name}. Convolution currently only "
        f"supports floating point types{hint}"
    )


@lru_cache
def result_dtype(x: np.dtype, w: np.dtype) -> str:
    """The name of the result's type: MLX's promotion, and NumPy's where a type is complex.

    float16 with bfloat16 gives float32; an integer weight takes the type of the input.
    """
    if w.kind in "biu" or w.name == x.name:
        return x.name
    if w.name not in FLOATING:
        raise ValueError(
            f"[conv] Invalid weight array with type {w.name}. Convolution currently only "
            "supports floating point types"
        )
    wide = [np.dtype("f4") if d.name == "bfloat16" else d for d in (x, w)]
    return np.result_type(*wide).name


def dtype_named(name: str) -> np.dtype:
    """The dtype called `name`; bfloat16 is ml_dtypes', which is there when such an array is."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return np.dtype(name)


def real_view(a: np.ndarray) -> np.ndarray:
    """A complex array as a real one with twice the channels; any other array as it is."""
    if a.dtype.kind != "c":
        return a
    a = native(a)
    if a.size == 0:
        return np.empty((*a.shape[:-1], 2 * a.shape[-1]), REAL_OF[a.dtype.name])
    if a.shape[-1] == 1:  # the stride of a single channel may be anything
        a = np.lib.stride_tricks.as_strided(a, a.shape, (*a.strides[:-1], a.itemsize))
    elif a.strides[-1] != a.itemsize:
        a = np.ascontiguousarray(a)  # pairs that are apart have no view as channels
    return a.view(REAL_OF[a.dtype.name])


def aligned_empty(size: int, dtype: str, boundary: int = CACHE_LINE_BYTES) -> np.ndarray:
    """`size` uninitialised elements that start at a cache line, so that no vector straddles two, or
    at a multiple of as many bytes.

    Panels that do not made `direct` 10 to 20 % slower."""
    if size == 0:
        return np.empty(0, dtype)
    itemsize = np.dtype(dtype).itemsize
    memory = np.empty(size * itemsize + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    return memory[start : start + size * itemsize].view(dtype)


def native(a: np.ndarray) -> np.ndarray:
    """`a` in the byte order of this machine."""
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


class Memory(NamedTuple):
    """An array as flat memory: element (i, j, ...) is flat[offset + i*strides[0] + j*...]."""

    flat: np.ndarray  # 1-D, C-contiguous, read-only; half types as bits
    offset: int  # in elements
    strides: tuple[int, ...] | None  # in elements; None: those of a C-contiguous array


def memory_of(a: np.ndarray) -> Memory:
    """The memory `a` lies in, wherever its axes run, so that any layout is one Numba type.

    Only byte-swapped, misaligned or oddly spaced elements are copied, since no kernel reads them.
    """
    a = native(a)
    if a.flags.c_contiguous and a.flags.aligned:
        return Memory(_readonly(a.reshape(-1)), 0, None)
    itemsize = a.itemsize
    if not a.flags.aligned or any(step % itemsize for step in a.strides):
        return Memory(_readonly(np.ascontiguousarray(a).reshape(-1)), 0, None)
    steps = tuple(step // itemsize for step in a.strides)
    low = a[tuple(slice(None, None, -1 if step < 0 else 1) for step in steps)]
    extent = 1 + sum((n - 1) * abs(step) for n, step in zip(a.shape, steps, strict=True))
    offset = sum((n - 1) * -step for n, step in zip(a.shape, steps, strict=True) if step < 0)
    flat = np.lib.stride_tricks.as_strided(low, (extent,), (itemsize,), writeable=False)
    return Memory(_readonly(flat), offset, steps)


def lying(view: np.ndarray, base: np.ndarray) -> Memory:
    """How `view` lies in the C-contiguous array `base`, whose memory it is a view of."""
    start = (view.ctypes.data - base.ctypes.data) // base.itemsize
    if start == 0 and view.flags.c_contiguous:
        return Memory(base, 0, None)
    return Memory(base, start, tuple(step // base.itemsize for step in view.strides))


def _readonly(flat: np.ndarray) -> np.ndarray:
    flat = flat.view(BITS.get(flat.dtype.name, flat.dtype))
    flat.flags.writeable = False
    return flat
