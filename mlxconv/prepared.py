"""Prepared convolutions: filters that are checked and packed once, for many inputs."""

from typing import Any

import numpy as np

from mlxconv.arrays import as_array
from mlxconv.forks import no_fork
from mlxconv.parameters import RANKS, Parameters
from mlxconv.problem import problem_of
from mlxconv.stream import resolve


class _Prepared:
    """Filters and parameters of one of the functions, whose name is `_function`."""

    _function: str

    def __init__(self, weight: Any, parameters: Parameters, variant: str | None) -> None:
        self.weight = np.array(as_array("weight", weight), order="C")
        self.weight.flags.writeable = False
        self.variant = variant
        self._parameters = parameters
        self._check()
        self._forget()

    def _check(self) -> None:
        """Raise what is wrong whatever the input: an input is made up that fits the filters."""
        q, w = self._parameters, self.weight
        channels = w.shape[-1] * q.groups if w.ndim > 2 and isinstance(q.groups, int) else 1
        rank = RANKS[q.function][0]
        rows = 1 << (40 // rank)  # longer than any window
        dtype = w.dtype if w.dtype.kind in "fcV" else np.dtype(np.float32)
        problem_of(q, (0, *(rows,) * rank, channels), dtype, w.shape, w.dtype)

    def _forget(self) -> None:
        self._packed: Any = None
        self._plans: dict[Any, Any] = {}

    def __call__(
        self, input: Any, *, stream: Any = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The convolution of `input`, shape (N, ..., C_in), as a new array or in `out`."""
        x = input if type(input) is np.ndarray else as_array("input", input)
        threads = resolve(stream).threads
        plan = self._plans.get((x.shape, x.dtype)) or self._plan(x)
        return plan.run(x, self.weight, threads, out, self._packed)  # type: ignore[no-any-return]

    def _plan(self, x: np.ndarray) -> Any:
        """How inputs like `x` are convolved.  Numba is loaded here, at the first call."""
        with no_fork:
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
        extra = f"output_padding={q.output_padding}, " if q.is_transposed else ""
        return (
            f"{type(self).__name__}(<{w.dtype} filters {w.shape}>, stride={q.stride}, "
            f"padding={q.padding!r}, dilation={q.kernel_dilation}, {extra}groups={q.groups})"
        )


class _Convolution(_Prepared):
    def __init__(
        self,
        weight: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        variant: str | None = None,
    ) -> None:
        q = Parameters(self._function, stride, padding, dilation, 1, groups, False)
        super().__init__(weight, q, variant)


class _Transposed(_Prepared):
    def __init__(
        self,
        weight: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        output_padding: Any = 0,
        groups: int = 1,
        *,
        variant: str | None = None,
    ) -> None:
        q = (self._function, stride, padding, dilation, 1, groups, True, output_padding)
        super().__init__(weight, Parameters(*q), variant)


class Conv1d(_Convolution):
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

    _function = "conv1d"


class Conv2d(_Convolution):
    """A 2-D convolution with filters of its own, (C_out, KH, KW, C_in / groups): see `Conv1d`."""

    _function = "conv2d"


class Conv3d(_Convolution):
    """A 3-D convolution with filters of its own, (C_out, KD, KH, KW, C_in / groups): see
    `Conv1d`."""

    _function = "conv3d"


class ConvTranspose1d(_Transposed):
    """A 1-D transposed convolution with filters of its own: ``conv(x)`` is
    ``conv_transpose1d(x, weight, ...)``; see `Conv1d`."""

    _function = "conv_transpose1d"


class ConvTranspose2d(_Transposed):
    """A 2-D transposed convolution with filters of its own: see `ConvTranspose1d`."""

    _function = "conv_transpose2d"


class ConvTranspose3d(_Transposed):
    """A 3-D transposed convolution with filters of its own: see `ConvTranspose1d`."""

    _function = "conv_transpose3d"
