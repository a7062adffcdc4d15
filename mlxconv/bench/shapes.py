"""Named convolutions of real models: what speed is measured on.  They are in data/shapes.json."""

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mlxconv
from mlxconv.parameters import RANKS, Parameters
from mlxconv.problem import Problem, problem_of

Axes = int | tuple[int, ...]  # one value for all axes, or one for each
FUNCTIONS = tuple(name for name in RANKS if name != "conv_general")


class Shape(NamedTuple):
    """One convolution: (N, *L, C_in) with C_out filters of K taps; L says how many axes it has."""

    N: int
    L: Axes
    C_in: int
    C_out: int
    K: Axes
    stride: Axes = 1
    padding: Axes = 0
    dilation: Axes = 1
    groups: int = 1
    transposed: bool = False

    @property
    def rank(self) -> int:
        return 1 if isinstance(self.L, int) else len(self.L)

    @property
    def function(self) -> str:
        """The function it is a call of."""
        return f"{'conv_transpose' if self.transposed else 'conv'}{self.rank}d"

    def per_axis(self, name: str) -> tuple[int, ...]:
        """L, K or a parameter, with one value for each axis."""
        value = getattr(self, name)
        return (value,) * self.rank if isinstance(value, int) else value

    @property
    def arrays(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of input and weight."""
        x = (self.N, *self.per_axis("L"), self.C_in)
        return x, (self.C_out, *self.per_axis("K"), self.C_in // self.groups)

    @property
    def parameters(self) -> dict[str, Any]:
        """The keyword arguments of the function."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    @property
    def terms(self) -> int:
        """Products that are added up for one output, at the most."""
        return math.prod(self.arrays[1][1:])

    def call(self, x: np.ndarray, w: np.ndarray, **options: Any) -> Callable[[], np.ndarray]:
        """The call on arrays, by position as far as it goes: it is timed."""
        function = getattr(mlxconv, self.function)
        where = (self.stride, self.padding, self.dilation)
        more = (0, self.groups) if self.transposed else (self.groups,)
        return lambda: function(x, w, *where, *more, **options)

    def problem(self, dtype: str = "float32") -> Problem:
        """The Problem it poses; ValueError if it poses none."""
        where = (self.stride, self.padding, self.dilation, 1, self.groups)
        (x, w), kind = self.arrays, np.dtype(dtype)
        return problem_of(Parameters(self.function, *where, self.transposed), x, kind, w, kind)

    def bytes_moved(self, dtype: str = "float32") -> int:
        """Input, weight and output, once each."""
        p = self.problem(dtype)
        shapes = (p.input_shape, p.weight_shape, p.output_shape)
        return sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize

    def data(self, dtype: str = "float32", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Normal numbers, the weights scaled so that outputs are about 1 in size."""
        rng, (x, w) = np.random.default_rng(seed), self.arrays
        weight = rng.standard_normal(w) / math.sqrt(max(1, self.terms))
        return rng.standard_normal(x).astype(dtype), weight.astype(dtype)


@lru_cache(1)
def named() -> dict[str, Shape]:
    """The shapes that come with the package."""
    text = (resources.files("mlxconv") / "data" / "shapes.json").read_text()
    return shapes_of(json.loads(text))


def read(path: Path) -> dict[str, Shape]:
    """The shapes of a file like data/shapes.json; ValueError says what is wrong with it."""
    try:
        return shapes_of(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def shapes_of(content: Any) -> dict[str, Shape]:
    """{"conv1d": {name: [N, L, C_in, C_out, K, stride, ...]}, "conv2d": {...}, ...}, or what is in
    the inner braces alone; instead of a list, a shape may be {"N": 1, "L": 100, ...}."""
    if not isinstance(content, Mapping):
        content = {}
    tables = {name: content[name] for name in FUNCTIONS if name in content} or {"": content}
    if not all(isinstance(table, Mapping) and table for table in tables.values()):
        raise ValueError("expected names of shapes, each with [N, L, C_in, C_out, K, ...]")
    return {
        name: _shape(name, row, function)
        for function, table in tables.items()
        for name, row in table.items()
    }


def _shape(name: str, row: Any, function: str) -> Shape:
    try:
        shape = Shape(**row) if isinstance(row, Mapping) else Shape(*row)
        shape = Shape(*map(_frozen, shape))
        if function:
            shape = shape._replace(transposed="transpose" in function)
        if function not in ("", shape.function):
            raise ValueError(f"it is a {shape.function}, not a {function}")
        if shape.transposed and shape.groups > 1:
            raise ValueError("peers order the filters of grouped transposed convolutions otherwise")
        if min(shape.problem().output_shape) < 1:
            raise ValueError("it has no output")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"shape {name}: {error}") from error
    return shape


def _frozen(value: Any) -> Any:
    """An int, or a tuple of the ints of a list."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(n, int) for n in values):
        raise TypeError("every value must be an int, or a list of one int per axis")
    return tuple(value) if isinstance(value, list) else value
