"""A file that appears when it is whole, or not at all."""

import errno
import io
import math
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from mlxconv.cli.errors import BadInput, Failed

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def destination(name: str, suffixes: tuple[str, ...], inputs: tuple[Path, ...] = ()) -> Path:
    """Where the output goes, symbolic links followed; BadInput if it must not go there."""
    path = Path(os.path.realpath(name))
    if Path(name).suffix.lower() not in suffixes:
        raise BadInput(f"{name}: the output must be a {' or '.join(suffixes)} file")
    if not path.parent.is_dir():
        raise BadInput(f"{name}: there is no folder {path.parent}")
    if not path.exists():
        return path
    if not path.is_file():
        raise BadInput(f"{name}: exists and is no regular file")
    if any(path.samefile(other) for other in inputs):
        raise BadInput(f"{name}: the output would overwrite an input")
    return path


@contextmanager
def whole_file(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file of `size` bytes to write; it takes the name `path` at the end, if nothing was raised.

    Until then it lies beside it under another name.  Its room on the disk is taken first.
    """
    temporary = path.parent / f".mlxconv-{secrets.token_hex(8)}.part"
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Failed(f"{path} needs {_mb(size)} and its disk has {_mb(free)} left")
    try:
        with _new(temporary, path) as file:
            _reserve(file, size)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise Failed(f"{path}: {error.strerror}; it needs {_mb(size)}") from error
        raise


def _new(temporary: Path, path: Path) -> BinaryIO:
    try:
        return open(temporary, "xb")
    except OSError as error:
        raise BadInput(f"{path}: cannot write in {path.parent}: {error.strerror}") from error


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the file's room on the disk now, where the system can: better to fail here than after
    an hour."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _FULL:
                raise  # any other: this file system cannot


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception does, so that it can clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = [n for n in known if signal.getsignal(n) is signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The first bytes of a .npy file of a C-contiguous array."""
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def array_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def as_bytes(a: np.ndarray) -> memoryview:
    """The memory of a C-contiguous array, whatever its type."""
    return a.reshape(-1).view(np.uint8).data


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
