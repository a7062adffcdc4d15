"""Why a problem is computed the way it is: the row of the table, its tile, runs and split."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxconv.arrays import as_array, dtype_named
from mlxconv.dispatch import plan
from mlxconv.plan import Plan
from mlxconv.problem import Ints, Parameters, Problem, problem_of
from mlxconv.stream import resolve
from mlxconv.threads import default_threads, layer


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `str()` says it in words."""

    problem: Problem
    variant: str
    """The row of the table that computes the problem."""
    tile: str
    """Its register tile: output positions x vectors of filters, "6x2 f32x8"."""
    runs: tuple[int, int]
    """The window of one output: contiguous pieces of the input, and elements in each."""
    jobs: int
    """Pieces of work that threads share."""
    split: str
    """What they are: blocks of a line of output positions, of a group, of panels of filters."""
    threads: int
    layer: str
    """Whose threads: numba's "omp" or "tbb", our "pool", or "serial"."""
    refused: tuple[tuple[str, str], ...]
    """The rows tried before, and why each was refused."""

    def __str__(self) -> str:
        p = self.problem
        count, length = self.runs
        lines = [
            f"{_shape(p.input_shape)} {p.input_dtype} with {p.O} filters of {_shape(p.K)} taps"
            f"{f', {p.groups} groups' if p.groups > 1 else ''}"
            f" -> {_shape(p.output_shape)} {p.dtype}, {p.flop / 1e9:.3g} GFLOP",
            f"  variant   {self.variant}",
            f"  tile      {self.tile or 'none: plain loops'}",
            f"  window    {count} run{'s' * (count != 1)} of {length} elements",
            f"  work      {self.jobs} jobs ({self.split}) on up to {self.threads} threads"
            f" ({self.layer})",
        ]
        lines += [f"  refused   {name}: {reason}" for name, reason in self.refused]
        return "\n".join(lines)


def explain(
    input: Any,
    weight: Any,
    /,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    input_dilation: Any = 1,
    flip: bool = False,
    dtype: Any = None,
    stream: Any = None,
    variant: str | None = None,
) -> Explanation:
    """Say which kernel a convolution takes, and why; nothing is compiled or computed.

    Parameters
    ----------
    input, weight : array_like, or shape
        The arrays of a `conv1d` (of a `conv_general` with two or three spatial axes), or just
        their shapes as tuples of int.
    stride, padding, dilation, groups, stream, variant
        As in `conv1d`; `padding` also as in `conv_general`.
    input_dilation, flip
        As in `conv_general`.
    dtype : dtype_like or (dtype_like, dtype_like), optional
        The type of shapes, float32 if not given; a pair is the input's and the weight's.

    Returns
    -------
    Explanation
        Print it, or read its attributes.

    Raises
    ------
    TypeError, ValueError
        As the convolution itself would.

    Examples
    --------
    >>> print(mlxconv.explain((1, 3000, 512), (512, 3, 512), stride=2, padding=1))  # doctest: +SKIP
    """
    pair = isinstance(dtype, tuple) and len(dtype) == 2
    x_dtype, w_dtype = dtype if pair else (dtype, dtype)
    x_shape, x_type = _shape_and_type("input", input, x_dtype)
    w_shape, w_type = _shape_and_type("weight", weight, w_dtype)
    simple = len(x_shape) == 3 and input_dilation == 1 and not flip
    function = "conv1d" if simple and not _per_end_pairs(padding) else "conv_general"
    q = Parameters(function, stride, padding, dilation, input_dilation, groups, flip)
    p = plan(problem_of(q, x_shape, x_type, w_shape, w_type), variant)
    return _explanation(p, resolve(stream).threads or default_threads())


def _explanation(p: Plan, threads: int) -> Explanation:
    jobs = p.schedule.steps[-1].jobs
    return Explanation(
        problem=p.problem,
        variant=p.variant,
        tile=p.schedule.tile,
        runs=_runs(p.real),
        jobs=jobs,
        split=_split(p),
        threads=min(threads, max(1, jobs)),
        layer=layer(),
        refused=p.refused,
    )


def _split(p: Plan) -> str:
    """The factors of the number of jobs."""
    g = p.schedule.geometry[0]
    lines = p.real.N * math.prod(p.real.output_L[:-1])
    if not p.schedule.tile:
        return "one per output position"
    factors = {
        "lines": lines,
        "groups": g["groups"],
        "blocks of positions": g["blocks"],
        "blocks of panels": g["panel_blocks"],
    }
    return " x ".join(f"{n} {name}" for name, n in factors.items() if n > 1) or "one block"


def _runs(real: Problem) -> tuple[int, int]:
    """Runs of a window inside a C-contiguous input, and their length."""
    C = real.C // real.groups
    if real.kernel_dilation[-1] == 1 and real.groups == 1:
        return math.prod(real.K[:-1]), real.K[-1] * C
    return math.prod(real.K), C


def _per_end_pairs(padding: Any) -> bool:
    """Whether `padding` is conv_general's pair of sequences."""
    return isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding)


def _shape_and_type(name: str, value: Any, dtype: Any) -> tuple[Ints, np.dtype[Any]]:
    if isinstance(value, tuple) and all(type(n) is int for n in value):
        wanted = dtype if dtype is not None else np.float32
        return value, dtype_named(wanted) if isinstance(wanted, str) else np.dtype(wanted)
    a = as_array(name, value)
    return a.shape, a.dtype if dtype is None else np.dtype(dtype)


def _shape(values: Ints) -> str:
    return "(" + ", ".join(map(str, values)) + ")"
