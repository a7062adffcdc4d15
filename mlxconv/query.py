"""A convolution as `explain` and `race` are asked about it: arrays, or just their shapes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlxconv.api import are_exact, convolution
from mlxconv.arrays import REAL_OF, as_array, dtype_named
from mlxconv.dispatch import able, plan
from mlxconv.input_gradient import input_gradient, transposed
from mlxconv.parameters import Ints, Parameters
from mlxconv.problem import Problem, problem_of
from mlxconv.sampling import exact_weight, largest_error
from mlxconv.stream import resolve
from mlxconv.weight_gradient import WeightGradient
from mlxconv.weight_gradient import able as sums_able


class Query(NamedTuple):
    """The parameters of a call, the problem it poses, and its arrays if there are any."""

    parameters: Parameters
    problem: Problem
    weight_dtype: np.dtype[Any]
    arrays: tuple[np.ndarray, np.ndarray] | None
    what: str = ""  # it computes, if that is not the convolution of the arrays

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

    @property
    def picked(self) -> str:
        """The variant that the table picks."""
        return plan(self.problem).variant

    def able(self, keeps_bits: bool = True) -> tuple[str, ...]:
        """The variants that can compute it: those that the table may pick, or all of them."""
        return able(self.problem, keeps_bits)

    @property
    def second(self) -> tuple[Ints, np.dtype[Any]]:
        """Shape and type of what meets the input."""
        return self.problem.weight_shape, self.weight_dtype

    def with_data(self) -> "Query":
        """The same with arrays: random normal numbers where only shapes were given."""
        if self.arrays is not None:
            return self
        rng, p = np.random.default_rng(0), self.problem
        x = _normal(rng, p.input_shape, dtype_named(p.input_dtype))
        return self._replace(arrays=(x, _normal(rng, *self.second)))

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

    def error(self, result: np.ndarray) -> float:
        """That of a result, in units of u sum |x||w|."""
        assert self.arrays is not None
        return largest_error(self.problem, *self.arrays, result)

    def of_gradient(self, by: str) -> "Query":
        """What computes the gradient of the convolution by its "input" or its "weight", for a
        cotangent of random normal numbers."""
        if by not in ("input", "weight"):
            raise ValueError(f"gradient takes 'input' or 'weight', got {by!r}")
        p, w_type = self.problem, self.weight_dtype
        if p.dtype in REAL_OF:
            raise TypeError(f"the result is {p.dtype}; only real convolutions have gradients here")
        kind, arrays = dtype_named(p.dtype), self.arrays
        dy = None if arrays is None else _normal(np.random.default_rng(0), p.output_shape, kind)
        if by == "weight":
            given = None if arrays is None or dy is None else (arrays[0], dy)
            return WeightGradientQuery(self.parameters, p, w_type, given, "gradient by the weight")
        g = input_gradient(p)._replace(input_dtype=p.dtype)
        padding = g.padding_lo, g.padding_hi
        steps = g.stride, padding, g.kernel_dilation, g.input_dilation, g.groups, False
        if arrays is not None and dy is not None:
            arrays = dy, transposed(arrays[1], p.groups, not p.flip)
        what = "gradient by the input, as a convolution of the cotangent"
        return Query(Parameters("conv_general", *steps), g, w_type, arrays, what)


class WeightGradientQuery(Query):
    """The same for the gradient by its weight; the second array is the cotangent."""

    @property
    def picked(self) -> str:
        return WeightGradient(self.problem).variant

    def able(self, keeps_bits: bool = True) -> tuple[str, ...]:
        return sums_able(WeightGradient(self.problem).seen)

    @property
    def second(self) -> tuple[Ints, np.dtype[Any]]:
        return self.problem.output_shape, dtype_named(self.problem.dtype)

    def call(self, stream: Any, variant: str | None) -> Callable[[], np.ndarray]:
        assert self.arrays is not None
        (x, dy), gradient = self.arrays, WeightGradient(self.problem, variant)
        return lambda: gradient.run(x, dy, resolve(stream).threads)

    def shortened(self, rows: int) -> "Query":
        assert self.arrays is not None
        x, q = self.arrays[0][:1, :rows], self.parameters
        p = problem_of(q, x.shape, x.dtype, self.problem.weight_shape, self.weight_dtype)
        return self._replace(problem=p, arrays=(x, np.ones(p.output_shape, dtype_named(p.dtype))))

    def error(self, result: np.ndarray) -> float:
        assert self.arrays is not None
        return largest_error(self.problem, *self.arrays, result, exact_weight)


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
    gradient: str | None = None,
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
    asked = Query(q, problem_of(q, x_shape, x_type, w_shape, w_type), w_type, arrays)
    return asked if gradient is None else asked.of_gradient(gradient)


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
