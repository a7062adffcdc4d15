"""How a kernel computes a problem: its jobs, its blocks, the memory it needs beside the arrays."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlxconv import processor
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import across_groups, geometry_of, range_call
from mlxconv.kernels.loops import blocks, tile_call
from mlxconv.kernels.packing import pack_panels
from mlxconv.kernels.window import strip_elements
from mlxconv.simd.address import address_of
from mlxconv.simd.vector import vec_of

if TYPE_CHECKING:
    from mlxconv.problem import Problem


class Step(NamedTuple):
    """Jobs [0, jobs) of a range kernel; the jobs of a step do not depend on each other."""

    kernel: Callable[..., None]
    jobs: int
    flop: int  # estimated work of the whole step, for the split over threads
    scratch: bool = True  # whether it uses the scratch and the runs of the schedule


@dataclass(frozen=True, eq=False)
class Schedule:
    """Everything a call needs to know beside its arrays; sizes count elements."""

    elements: Elements
    geometry: np.ndarray  # one GEOMETRY record
    steps: tuple[Step, ...]
    tile: str = ""  # as people call it, "6x2 f32x8"
    micro_kernels: tuple[Callable[..., None], ...] = ()  # of MR positions, and of one
    panels: int = 0  # packed filters
    units: int = 0  # panels of all groups
    scratch: int = 0  # per worker
    runs: int = 0  # per worker

    def compile(self) -> tuple[int, ...]:
        """The addresses of the steps' range kernels; compiles or loads what is not there yet."""
        return self._addresses

    @cached_property
    def _addresses(self) -> tuple[int, ...]:
        call = tile_call(self.elements.dtype)
        for field, tile in zip(("tile", "single"), self.micro_kernels, strict=False):
            self.geometry[field] = address_of(tile, call)
        return tuple(address_of(s.kernel, range_call(self.elements)) for s in self.steps)


def schedule_of(
    p: "Problem",
    micro_kernel: Callable[..., Callable[..., None]],
    tile: tuple[int, int],
    depthwise: bool = False,
) -> Schedule:
    """The schedule of a register tile (MR, NV): panels of NR filters, blocks of positions.

    With `depthwise` the vectors of the tile run over groups."""
    elements = Elements(p.input_dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    (MR, NV), NR, taps = tile, tile[1] * vec.lanes, math.prod(p.K)
    g = across_groups(geometry_of(p), NR) if depthwise else geometry_of(p)
    W, groups, lines = p.output_L[-1], int(g["groups"][0]), p.N * math.prod(p.output_L[:-1])
    panels, window = -(-p.O // groups // NR), taps * int(g["C"][0])
    row_bytes = p.stride[-1] * int(g["width"][0]) * vec.dtype.itemsize
    positions = block_positions(MR, row_bytes, window * NR * vec.dtype.itemsize)
    blocks_, panel_blocks = split(W, MR, positions, lines * groups, panels)
    g["MR"], g["NR"], g["tiles"], g["blocks"] = MR, NR, -(-W // MR), blocks_
    g["panels"], g["panel_blocks"] = panels, panel_blocks
    largest = max(MR, -(-int(g["tiles"][0]) // blocks_) * MR)
    g["tile_at"] = strip = strip_elements(g, min(largest, W))
    return Schedule(
        elements,
        g,
        steps=(
            Step(pack_panels, groups * panels, 16 * groups * panels * window * NR, scratch=False),
            Step(blocks(elements), lines * groups * blocks_ * panel_blocks, p.flop),
        ),
        tile=f"{MR}x{NV} {vec.name}",
        micro_kernels=(micro_kernel(MR, NV, vec), micro_kernel(1, NV, vec)),
        panels=groups * panels * window * NR,
        units=groups * panels,
        scratch=strip + MR * NR,
        runs=2 * taps,
    )


def block_positions(MR: int, row_bytes: int, panel_bytes: int) -> int:
    """Positions per block: their input and one panel share half of L2, since the rest of the
    panels, the output and the prefetchers want the other half."""
    room = processor.caches().L2_bytes // 2 - panel_bytes
    return MR * max(4, min(64, room // max(1, row_bytes * MR)))


def split(W: int, MR: int, positions: int, lines: int, panels: int) -> tuple[int, int]:
    """(blocks of a line, blocks of panels), so that every core gets an equal share of jobs.

    Lines too few for that are cut into smaller blocks, down to two tiles; where that is still
    too little, the panels are split as well.
    """
    cores = processor.cores()
    tiles = -(-W // MR)
    blocks = -(-W // positions)
    if lines * blocks < 8 * cores and lines * blocks % cores:
        blocks = max(blocks, min(-(-blocks // cores) * cores, tiles // 2))
    panel_blocks = 1
    if lines * blocks < cores:
        panel_blocks = min(panels, -(-cores // max(1, lines * blocks)))
    return max(1, blocks), max(1, panel_blocks)
