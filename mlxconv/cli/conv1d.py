"""`mlxconv conv1d`: a convolution from file to file, in blocks, with the bits of the whole."""

import argparse
import sys
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mlxconv.api import conv1d
from mlxconv.arrays import dtype_named
from mlxconv.cli import output, progress
from mlxconv.cli.blocks import Block, blocks_of, span_of
from mlxconv.cli.errors import BadInput
from mlxconv.cli.sources import Header, Source, open_source, read_array, read_header, regular_file
from mlxconv.parameters import Parameters
from mlxconv.problem import Problem, problem_of
from mlxconv.stream import Stream


class Job(NamedTuple):
    """A convolution that has passed all checks."""

    source: Source
    weight: np.ndarray
    problem: Problem
    variant: str
    stream: Stream
    block_bytes: int

    @property
    def dtype(self) -> np.dtype:
        return dtype_named(self.problem.dtype)


def run(options: argparse.Namespace) -> None:
    """Check everything, then convolve."""
    inputs = regular_file(options.input), regular_file(options.weight)
    path = output.destination(options.output, (".npy",), inputs)
    with open_source(inputs[0], options.bfloat16) as source:
        convolve(job_of(options, source, inputs[1]), path, options.quiet)


def convolve(job: Job, path: Path, quiet: bool) -> None:
    """Do the job; `path` is there when it is done, or not at all."""
    shape = job.problem.output_shape
    header, total = output.npy_header(shape, job.dtype), output.array_bytes(shape, job.dtype)
    start = time.perf_counter()
    with (
        output.ended_by_signals(),
        output.whole_file(path, len(header) + total) as file,
        progress.bar(path.name, total, quiet) as advance,
    ):
        file.write(header)
        for block in blocks_of(
            job.problem, job.source.dtype.itemsize, job.dtype.itemsize, job.block_bytes
        ):
            advance(write(file, convolved(job, block)))
    if progress.shown(quiet):
        seconds = time.perf_counter() - start
        print(
            f"{path}: {shape} {job.problem.dtype}, {seconds:.1f} s ({job.variant})", file=sys.stderr
        )


def job_of(options: argparse.Namespace, source: Source, weight_path: Path) -> Job:
    """The Job that the options ask for, or BadInput: in MLX's words where the reason is MLX's."""
    header = read_header(weight_path, options.bfloat16)
    shape, groups = weight_shape(header, source, options.groups)
    parameters = Parameters(
        "conv1d", options.stride, options.padding, options.dilation, 1, groups, False
    )
    try:
        problem = problem_of(parameters, source.shape, source.dtype, shape, header.dtype)
        from mlxconv.dispatch import plan

        variant = plan(problem, options.variant).variant
    except (ValueError, OverflowError) as error:
        raise BadInput(str(error)) from error
    stored = read_array(weight_path, header)
    weight = np.broadcast_to(stored[:, None], shape) if stored.ndim == 1 else stored
    block_bytes = int(options.block_mb * 1e6)
    return Job(source, weight, problem, variant, Stream(options.threads), block_bytes)


def weight_shape(header: Header, source: Source, groups: int | None) -> tuple[tuple[int, ...], int]:
    """The shape of the filters, and the groups: a 1-D filter is put on every channel by itself."""
    if len(header.shape) != 1 or len(source.shape) != 3:
        return header.shape, 1 if groups is None else groups
    channels = source.shape[-1]
    if groups not in (None, channels):
        raise BadInput(
            f"a 1-D filter is put on each of the {channels} channels by itself, which is "
            f"--groups {channels}; leave --groups out"
        )
    return (channels, header.shape[0], 1), max(1, channels)


def convolved(job: Job, block: Block) -> np.ndarray:
    """The outputs of `block`: as conv1d's on the whole input, from the rows they depend on."""
    p = job.problem
    n0, n1, l0, l1 = block
    first, last, lo, hi = span_of(p, l0, l1)
    if first >= last:  # nothing but padding
        return np.zeros((n1 - n0, l1 - l0, p.O), job.dtype)
    x = job.source.read(n0, n1, first, last)
    step, dilation = p.stride[0], p.kernel_dilation[0]
    return conv1d(
        x, job.weight, step, (lo, hi), dilation, p.groups, stream=job.stream, variant=job.variant
    )


def write(file: BinaryIO, y: np.ndarray) -> int:
    """Append `y`; returns its bytes."""
    file.write(output.as_bytes(y))
    return y.nbytes
