"""Named convolutions of real models: what speed is measured on.  They are in data/shapes.json."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxconv.parameters import Parameters
from mlxconv.problem import Problem, problem_of


class Shape(NamedTuple):
    """One conv1d: (N, L, C_in) with C_out filters of K taps."""

    N: int
    L: int
    C_in: int
    C_out: int
    K: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def arrays(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes of input and weight."""
        return (self.N, self.L, self.C_in), (self.C_out, self.K, self.C_in // self.groups)

    @property
    def parameters(self) -> dict[str, int]:
        """The keyword arguments of conv1d."""
        return {name: getattr(self, name) for name in self._fields[5:]}

    def problem(self, dtype: str = "float32") -> Problem:
        """The Problem it poses; ValueError if it poses none."""
        q = Parameters("conv1d", self.stride, self.padding, self.dilation, 1, self.groups, False)
        (x, w), kind = self.arrays, np.dtype(dtype)
        return problem_of(q, x, kind, w, kind)

    def bytes_moved(self, dtype: str = "float32") -> int:
        """Input, weight and output, once each."""
        p = self.problem(dtype)
        shapes = (p.input_shape, p.weight_shape, p.output_shape)
        return sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize

    def data(self, dtype: str = "float32", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Normal numbers, the weights scaled so that outputs are about 1 in size."""
        rng, (x, w) = np.random.default_rng(seed), self.arrays
        weight = rng.standard_normal(w) / math.sqrt(max(1, self.K * w[2]))
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
    """{"conv1d": {name: [N, L, C_in, C_out, K, stride, ...]}}, or what is in the braces alone;
    instead of a list, a shape may be {"N": 1, "L": 100, ...}."""
    table = content.get("conv1d", content) if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping) or not table:
        raise ValueError("expected names of shapes, each with [N, L, C_in, C_out, K, ...]")
    return {name: _shape(name, row) for name, row in table.items()}


def _shape(name: str, row: Any) -> Shape:
    try:
        shape = Shape(**row) if isinstance(row, Mapping) else Shape(*row)
        if not all(type(n) is int for n in shape):
            raise TypeError("every value must be an int")
        if min(shape.problem().output_shape) < 1:
            raise ValueError("it has no output")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"shape {name}: {error}") from error
    return shape
