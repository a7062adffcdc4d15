"""`mlxconv warmup`: compile ahead, so that no later first call waits."""

import argparse
import time

import numpy as np

from mlxconv import cache
from mlxconv.api import conv1d
from mlxconv.arrays import FLOATING, dtype_named
from mlxconv.cli import progress
from mlxconv.problem import Parameters, problem_of
from mlxconv.stream import Stream

CHANNELS, TAPS = 64, 31


def run(options: argparse.Namespace) -> None:
    """Call every variant in every type once, on one thread and on all."""
    dtypes = available(FLOATING if options.all else tuple(options.dtype or ["float32"]))
    work = [(variant, dtype) for dtype in dtypes for variant in able(dtype)]
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


def arrays(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A depthwise convolution just large enough to be shared by threads."""
    from mlxconv.threads import WORTH_SHARING

    rows = int(max(WORTH_SHARING.values()) / (2 * CHANNELS * TAPS)) + TAPS
    x = np.ones((1, rows, CHANNELS), dtype_named(dtype))
    return x, np.ones((CHANNELS, TAPS, 1), x.dtype)


def able(dtype: str) -> tuple[str, ...]:
    """The variants that can compute it."""
    from mlxconv import dispatch

    x, w = arrays(dtype)
    q = Parameters("conv1d", 1, 0, 1, 1, CHANNELS, False)
    return dispatch.able(problem_of(q, x.shape, x.dtype, w.shape, w.dtype))


def call(variant: str, dtype: str) -> None:
    """Once on one thread, once on all."""
    x, w = arrays(dtype)
    for stream in (Stream(threads=1), Stream()):
        conv1d(x, w, groups=CHANNELS, stream=stream, variant=variant)
