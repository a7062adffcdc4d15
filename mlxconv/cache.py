"""Compiled kernels on disk: one file per kernel and signature, never trusted, never in the way.

Numba's own cache serves stale code when a helper in another file changes, and raises where it
cannot write.  This one keeps its files in a folder named by a digest of all that kernels are made
of, kernels/ and simd/, and of Numba, LLVM and Python.  It names each file by the kernel, its
options, its signature and the processor.  A file is written aside and renamed, and read back only
if its checksum and its owner are right and it holds the key it is named by.  Whatever goes wrong,
the kernel is compiled again.

MLXCONV_CACHE_DIR moves the folder; set to an empty string it switches the cache off.
"""

import hashlib
import os
import pickle
import shutil
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlxconv import notice

KEEP_DAYS = 30  # folders of other versions, unused for longer, are removed
_DIGEST_BYTES = 32

try:  # a private interface of Numba: where it has changed, kernels are not cached
    from numba.core import caching as _numba
except ImportError:
    _numba = None


def attach(dispatcher: Any, options: dict[str, Any]) -> Any:
    """Let `dispatcher`, a kernel of this package, load and save its compiled code; returns it."""
    notice.watch()
    ours = dispatcher.__module__.startswith(
        f"{__package__}."
    )  # others' sources are not in a digest
    if ours and _numba is not None and hasattr(dispatcher, "_cache") and folder() is not None:
        dispatcher._cache = _KernelCache(f"{dispatcher.__module__}.{dispatcher.__name__}", options)
    return dispatcher


@lru_cache(1)
def folder() -> Path | None:
    """The folder of this version's compiled kernels; None where the cache is off."""
    chosen = os.environ.get("MLXCONV_CACHE_DIR")
    if chosen == "":
        return None
    if chosen is not None:
        return Path(chosen) / _sources_digest()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    return Path(base) / "mlxconv" / _sources_digest()


@lru_cache(1)
def _sources_digest() -> str:
    """Names all that compiled code is made of: the kernels, the words, and the compiler."""
    import llvmlite
    import numba
    import numpy

    versions = (sys.version, numba.__version__, llvmlite.__version__, numpy.__version__)
    digest = hashlib.sha256(repr(versions).encode())
    package = Path(__file__).parent
    for source in sorted([*package.glob("kernels/*.py"), *package.glob("simd/*.py")]):
        digest.update(source.relative_to(package).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class _KernelCache:
    """What a Numba dispatcher asks of a cache, for one kernel."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._kernel = repr((name, sorted(options.items())))

    @property
    def cache_path(self) -> str:
        return str(folder())

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for `sig`, or None."""
        try:
            key = self._key(sig, target_context.codegen())
            body = _read(self._path(key))
            if body is None:
                return None
            held, reduced = pickle.loads(body)
            if held != key:  # another kernel's file under this one's name
                return None
            return _numba.CompileResultCacheImpl.rebuild(self, target_context, reduced)
        except Exception:  # truncated, of another Numba, unreadable: compile again
            return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        try:
            if cres.library.has_dynamic_globals:
                return
            key = self._key(sig, cres.library.codegen)
            _write(self._path(key), _numba.dumps((key, cres._reduce())))
        except Exception:  # a full disk, a read-only home: the kernel works all the same
            return

    def _key(self, sig: Any, codegen: Any) -> tuple[str, ...]:
        """All that tells one compiled kernel of this folder from another.  Types go by their names:
        the repr of an array's is that of any subclass."""
        return self._kernel, ", ".join(map(str, sig)), repr(codegen.magic_tuple())

    def _path(self, key: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return Path(self.cache_path) / f"{digest[:40]}.kernel"


def _read(path: Path) -> bytes | None:
    """The file's content, if it is ours and whole."""
    with open(path, "rb") as file:
        if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
            return None
        blob = file.read()
    digest, body = blob[:_DIGEST_BYTES], blob[_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def _write(path: Path, body: bytes) -> None:
    """Write to a file of its own, then rename: a reader sees all of it or none."""
    if not path.parent.exists():
        for place in (path.parent.parent, path.parent):  # the mode is that of the last one only
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_old(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _remove_old(current: Path) -> None:
    """Remove the folders of other versions that nobody has used for a while."""
    horizon = time.time() - KEEP_DAYS * 86400
    for other in current.parent.iterdir():
        ours = other.is_dir() and len(other.name) == len(current.name)
        if ours and other != current and other.stat().st_mtime < horizon:
            shutil.rmtree(other, ignore_errors=True)
