"""Input files, read piece by piece: .npy here, .wav in wav.py.

Pieces are read, not mapped: a mapped page that cannot be read, because the file shrank or the disk
failed, ends the process with SIGBUS, while a read raises an error that cleans up.  A copy at the
speed of memory is little beside a convolution.
"""

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from mlxconv.arrays import dtype_named
from mlxconv.cli.errors import BadInput, Failed
from mlxconv.cli.output import as_bytes
from mlxconv.parameters import Ints

READERS: Any = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # differs in the names of fields, refused below
}


class Source(Protocol):
    """An array (N, L, C) in a file."""

    shape: Ints
    dtype: np.dtype

    def read(self, n0: int, n1: int, first: int, last: int) -> np.ndarray:
        """Rows [first, last) of images [n0, n1)."""


class Header(NamedTuple):
    """What a .npy file says about its array, and where that begins."""

    shape: Ints
    dtype: np.dtype
    fortran: bool
    offset: int


def regular_file(name: str) -> Path:
    """The path of an existing regular file, or BadInput."""
    path = Path(name)
    try:
        path.stat()
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}") from error
    except ValueError as error:  # a null byte in the name
        raise BadInput(f"{name!r}: {error}") from error
    if not path.is_file():
        raise BadInput(f"{name}: not a regular file")
    return path


def opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error


@contextmanager
def open_source(path: Path, bfloat16: bool) -> Iterator[Source]:
    """The array in `path`, open for the block."""
    with opened(path) as file:
        yield _source(path, file, bfloat16)


def _source(path: Path, file: BinaryIO, bfloat16: bool) -> Source:
    """The array in a file, told by its first bytes to be .npy or .wav."""
    magic = file.read(6)
    if magic[:4] in (b"RIFF", b"RF64"):
        from mlxconv.cli.wav import WavSource

        return WavSource(path, file)
    if magic == b"\x93NUMPY":
        header = read_header(path, bfloat16)
        return MappedSource(file, header) if header.fortran else NpySource(file, header)
    if magic[:2] == b"PK":
        raise BadInput(f"{path}: an archive, such as .npz; save one array with numpy.save")
    raise BadInput(f"{path}: neither a .npy nor a .wav file")


def read_header(path: Path, bfloat16: bool) -> Header:
    """The header of a .npy file, checked: no pickles, no records, no missing bytes."""
    with opened(path) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = READERS[version](file)
        except (ValueError, KeyError, EOFError) as error:
            reason = str(error).partition("\n")[0]
            raise BadInput(f"{path}: not a .npy file that can be read: {reason}") from error
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    dtype = _plain(path, dtype, bfloat16)
    if any(n < 0 for n in shape):
        raise BadInput(f"{path}: not a .npy file that can be read: shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if size - offset < expected:
        raise BadInput(
            f"{path}: cut short: {shape} {dtype.name} takes {expected} bytes, {size - offset} are "
            "there"
        )
    return Header(shape, dtype, fortran, offset)


def _plain(path: Path, dtype: np.dtype, bfloat16: bool) -> np.dtype:
    """`dtype` if it is one of numbers; bfloat16 for the void type NumPy saves it as, if asked."""
    if dtype.hasobject:
        raise BadInput(f"{path}: holds pickled Python objects, which are not loaded")
    if dtype.names is not None or dtype.subdtype is not None:
        raise BadInput(f"{path}: holds records of type {dtype}, not numbers")
    if dtype.kind != "V":
        return dtype
    if dtype.itemsize != 2:
        raise BadInput(f"{path}: holds elements of type {dtype}, not numbers")
    if not bfloat16:
        raise BadInput(
            f"{path}: holds two-byte elements without a name (V2); if they are bfloat16, which "
            "NumPy saves so, say --bfloat16"
        )
    try:
        return dtype_named("bfloat16")
    except ImportError as error:
        raise BadInput("--bfloat16 needs ml_dtypes: pip install ml_dtypes") from error


def read_array(path: Path, header: Header) -> np.ndarray:
    """All of a .npy file."""
    with opened(path) as file:
        flat = read_elements(file, header.offset, math.prod(header.shape), header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def read_elements(file: BinaryIO, offset: int, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` elements that begin at byte `offset`."""
    a = np.empty(count, dtype)
    view, done = as_bytes(a), 0
    file.seek(offset)
    while done < len(view):  # a read may give less than asked, 2 GB at most on Linux
        got = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise Failed(f"{file.name}: became shorter while it was read")
        done += got
    return a


class NpySource:
    """A C-ordered .npy file; rows are contiguous in it, and so are images."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.shape, self.dtype = header.shape, header.dtype
        self._file, self._offset = file, header.offset

    def read(self, n0: int, n1: int, first: int, last: int) -> np.ndarray:
        _, L, C = self.shape
        if n1 - n0 > 1:  # small images: one read of them all
            return self._rows(n0 * L, n1 * L).reshape(n1 - n0, L, C)[:, first:last]
        return self._rows(n0 * L + first, n0 * L + last)[None]

    def _rows(self, first: int, last: int) -> np.ndarray:
        rows, C = last - first, self.shape[-1]
        at = self._offset + first * C * self.dtype.itemsize
        return read_elements(self._file, at, rows * C, self.dtype).reshape(rows, C)


class MappedSource:
    """A Fortran-ordered .npy file.  What a piece needs is scattered all over it, so it is mapped
    after all, and the pages of a piece are given back once it is copied."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.shape, self.dtype = header.shape, header.dtype
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._array: np.ndarray = np.ndarray(
            header.shape, header.dtype, self._map, header.offset, order="F"
        )

    def read(self, n0: int, n1: int, first: int, last: int) -> np.ndarray:
        piece = np.array(self._array[n0:n1, first:last], order="C")
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return piece
