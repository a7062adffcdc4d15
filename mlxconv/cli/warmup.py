"""`mlxconv warmup`: compile ahead, so that no later first call waits."""

import argparse
import time

import numpy as np

from mlxconv import cache
from mlxconv.api import conv1d
from mlxconv.arrays import FLOATING, dtype_named
from mlxconv.cli import progress
from mlxconv.stream import Stream


def run(options: argparse.Namespace) -> None:
    """Call every variant in every type once, on one thread and on all."""
    from mlxconv.dispatch import variants

    dtypes = available(FLOATING if options.all else tuple(options.dtype or ["float32"]))
    work = [(v, dtype) for dtype in dtypes for v in variants() if can(v, dtype)]
    start = time.perf_counter()
    with progress.bar("compiling", len(work), options.quiet, counts=True) as advance:
        for variant, dtype in work:
            call(variant, dtype)
            advance(1)
    print(
        f"{len(work)} combinations of a variant and a type are compiled"
        f" ({time.perf_counter() - start:.1f} s), in {cache.folder() or 'memory only: no cache'}"
    )


def available(dtypes: tuple[str, ...]) -> tuple[str, ...]:
    """Those types that NumPy knows here: bfloat16 comes with ml_dtypes."""
    try:
        dtype_named("bfloat16")
    except ImportError:
        return tuple(dtype for dtype in dtypes if dtype != "bfloat16")
    return dtypes


def can(variant: str, dtype: str) -> bool:
    """Complex numbers are pairs of real channels, which depthwise, with one a group, refuses."""
    return not (variant == "depthwise" and dtype.startswith("complex"))


def call(variant: str, dtype: str) -> None:
    """A convolution that any variant can compute, just large enough to be shared by threads."""
    x = np.ones((1, 8000, 64), dtype_named(dtype))
    w = np.ones((64, 31, 1), x.dtype)
    for stream in (Stream(threads=1), Stream()):
        conv1d(x, w, groups=64, stream=stream, variant=variant)
