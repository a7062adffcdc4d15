"""WAVE files, read piece by piece as (1, frames, channels) of floats.

Samples are integers of b bits, divided by 2**(b - 1); those of 8 bits are unsigned, 128 being zero.
The standard library's `wave` reads neither floats nor, before Python 3.12, the extensible format
that many recorders write for 24 bits.  RF64, the form for more than 4 GB, is read too.

References: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, 1991;
EBU Tech 3306, MBWF / RF64, 2009.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlxconv.cli.errors import BadInput
from mlxconv.cli.sources import read_elements
from mlxconv.parameters import Ints

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
UNKNOWN_SIZE = (
    0xFFFFFFFF  # RF64: see the ds64 chunk; else written to a pipe, to the end of the file
)

# (format, bytes per sample) -> type in the file
SAMPLES: dict[tuple[int, int], np.dtype] = {
    (PCM, 1): np.dtype("u1"),
    (PCM, 2): np.dtype("<i2"),
    (PCM, 3): np.dtype("u1"),  # three to a sample
    (PCM, 4): np.dtype("<i4"),
    (FLOAT, 4): np.dtype("<f4"),
    (FLOAT, 8): np.dtype("<f8"),
}

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


class Sound(NamedTuple):
    """Where the samples lie and what they are."""

    format: int
    width: int  # bytes per sample
    channels: int
    offset: int
    size: int  # bytes of all samples


class WavSource:
    """The samples of a .wav file as (1, frames, channels)."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        try:
            self._sound = sound = _sound(path, file)
        except struct.error as error:
            raise BadInput(f"{path}: not a .wav file that can be read: {error}") from error
        frames = sound.size // (sound.width * sound.channels)
        self.shape: Ints = (1, frames, sound.channels)
        self.dtype = np.dtype(np.float64 if (sound.format, sound.width) == (FLOAT, 8) else "f4")

    def read(self, n0: int, n1: int, first: int, last: int) -> np.ndarray:
        sound = self._sound
        kind = SAMPLES[sound.format, sound.width]
        at = sound.offset + first * sound.channels * sound.width
        size = (last - first) * sound.channels * sound.width
        raw = read_elements(self._file, at, size // kind.itemsize, kind)
        return decoded(raw, sound).reshape(n1 - n0, last - first, sound.channels)


def decoded(raw: np.ndarray, sound: Sound) -> np.ndarray:
    """Samples as floats; integers end up in [-1, 1)."""
    if sound.format == FLOAT:
        return raw
    if sound.width == 3:  # the upper three bytes of an int32
        wide = np.zeros((raw.size // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        raw = wide.view("<i4")[:, 0]
    y = raw.astype(np.float32)
    if sound.width == 1:
        y -= 128
    y /= 2.0 ** (8 * raw.itemsize - 1)
    # the largest of 32 bits have no float32 of their own and round to 1
    return np.minimum(y, BELOW_ONE, out=y) if sound.width == 4 else y


def _sound(path: Path, file: BinaryIO) -> Sound:
    """Walk the chunks of a RIFF file up to its samples."""
    end = os.fstat(file.fileno()).st_size
    file.seek(0)
    if len(start := file.read(12)) < 12 or start[8:] != b"WAVE":
        raise BadInput(f"{path}: a RIFF file, but not a .wav")
    at, kind, long_size = 12, None, UNKNOWN_SIZE
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        at += 8
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16))[0]
        elif name == b"fmt ":
            kind = _kind(path, file.read(min(size, 40)))
        elif name == b"data":
            if kind is None:
                break
            if size == UNKNOWN_SIZE:
                size = end - at if long_size == UNKNOWN_SIZE else long_size
            if at + size > end:
                raise BadInput(f"{path}: cut short: {size} bytes of samples, {end - at} are there")
            return Sound(*kind, at, size)
        at += size + size % 2  # chunks begin at even places
    raise BadInput(f"{path}: not a .wav file that can be read: no format or no samples")


def _kind(path: Path, chunk: bytes) -> tuple[int, int, int]:
    """(format, bytes per sample, channels) from a format chunk."""
    format, channels, frame_bytes = struct.unpack_from("<HH8xH", chunk)
    if format == EXTENSIBLE:
        (format,) = struct.unpack_from("<H", chunk, 24)
    width = frame_bytes // channels if channels else 0
    if (format, width) not in SAMPLES or width * channels != frame_bytes:
        raise BadInput(
            f"{path}: samples of format {format} in frames of {channels} channels and "
            f"{frame_bytes} bytes; PCM of 8, 16, 24 or 32 bits and floats can be read"
        )
    return format, width, channels
