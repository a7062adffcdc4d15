"""A convolution as `explain` and `race` are asked about it: arrays, or just their shapes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlxconv.api import are_exact, convolution
from mlxconv.arrays import as_array, dtype_named
from mlxconv.parameters import Ints, Parameters
from mlxconv.problem import Problem, problem_of


class Query(NamedTuple):
    """The parameters of a call, the problem it poses, and its arrays if there are any."""

    parameters: Parameters
    problem: Problem
    weight_dtype: np.dtype[Any]
    arrays: tuple[np.ndarray, np.ndarray] | None

    @property
    def bytes_moved(self) -> int:
        """Input, weight and output, once each."""
        p = self.problem
        sizes = (
            (p.input_shape, dtype_named(p.input_dtype)),
            (p.weight_shape, self.weight_dtype),
            (p.output_shape, dtype_named(p.dtype)),
        )
        return sum(int(np.prod(shape, dtype=object)) * kind.itemsize for shape, kind in sizes)

    def with_data(self) -> "Query":
        """The same with arrays: random normal numbers where only shapes were given."""
        if self.arrays is not None:
            return self
        rng, p = np.random.default_rng(0), self.problem
        x = _normal(rng, p.input_shape, dtype_named(p.input_dtype))
        return self._replace(arrays=(x, _normal(rng, p.weight_shape, self.weight_dtype)))

    def call(self, stream: Any, variant: str | None) -> Callable[[], np.ndarray]:
        """The call itself; the query must have arrays."""
        assert self.arrays is not None
        (x, w), q = self.arrays, tuple(self.parameters)
        exact = are_exact(q)
        return lambda: convolution(q, exact, x, w, stream, variant, None)

    def shortened(self, rows: int) -> "Query":
        """The same of the first image's first rows."""
        assert self.arrays is not None
        (x, w), q = self.arrays, self.parameters
        x = x[:1, :rows]
        p = problem_of(q, x.shape, x.dtype, w.shape, w.dtype)
        return self._replace(problem=p, arrays=(x, w))


def query(
    input: Any,
    weight: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    input_dilation: Any = 1,
    flip: bool = False,
    dtype: Any = None,
    transposed: bool = False,
    output_padding: Any = 0,
) -> Query:
    """The Query that the arguments of `explain` or `race` make, or the convolution's own error."""
    pair = isinstance(dtype, tuple) and len(dtype) == 2
    x_dtype, w_dtype = dtype if pair else (dtype, dtype)
    x_shape, x_type, x = _described("input", input, x_dtype)
    w_shape, w_type, w = _described("weight", weight, w_dtype)
    simple = len(x_shape) == 3 and input_dilation == 1 and not flip
    function = "conv1d" if simple and not _per_end_pairs(padding) else "conv_general"
    q = Parameters(function, stride, padding, dilation, input_dilation, groups, flip)
    if transposed:
        if input_dilation != 1 or flip:
            raise ValueError("a transposed convolution takes neither input_dilation nor flip")
        rank = min(max(len(x_shape) - 2, 1), 3)
        function = f"conv_transpose{rank}d"
        q = q._replace(function=function, flip=True, output_padding=output_padding)
    arrays = None if x is None or w is None else (x, w)
    return Query(q, problem_of(q, x_shape, x_type, w_shape, w_type), w_type, arrays)


def _per_end_pairs(padding: Any) -> bool:
    """Whether `padding` is conv_general's pair of sequences."""
    return isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding)


def _described(name: str, value: Any, dtype: Any) -> tuple[Ints, np.dtype[Any], np.ndarray | None]:
    """Shape, type, and the array in that type if `value` is one."""
    if isinstance(value, tuple) and all(type(n) is int for n in value):
        wanted = dtype if dtype is not None else np.float32
        return value, dtype_named(wanted) if isinstance(wanted, str) else np.dtype(wanted), None
    a = as_array(name, value)
    kind = a.dtype if dtype is None else np.dtype(dtype)
    return a.shape, kind, a.astype(kind, copy=False)


def _normal(rng: np.random.Generator, shape: Ints, kind: np.dtype[Any]) -> np.ndarray:
    numbers: np.ndarray = rng.standard_normal(shape)
    if kind.kind == "c":
        numbers = numbers + 1j * rng.standard_normal(shape)
    return numbers.astype(kind)
