"""Cutting a conv1d into blocks that fit memory, each computed as the whole would be.

Blocks come in the order in which the output lies in its file, so that it is written front to back:

    images fit      (n0..n1, all of L_out)  (n1..n2, all of L_out)  ...
    they do not     (n, l0..l1)  (n, l1..l2)  ...  (n+1, l0..l1)  ...

An output is one chain of operations that does not know where its block begins, so blocks change no
bits.  What could is the choice of the kernel, which is why it is made once, for the whole problem,
and an output of fewer than 8 positions, where that choice may depend on the size: a line is cut
into pieces of LEAST_POSITIONS / 2 at the least.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mlxconv.problem import Problem

LEAST_POSITIONS = 32  # per block: four times what the choice of a kernel may look at


class Block(NamedTuple):
    """Output positions [l0, l1) of images [n0, n1)."""

    n0: int
    n1: int
    l0: int
    l1: int


class Span(NamedTuple):
    """The input rows [first, last) that a block reads, and the padding that goes around them."""

    first: int
    last: int
    lo: int
    hi: int


def blocks_of(p: Problem, input_itemsize: int, output_itemsize: int, size: int) -> Iterator[Block]:
    """The blocks of `p`, each with about `size` bytes of input and output, none if it has no
    output."""
    L_out = p.output_L[0]
    if p.N == 0 or p.O == 0 or L_out == 0:
        return
    row_in, row_out = p.C * input_itemsize, p.O * output_itemsize
    images = size // max(1, p.L[0] * row_in + L_out * row_out)
    if images >= 1:
        for n in range(0, p.N, images):
            yield Block(n, min(n + images, p.N), 0, L_out)
        return
    pieces = -(-L_out // _positions(p, row_in, row_out, size))
    for n in range(p.N):
        for i in range(pieces):
            yield Block(n, n + 1, L_out * i // pieces, L_out * (i + 1) // pieces)


def _positions(p: Problem, row_in: int, row_out: int, size: int) -> int:
    """Output positions per block, at least as many as make its input two windows long: blocks of
    fewer would read the input more than twice."""
    window, stride = min(p.window[0], p.L[0]), p.stride[0]
    fitting = (size - window * row_in) // max(1, stride * row_in + row_out)
    return max(fitting, LEAST_POSITIONS, window // stride)


def span_of(p: Problem, l0: int, l1: int) -> Span:
    """What output positions [l0, l1) read.  Where that is nothing but padding, first >= last."""
    start = l0 * p.stride[0] - p.padding_lo[0]
    end = (l1 - 1) * p.stride[0] - p.padding_lo[0] + p.window[0]
    first, last = max(0, start), min(end, p.L[0])
    return Span(first, last, first - start, end - last)
