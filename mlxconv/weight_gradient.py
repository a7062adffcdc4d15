"""Gradients by the filters, which are sums of outer products over all positions.

    dw[o, k, c] = sum over n, l of dy[n, l, o] * x[n, l*stride - lo + k*dilation, c]

Kernels (kernels/outer.py, outer_grouped.py) read inputs that are not dilated; one that is changes
places with the result, or gets zeros between its elements.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mlxconv import recycling, threads
from mlxconv.arrays import dtype_named, memory_of
from mlxconv.forks import cached_property
from mlxconv.input_gradient import transposed, with_outputs
from mlxconv.kernels import outer, outer_grouped
from mlxconv.kernels.reference import sums_mending
from mlxconv.lowering import laid_out
from mlxconv.problem import Problem


class WeightGradient:
    """How the gradient of the convolution `problem` by its filters is computed."""

    def __init__(self, problem: Problem) -> None:
        self.cotangent_shape, self._dtype = problem.output_shape, dtype_named(problem.dtype)
        self._wide = np.result_type(self._dtype, np.float32)  # half types are rounded at the end
        wide = self._wide.name
        self._problem = p = problem._replace(dtype=wide, input_dtype=wide, flip=False)
        self._is_empty = 0 in (*p.input_shape, *p.weight_shape, *p.output_shape)
        self._flips, self._swaps = problem.flip, max(p.input_dilation) > 1 and max(p.stride) == 1
        self._sum = _spread if max(p.input_dilation) > 1 else _plain

    def run(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
        """The gradient by the filters of the input `x` where `dy` is that by the result."""
        p = self._problem
        if self._is_empty:
            return np.zeros(p.weight_shape, self._dtype)
        if not x.dtype is dy.dtype is self._wide:
            x, dy = (a.astype(self._wide) for a in (x, dy))
        x, dy = np.ascontiguousarray(x), np.ascontiguousarray(dy)
        if self._swaps:
            dw = _swapped(p, x, dy, self._flips, workers)
        else:
            dw = self._sum(p, x, dy, workers)
            dw = np.flip(dw, tuple(range(1, dw.ndim - 1))) if self._flips else dw
        return np.ascontiguousarray(dw, self._dtype)


def _plain(p: Problem, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
    """The gradient by the filters.  NaN that a zero may have made are computed anew."""
    dw, suspect = sums_of(p).run(x, dy, workers)
    return _mended(p, x, dy, dw, workers) if suspect else dw


def _mended(
    p: Problem, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, workers: int | None
) -> np.ndarray:
    mending = sums_mending(p)
    threads.run(mending, mending.compile(), (x.ravel(), dy.ravel(), dw.ravel()), workers)
    return dw


def _spread(p: Problem, x: np.ndarray, dy: np.ndarray, workers: int | None) -> np.ndarray:
    """The same of a dilated input, with zeros between its elements, where outputs are a step apart
    as well."""
    spread = np.zeros((p.N, *p.dilated_L, p.C), x.dtype)
    spread[(slice(None), *(slice(None, None, step) for step in p.input_dilation))] = x
    whole = p._replace(L=p.dilated_L, input_dilation=(1,) * len(p.L))
    dw, suspect = sums_of(whole).run(spread, dy, workers)
    return _mended(p, x, dy, dw, workers) if suspect or np.isnan(dw).any() else dw


def _swapped(
    p: Problem, x: np.ndarray, dy: np.ndarray, flip: bool, workers: int | None
) -> np.ndarray:
    """The same, turned round if asked, of a dilated input: as the gradient of the convolution of
    `dy` that has the result `x`; of its filters channels and filters have changed places, and taps
    are turned round."""
    swapped = _exchanged(p)
    if not outer_grouped.takes(swapped):
        mode = outer.TURNED | (0 if flip else outer.FLIPPED)
        dw, suspect = sums_of(swapped, mode).run(dy, x, workers)
        if not suspect:
            return dw.reshape(p.weight_shape)
    return transposed(_plain(swapped, dy, x, workers), p.groups, not flip)


@lru_cache(maxsize=1024)
def _exchanged(p: Problem) -> Problem:
    """The convolution of the result of `p`, which makes its dilated input."""
    swapped = p._replace(
        L=p.output_L,
        C=p.O,
        O=p.C,
        padding_lo=tuple(n - 1 - lo for n, lo in zip(p.window, p.padding_lo, strict=True)),
        stride=p.input_dilation,
        input_dilation=(1,) * len(p.L),
    )
    return with_outputs(swapped, p.L)


class Sums:
    """What computes the gradient of `p`, whose input is not dilated, in the order of the `mode`,
    see `outer`."""

    def __init__(self, p: Problem, mode: int) -> None:
        by_group = outer_grouped.takes(p)
        self._schedule = outer_grouped.schedule(p) if by_group else outer.schedule(p, mode)
        self._dtype, pieces = dtype_named(p.dtype), dict(self._schedule.split)["pieces"]
        self._shape = p.weight_shape if pieces == 1 else (pieces, *p.weight_shape)
        self.pieces = pieces
        size = math.prod(self._shape) * self._dtype.itemsize
        self._new = np.empty if size < recycling.LEAST_BYTES else recycling.array

    def run(self, x: np.ndarray, dy: np.ndarray, workers: int | None) -> tuple[np.ndarray, bool]:
        """The gradient, and whether some NaN may be of a zero's making; `dy` is contiguous."""
        parts = self._new(self._shape, self._dtype)
        everyone = workers is None or workers == threads.default_threads()
        if everyone and x.flags.c_contiguous and (at_once := self._bound):
            suspect = bool(at_once(x.ravel(), dy.ravel(), parts.ravel()))
        else:
            memory, sums = memory_of(x), self._schedule
            arrays = memory.flat, dy.ravel(), parts.ravel()
            suspect = threads.run(sums, laid_out(sums, memory), arrays, workers)
        dw: np.ndarray = parts if self.pieces == 1 else parts.sum(axis=0)
        return dw, suspect and self._schedule.suspects

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        return threads.bound(self._schedule, self._schedule.compile())


@lru_cache(maxsize=1024)
def sums_of(p: Problem, mode: int = 0) -> Sums:
    return Sums(p, mode)
