"""Gradients by the input, which are convolutions of the cotangent.

    dx[n, r, c] = sum over o, l, k that meet r of dy[n, l, o] * w[o, k, c]

That is a transposed convolution, whose filters are those of the convolution with filters and
channels exchanged and taps turned round.  They are read where they lie, if the kernel can do that.
"""

from collections.abc import Callable

import numpy as np

from mlxconv.dispatch import plan
from mlxconv.forks import cached_property
from mlxconv.problem import Problem


class InputGradient:
    """How the gradient of the convolution `problem` by its input is computed."""

    def __init__(self, problem: Problem) -> None:
        self.cotangent_shape = problem.output_shape
        self._groups, self._turns = problem.groups, not problem.flip
        self._weight_shape = problem.weight_shape
        self._plan = plan(input_gradient(problem), views=True)

    def run(self, dy: np.ndarray, w: np.ndarray, workers: int | None) -> np.ndarray:
        """The gradient by the input of the filters `w` where `dy` is that by the result."""
        computed = self._plan
        if computed.are_usual(dy, w) and (at_once := self._bound):
            dx = computed.output(None, dy, w)
            if not at_once(dy, w, dx, None, workers):
                return dx
        view = self._filters(w)
        if view.ndim > w.ndim and not computed.reads(view):
            view = transposed(w, self._groups, self._turns)
        return computed.run(dy, view, workers)

    @cached_property
    def _bound(self) -> Callable[..., int] | None:
        w = np.empty(self._weight_shape, self._plan.dtype)
        view = self._filters(w)
        return self._plan.bound_to(view, w)

    def _filters(self, w: np.ndarray) -> np.ndarray:
        """Those of the gradient, as a view, with an axis of groups before all others if need be."""
        view = _by_group(w, self._groups, self._turns)
        if self._groups == 1:
            return np.squeeze(view, 0)
        return np.squeeze(view, 1) if view.shape[1] == 1 else view


def input_gradient(p: Problem) -> Problem:
    """The convolution of the cotangent of `p`, with `transposed` filters, that is the gradient of
    `p` by its input; padded at the high ends so that it has the extents of that."""
    g = p._replace(
        L=p.output_L,
        C=p.O,
        O=p.C,
        stride=p.input_dilation,
        input_dilation=p.stride,
        padding_lo=tuple(n - 1 - lo for n, lo in zip(p.window, p.padding_lo, strict=True)),
        flip=False,
    )
    axes = zip(p.L, g.stride, g.window, g.dilated_L, g.padding_lo, strict=True)
    hi = tuple((n - 1) * s + window - L - lo for n, s, window, L, lo in axes)
    return g._replace(padding_hi=hi)


def transposed(w: np.ndarray, groups: int, flip: bool) -> np.ndarray:
    """Filters (O, K, C / groups) as (C, K, O / groups), turned round if asked: a copy.  As many
    channels are copied at a time as share a cache line, which is then read from L2 for all but the
    first."""
    by_group = _by_group(w, groups, flip)
    _, C, *K, filters = by_group.shape
    turned = np.empty(by_group.shape, w.dtype)
    for tap in np.ndindex(*K):
        for c in range(0, C, 16):
            part = (slice(None), slice(c, c + 16), *tap)
            turned[part] = by_group[part]
    return turned.reshape(groups * C, *K, filters)


def _by_group(w: np.ndarray, groups: int, flip: bool) -> np.ndarray:
    """The same, (groups, C / groups, K, O / groups), as a view."""
    view = w[(slice(None), *(slice(None, None, -1 if flip else 1),) * (w.ndim - 2))]
    view = view.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return view.swapaxes(1, -1)
