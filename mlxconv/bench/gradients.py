"""Gradients as contests: what is given, who computes them, and how exact ours are."""

import importlib
import math
from typing import Any

import numpy as np

from mlxconv import sampling
from mlxconv.bench.engines import OURS, Contender, Contenders, Task
from mlxconv.bench.shapes import Shape
from mlxconv.input_gradient import input_gradient, transposed

KINDS = ("input", "weight")  # by which of them


def operands(shape: Shape, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, filters and a cotangent, scaled so that sums over positions are about 1 in size."""
    x, w = shape.data(dtype)
    result = shape.problem(dtype).output_shape
    dy = np.random.default_rng(1).standard_normal(result) / math.sqrt(math.prod(result[:-1]))
    return x, w, dy.astype(dtype)


def ours(task: Task) -> Contenders:
    """mlxconv's function, a plain call on NumPy arrays."""
    import mlxconv

    s, (x, w, dy) = task.shape, operands(task.shape, task.x.dtype.name)
    given = (dy, w, x.shape) if task.gradient == "input" else (x, dy, w.shape)
    function = getattr(mlxconv, f"{s.function}_{task.gradient}_grad")
    options = {**s.parameters, "stream": mlxconv.Stream(task.threads)}
    return {"nlc": Contender(lambda: function(*given, **options), np.asarray)}


def torch(task: Task) -> Contenders:
    """The backward of aten, on (N, C, ...) and on channels last; conv1d as conv2d of height 1."""
    t = importlib.import_module("torch")
    t.set_num_threads(task.threads)
    s, arrays = task.shape, operands(task.shape, task.x.dtype.name)
    flat, by_input = s.rank == 1, task.gradient == "input"
    x, w, dy = (t.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1))) for a in arrays)
    w = w.transpose(0, 1).contiguous() if s.transposed else w
    where = [s.per_axis(name) for name in ("stride", "padding", "dilation")]
    if flat:
        x, w, dy = (a.unsqueeze(2) for a in (x, w, dy))
        where = [(missing, *values) for missing, values in zip((1, 0, 1), where, strict=True)]
    wanted = [by_input, not by_input, False]
    rest = (None, *where, s.transposed, [0] * len(where[0]), s.groups, wanted)

    def read(gradients: Any) -> np.ndarray:
        found = gradients[0] if by_input else gradients[1]
        found = found.squeeze(2) if flat else found
        turned = found.transpose(0, 1) if s.transposed and not by_input else found
        return np.moveaxis(np.asarray(turned), 1, -1)

    def contender(layout: Any) -> Contender:
        given = tuple(a.contiguous(memory_format=layout) for a in (dy, x, w))
        return Contender(lambda: t.ops.aten.convolution_backward(*given, *rest), read)

    last = t.channels_last_3d if s.rank == 3 else t.channels_last
    return {"ncl": contender(t.contiguous_format), "channels_last": contender(last)}


ENGINES = {OURS: ours, "torch": torch}


def result_shape(shape: Shape, gradient: str) -> tuple[int, ...]:
    """That of the gradient: the input's or the filters'."""
    return shape.arrays[KINDS.index(gradient)]


def largest_error(shape: Shape, dtype: str, gradient: str, found: np.ndarray) -> float:
    """max |found - exact| / (u sum |products|) over sampled elements, by the definition."""
    (x, w, dy), p = operands(shape, dtype), shape.problem(dtype)
    if gradient == "weight":
        return sampling.largest_error(p, x, dy, found, sampling.exact_weight)
    turned = transposed(w, p.groups, not p.flip)
    return sampling.largest_error(input_gradient(p), dy, turned, found)
