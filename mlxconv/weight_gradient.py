"""Gradients by the filters, which are sums of outer products over all positions.

    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - lo + k*dilation, c]

Kernels (kernels/outer.py, outer_grouped.py) read inputs that are not dilated; one that is changes
places with the result, or gets zeros between its elements.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mlxconv import recycling, threads
from mlxconv.arrays import dtype_named, memory_of
from mlxconv.forks import cached_property
from mlxconv.input_gradient import input_gradient, transposed
from mlxconv.kernels import outer, outer_grouped
from mlxconv.kernels.elements import converted
from mlxconv.kernels.reference import sums_mending
from mlxconv.kernels.schedule import lanes_of
from mlxconv.lowering import laid_out
from mlxconv.problem import Problem

KERNELS = {"outer_grouped": outer_grouped, "outer": outer}  # tried in order
# With more channels and lanes that stay empty, outer.py takes 0.65-0.9 of the time.
FEW_CHANNELS = 8


def able(p: Problem) -> tuple[str, ...]:
    """The names of the kernels that can form the sums of `p`, whose input is not dilated."""
    return tuple(name for name, kernel in KERNELS.items() if not kernel.refuses(p))


def _refused(p: Problem) -> tuple[tuple[str, str], ...]:
    """The kernels before the one to take, and why not they."""
    reason = outer_grouped.refuses(p)
    if not reason:
        leaves_none = lanes_of(p) % (p.O // p.groups) == 0
        if leaves_none or p.C // p.groups <= FEW_CHANNELS:
            return ()
        reason = f"lanes would stay empty, and there are more than {FEW_CHANNELS} channels"
    return (("outer_grouped", reason),)


class WeightGradient:
    """How the gradient of the convolution `problem` by its filters is computed, by the kernel named
    `variant` if one is."""

    def __init__(self, problem: Problem, variant: str | None = None) -> None:
        self.cotangent_shape, self.dtype = problem.output_shape, dtype_named(problem.dtype)
        self._wide = np.result_type(self.dtype, np.float32)  # half types are rounded at the end
        wide = self._wide.name
        self._problem = p = problem._replace(dtype=wide, input_dtype=wide, flip=False)
        self._is_empty = 0 in (*p.input_shape, *p.weight_shape, *p.output_shape)
        dilated = max(p.input_dilation) > 1
        self._flips, self._swaps = problem.flip, dilated and max(p.stride) == 1
        self.seen = input_gradient(p) if self._swaps else _spread(p)  # by kernels, not dilated
        self.refused = _refused(self.seen) if variant is None else ()
        self.variant = variant or list(KERNELS)[len(self.refused)]
        if self.variant not in able(self.seen):
            can = " and ".join(able(self.seen))
            raise ValueError(f"variant {variant!r} cannot compute this gradient; {can} can")
        turned = outer.TURNED | (0 if problem.flip else outer.FLIPPED)
        self._mode = turned if self._swaps and self.variant == "outer" else 0

    @property
    def sums(self) -> "Sums":
        return sums_of(self.seen, self.variant, self._mode)

    def run(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
        """The gradient by the filters of the input `x` where `dy` is that by the result."""
        if self._is_empty:
            return np.zeros(self._problem.weight_shape, self.dtype)
        if not x.dtype is dy.dtype is self._wide:
            x, dy = (converted(a, self._wide) for a in (x, dy))
        x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
        dw = (self._swapped if self._swaps else self._plain)(x, dy, workers)
        return np.ascontiguousarray(dw, self.dtype)

    def _plain(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
        """Of an input that may get zeros between its elements, where outputs are a step apart as
        well.  NaN that a zero may have made are computed anew."""
        p, given = self._problem, x
        if self.seen.L != p.L:
            x = np.zeros(self.seen.input_shape, x.dtype)
            x[(slice(None), *(slice(None, None, step) for step in p.input_dilation))] = given
        dw, suspect = self.sums.run(x, dy, workers)
        if suspect or (x is not given and np.isnan(dw).any()):
            _mend(p, given, dy, dw, workers)
        return np.flip(dw, tuple(range(1, dw.ndim - 1))) if self._flips else dw

    def _swapped(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
        """The same of a dilated input, as the gradient of the convolution of `dy` that has the
        result `x`: of its filters channels and filters have changed places, and taps are turned
        round."""
        p = self._problem
        if self._mode:
            dw, suspect = self.sums.run(dy, x, workers)
            if not suspect:
                return dw.reshape(p.weight_shape)
        dw, suspect = sums_of(self.seen, self.variant).run(dy, x, workers)
        if suspect:
            _mend(self.seen, dy, x, dw, workers)
        return transposed(dw, p.groups, not self._flips)


def _mend(p: Problem, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int | None) -> None:
    """Compute anew what is NaN in `dw`."""
    mending = sums_mending(p)
    threads.run(mending, mending.compile(), (x.ravel(), dy.ravel(), dw.ravel()), workers)


def _spread(p: Problem) -> Problem:
    """`p` with zeros between the input's elements, if it is dilated, as part of the input."""
    return p._replace(L=p.dilated_L, input_dilation=(1,) * len(p.L))


class Sums:
    """What computes the gradient of `p`, whose input is not dilated, by the kernel named `variant`,
    in the order of the `mode`, see `outer`."""

    def __init__(self, p: Problem, variant: str, mode: int) -> None:
        self.schedule = KERNELS[variant].schedule(p, mode)
        self.pieces = dict(self.schedule.split)["pieces"]
        shape = p.weight_shape if self.pieces == 1 else (self.pieces, *p.weight_shape)
        self._new = recycling.maker(shape, dtype_named(p.dtype))

    def run(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> tuple[np.ndarray, bool]:
        """The gradient, and whether some NaN may be of a zero's making; `dy` is contiguous."""
        parts = self._new(x)
        if x.flags.c_contiguous and (at_once := self._bound):
            suspect = bool(at_once(x, dy, parts, None, workers))
        else:
            memory, sums = memory_of(x), self.schedule
            arrays = memory.flat, dy, parts
            suspect = threads.run(sums, laid_out(sums, memory), arrays, workers)
        dw: np.ndarray = parts if self.pieces == 1 else parts.sum(axis=0)
        return dw, suspect and self.schedule.suspects

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        return threads.bound(self.schedule, self.schedule.compile())


@lru_cache(maxsize=1024)
def sums_of(p: Problem, variant: str, mode: int = 0) -> Sums:
    return Sums(p, variant, mode)
