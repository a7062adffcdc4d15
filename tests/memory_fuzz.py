"""Random problems on arrays between pages that nobody may touch.

    python -m tests.memory_fuzz [--cases 20000] [--seed 0]

Inputs end, or start, at a page without access and are frozen: no kernel may read past them or
write to them.  Every buffer the package makes for itself lies like that too, and is filled with
NaN, so that an element never written shows.  Each case runs in every type, width and variant in
turn, over all ways to lay out the input; results are exact integers.  An access out of bounds ends
the process; the last line printed names the case.  Seed 0 is that of the exact tier, whose kernels
need not be compiled again.
"""

import argparse
import ctypes
import faulthandler
import itertools
import os
import sys

import numpy as np

import mlxconv
from mlxconv import plan, recycling, threads, workspace
from tests.conftest import forget_plans
from tests.guard import freeze, guarded
from tests.problems import DTYPES, random_cases
from tests.test_exact import able, exact

LAYOUTS = {
    "contiguous": lambda a: a,
    "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "wider rows": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "transposed": lambda a: np.ascontiguousarray(a.transpose(2, 1, 0)).transpose(2, 1, 0),
}


class GuardedNumPy:
    """NumPy, but np.empty lies between guard pages, at either end in turn, filled with 0xFF,
    which as a float is NaN."""

    sides = itertools.cycle(("end", "start"))

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=float):
        values = np.empty(shape, dtype)
        if values.size == 0:
            return values
        values.reshape(-1).view(np.uint8)[:] = 0xFF
        return guarded(values, next(self.sides))


def lay_out(a, side, layout):
    """A frozen copy of `a`, laid out so, all of its memory flush against a guard page."""
    if a.size == 0:
        return a
    view = LAYOUTS[layout](a)
    low, high = np.lib.array_utils.byte_bounds(view)
    memory = guarded(np.frombuffer(ctypes.string_at(low, high - low), np.uint8), side)
    freeze(memory)
    start = view.__array_interface__["data"][0] - low
    return np.ndarray(view.shape, view.dtype, memory, start, view.strides)


def run(case, dtype, variant, side, layout, seed):
    """One case; asserts on its values, and dies of what it touches."""
    rng = np.random.default_rng(seed)
    x, w = case.data(rng, dtype)
    expected = exact(case, x, w)
    x, w = lay_out(x, side, layout), lay_out(w, side, "contiguous")
    y = case.run(x, w, variant=variant, stream=mlxconv.Stream(threads=1 + seed % 3))
    assert np.array_equal(y, expected)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    plan.np = threads.np = workspace.np = GuardedNumPy()
    threads.aligned_empty = recycling.aligned_empty = plan.np.empty  # no slack before or behind
    recycling.MOST_BYTES = 0  # every array is new, and
    workspace.SMALL = (0, 0, 0)  # every workspace as large as its call says
    threads.WORTH_SHARING = dict.fromkeys(threads.WORTH_SHARING, 0)
    done = 0
    per_width = -(-options.cases // 3)
    for width in (16, 32, 64):
        os.environ["MLXCONV_VECTOR_BYTES"] = str(width)
        forget_plans()
        for i, case in enumerate(random_cases(per_width, options.seed)):
            dtype = DTYPES[i % len(DTYPES)]
            side = ("end", "start")[i // len(DTYPES) % 2]
            layout = list(LAYOUTS)[i % len(LAYOUTS)]
            for variant in able(case, dtype):
                what = (width, dtype, variant, side, layout, i, case)
                if options.verbose:
                    print(*what, flush=True)
                try:
                    run(case, dtype, variant, side, layout, i)
                except BaseException:
                    print(*what, flush=True)
                    raise
            done += 1
    print(f"{done} cases, none out of bounds")


if __name__ == "__main__":
    sys.exit(main())
