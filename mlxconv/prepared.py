"""Prepared convolutions: filters that are checked and packed once, for many inputs."""

from typing import Any

import numpy as np

from mlxconv.arrays import as_array
from mlxconv.problem import Parameters, problem_of
from mlxconv.stream import resolve


class Conv1d:
    """A 1-D convolution with filters of its own: ``conv(x)`` is ``conv1d(x, weight, ...)``.

    The filters are copied, and packed at the first call; later calls leave that out, which saves
    most where they are many and the output positions few.  The bits are those of `conv1d`.

    Parameters
    ----------
    weight : array_like, shape (C_out, K, C_in / groups)
    stride, padding, dilation, groups, variant
        See `conv1d`.

    Raises
    ------
    TypeError, ValueError
        What `conv1d` would raise for these filters and parameters, whatever the input.

    Notes
    -----
    May be called from several threads at a time, and pickled: the filters travel, what was packed
    does not.

    Examples
    --------
    >>> import numpy as np, mlxconv
    >>> smooth = mlxconv.Conv1d(np.ones((1, 3, 1)) / 3, padding=1)
    >>> smooth(np.arange(4.0).reshape(1, 4, 1)).ravel().round(2)
    array([0.33, 1.  , 2.  , 1.67])
    """

    def __init__(
        self,
        weight: Any,
        stride: int = 1,
        padding: Any = 0,
        dilation: int = 1,
        groups: int = 1,
        *,
        variant: str | None = None,
    ) -> None:
        self.weight = np.array(as_array("weight", weight), order="C")
        self.weight.flags.writeable = False
        self.variant = variant
        self._parameters = Parameters("conv1d", stride, padding, dilation, 1, groups, False)
        self._check()
        self._forget()

    def _check(self) -> None:
        """Raise what is wrong whatever the input: an input is made up that fits the filters."""
        q, w = self._parameters, self.weight
        channels = w.shape[2] * q.groups if w.ndim == 3 and isinstance(q.groups, int) else 1
        rows = 1 << 40  # longer than any window
        dtype = w.dtype if w.dtype.kind in "fcV" else np.dtype(np.float32)
        problem_of(q, (1, rows, channels), dtype, w.shape, w.dtype)

    def _forget(self) -> None:
        self._packed: Any = None
        self._plans: dict[Any, Any] = {}

    def __call__(
        self, input: Any, *, stream: Any = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The convolution of `input`, shape (N, L, C_in), as a new array or in `out`."""
        x = input if type(input) is np.ndarray else as_array("input", input)
        threads = resolve(stream).threads
        plan = self._plans.get((x.shape, x.dtype)) or self._plan(x)
        return plan.run(x, self.weight, threads, out, self._packed)  # type: ignore[no-any-return]

    def _plan(self, x: np.ndarray) -> Any:
        """How inputs like `x` are convolved.  Numba is loaded here, at the first call."""
        from mlxconv.dispatch import plan
        from mlxconv.plan import Packed

        w = self.weight
        found = plan(problem_of(self._parameters, x.shape, x.dtype, w.shape, w.dtype), self.variant)
        self._packed = self._packed or Packed()
        if len(self._plans) >= 1024:  # shapes; plans themselves are cached elsewhere
            self._plans.clear()
        self._plans[x.shape, x.dtype] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_packed": None, "_plans": {}}

    def __repr__(self) -> str:
        q, w = self._parameters, self.weight
        return (
            f"Conv1d(<{w.dtype} filters {w.shape}>, stride={q.stride}, padding={q.padding!r}, "
            f"dilation={q.kernel_dilation}, groups={q.groups})"
        )
