"""`mlxconv warmup`: compile ahead, so that no later first call waits."""

import argparse
import time

import numpy as np

from mlxconv import cache
from mlxconv.api import conv1d
from mlxconv.arrays import FLOATING, dtype_named
from mlxconv.cli import progress
from mlxconv.parameters import Parameters
from mlxconv.problem import Problem, problem_of
from mlxconv.stream import Stream

TAPS = 31
# (rows, channels, filters, groups): whole vectors, a vector left over, few filters, lines shorter
# than a tile, few outputs; the first is as long as it takes to be shared by threads
SHAPES = (
    *((0, 64, 64, 64), (0, 16, 24, 1), (99, 16, 40, 2), (99, 3, 3, 1)),
    *((40, 16, 24, 1), (40, 64, 64, 64), (33, 4, 4, 1)),
)


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


def arrays(dtype: str, rows: int, C: int, filters: int, groups: int) -> list[np.ndarray]:
    """Input and weight of a convolution of that shape; 0 rows: just enough for threads."""
    from mlxconv.threads import WORTH_SHARING

    rows = rows or int(max(WORTH_SHARING.values()) / (2 * filters * TAPS * C // groups)) + TAPS
    shapes = (1, rows, C), (filters, TAPS, C // groups)
    return [np.ones(shape, dtype_named(dtype)) for shape in shapes]


def able(dtype: str) -> tuple[str, ...]:
    """The variants that compute one of the shapes."""
    from mlxconv import dispatch

    found = {variant for shape in SHAPES for variant in dispatch.able(_problem(dtype, shape))}
    return tuple(variant for variant in dispatch.variants() if variant in found)


def _problem(dtype: str, shape: tuple[int, ...]) -> Problem:
    x, w = arrays(dtype, *shape)
    q = Parameters("conv1d", 1, 0, 1, 1, shape[-1], False)
    return problem_of(q, x.shape, x.dtype, w.shape, w.dtype)


def call(variant: str, dtype: str) -> None:
    """Each shape once on one thread, once on all."""
    from mlxconv import dispatch

    for shape in SHAPES:
        if variant in dispatch.able(_problem(dtype, shape)):
            x, w = arrays(dtype, *shape)
            for stream in (Stream(threads=1), Stream()):
                conv1d(x, w, groups=shape[-1], stream=stream, variant=variant)
