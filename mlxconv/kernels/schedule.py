"""How a kernel computes a problem: its jobs, its blocks, the memory it needs beside the arrays."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from mlxconv import processor, workspace
from mlxconv.forks import cached_property
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.entry import serial
from mlxconv.kernels.geometry import (
    COPY_FLOP,
    across_groups,
    block_call,
    geometry_of,
    pack_call,
    range_call,
)
from mlxconv.kernels.loops import blocks, gathered, panelwise, runs_block, tile_call
from mlxconv.kernels.packing import packers, packs
from mlxconv.kernels.window import strip_copies, strip_elements, strips_call
from mlxconv.simd.address import address_of
from mlxconv.simd.vector import vec_of

if TYPE_CHECKING:
    from mlxconv.problem import Problem


class Step(NamedTuple):
    """Jobs [0, jobs) of a range kernel; the jobs of a step do not depend on each other."""

    kernel: Callable[..., None]
    jobs: int
    flop: float  # estimated work of the whole step, for the split over threads


class Part(NamedTuple):
    """A kernel that range kernels call by the address in this field of the geometry."""

    field: str
    kernel: Callable[..., None]
    call: Callable[..., None]


class Tile(NamedTuple):
    """A register tile that a variant may take."""

    shape: tuple[int, int]  # MR positions, NV vectors
    efficiency: float  # the share of the FMA peak it reaches with all lanes in use


@dataclass(frozen=True, eq=False)
class Schedule:
    """Everything a call needs to know beside its arrays; sizes count elements."""

    elements: Elements
    geometry: np.ndarray  # one GEOMETRY record
    steps: tuple[Step, ...]
    tile: str = ""  # as people call it, "6x2 f32x8"
    parts: tuple[Part, ...] = ()
    panels: int = 0  # packed filters
    shared: int = 0  # ... as many, if the first step packs them for all workers
    scratch: int = 0  # per worker
    runs: int = 1  # per worker
    split: tuple[tuple[str, int], ...] = ()  # what the jobs are, for people: (name, count)
    suspects: bool = False  # whether a zero that is none of the data may meet an infinity

    @cached_property
    def flop(self) -> float:
        """Estimated work of all steps."""
        return sum(step.flop for step in self.steps)

    def compile(self) -> np.ndarray:
        """The geometry with the addresses of its kernels; compiles or loads what is not there."""
        return self._compiled

    @cached_property
    def _compiled(self) -> np.ndarray:
        g, call = self.geometry, range_call(self.elements)
        for part in self.parts:
            g[part.field] = address_of(part.kernel, part.call)
        g["steps"] = len(self.steps)
        for i, step in enumerate(self.steps):
            g["step"][0, i], g["jobs"][0, i] = address_of(step.kernel, call), step.jobs
        return g.view(np.recarray) if numba.config.DISABLE_JIT else g

    @cached_property
    def layout(self) -> tuple[Any, ...]:
        """What the order of the packed filters depends on, beside the filters."""
        names = ("NR", "phases", "phase_rows", "groups")
        return (self.elements.dtype, *(int(self.geometry[name][0]) for name in names))

    @cached_property
    def idle(self) -> list[workspace.Workspace] | None:
        """Workspaces that are kept for small calls on one thread, this one's among them."""
        return workspace.kept(self, 1)

    @cached_property
    def on_one_thread(self) -> Callable[..., int]:
        """What runs the steps, see `entry.serial`."""
        return serial(self.elements)


def schedule_of(
    p: "Problem",
    micro_kernel: Callable[..., Callable[..., None]],
    tile: tuple[int, int],
    depthwise: bool = False,
    phases: int = 1,
    narrow: tuple[int, int] | None = None,
) -> Schedule:
    """The schedule of a register tile (MR, NV): panels of NR filters, blocks of positions.

    With `depthwise` the vectors of the tile run over groups; with `phases` each row of a tile
    computes that many neighbouring positions; `narrow` is a tile of one vector, for filters that
    do not fill one of the other."""
    elements = Elements(p.input_dtype, p.dtype)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    (MR, NV), NR = tile, tile[1] * vec.lanes
    g = in_phases(p, phases)
    g = across_groups(g, NR) if depthwise else g
    left = int(g["O"][0]) % NR if narrow and g["O"][0] > NR else 0
    narrow = narrow if narrow and 0 < left <= vec.lanes else None
    g["MR"] = max(MR, narrow[0]) if narrow else MR  # each block is enough for both
    g["NR"], g["panels"] = NR, -(-int(g["O"][0]) // NR)
    window = math.prod(g["K"][0].tolist()) * int(g["C"][0])
    work = _work(g, window, depthwise)
    if not depthwise and _meets_few(g, window, elements):
        range_kernel, strip = panelwise, _panel_blocks(g, window)
    elif _gathers(g):
        range_kernel, strip = gathered, _gathered_blocks(g)
    else:
        range_kernel, strip = blocks, _line_blocks(g, window, elements, work)
    if depthwise:
        g["mode"] = g["overlaps"]
        g["panel_blocks"] = 1 if g["overlaps"][0] else g["panel_blocks"]
    by_line, whole = range_kernel is blocks, int(g["groups"][0] * g["panels"][0])
    lines = p.N * math.prod(p.output_L[:-1]) if by_line else 1
    split = (
        ("lines", lines),
        ("blocks of positions", int(g["blocks"][0]) + int(by_line and g["tail"][0] > 0)),
        ("blocks of groups", int(g["group_blocks"][0])),
        ("blocks of panels", int(g["panel_blocks"][0])),
    )
    panels = whole * window * NR
    tiles = [micro_kernel(*shape, vec) for shape in (tile, narrow) if shape]
    packing = Step(packs(elements), whole, PACK_FLOP * panels)
    alone = range_kernel is panelwise or _packs_alone(panels, packing.flop, work)
    filters = -(-int(g["panels"][0]) // int(g["panel_blocks"][0])) * NR
    rows = max(int(g["MR"][0]), _block_rows(g, by_line) if elements.rounds else 0)
    g["block_at"] = strip = -(-strip // vec.lanes) * vec.lanes
    kept = (elements.rounds or not by_line) * rows * filters
    g["panels_at"] = own = strip + -(-kept // vec.lanes) * vec.lanes
    return Schedule(
        elements,
        g,
        steps=(packing, Step(range_kernel(elements, vec), math.prod(n for _, n in split), work)),
        tile=f"{MR}x{NV}{' and {}x{}'.format(*narrow) if narrow else ''} {vec.name}",
        parts=tuple(_parts(elements, vec, tiles, by_line)),
        panels=panels,
        shared=0 if alone else panels,
        scratch=own + alone * (window * NR if range_kernel is panelwise else panels),
        runs=2 * math.prod(g["K"][0].tolist()) + 1,
        split=split,
        suspects=phases > 1 or meets_padding(p),
    )


def _parts(elements: Elements, vec: Any, tiles: list[Any], by_line: bool) -> Iterator[Part]:
    """What the range kernels call by address, with this tile and that of one vector, if any."""
    for field, kernel in zip(("tile", "narrow"), tiles, strict=False):
        yield Part(field, kernel, tile_call(elements.dtype))
    yield Part("pack", packers(vec), pack_call(elements))
    if by_line:
        yield Part("strips", strip_copies(elements, vec), strips_call(elements))
        yield Part("run", runs_block(elements), block_call(elements))


def _gathers(g: np.ndarray) -> bool:
    """Whether blocks gather their windows from anywhere, instead of being pieces of a line: where
    lines are shorter than a tile, or the last tile of each wastes more than the copies take."""
    W, MR, taps = int(g["out"][0, 2]), int(g["MR"][0]), math.prod(g["K"][0].tolist())
    if W < MR:
        return True
    if taps == 1 or g["panel_channels"][0] or g["phases"][0] > 1:
        return False
    wasted = -(-W // MR) * MR / W - 1
    return wasted * 2 * int(g["O"][0]) > COPY_FLOP


PACK_FLOP = 16  # per weight: what a tile could do in the time that packing takes


def _packs_alone(panels: int, packing: float, work: float) -> bool:
    """Whether each worker packs all filters for itself: where they are few, or to pack them takes
    less than a 16th of its time."""
    return panels <= 1 << 15 or packing * 16 * processor.cores() <= work


WINDOWS_BYTES = 1 << 23  # of all windows of a group, which each worker copies, to L3 at the most


def _meets_few(g: np.ndarray, window: int, elements: Elements) -> bool:
    """Whether filters meet so few positions that to gather all windows takes less than to write
    the packed filters and read them again."""
    positions, cores = int(g["N"][0]) * math.prod(g["out"][0].tolist()), processor.cores()
    return (
        g["phases"][0] == 1
        and positions * cores <= 2 * g["O"][0]
        and g["groups"][0] * g["panels"][0] >= 4 * cores
        and positions * window * np.dtype(elements.dtype).itemsize <= WINDOWS_BYTES
    )


TILE_FLOP = 3200  # per register tile: 100 cycles beside its multiply-adds
DEPTHWISE = 3  # a multiply-add that loads its operand waits for it


def _work(g: np.ndarray, window: int, depthwise: bool) -> float:
    """What the tiles compute, zeros and lanes that nobody needs as well, in FLOP at full speed."""
    lines = int((g["N"] * g["out"][0, 0] * g["out"][0, 1])[0])
    tiles = lines * -(-int(g["out"][0, 2]) // int(g["MR"][0])) * int((g["groups"] * g["panels"])[0])
    per_tile = 2 * int((g["MR"] * g["NR"])[0]) * window * (DEPTHWISE if depthwise else 1)
    return float(tiles * (per_tile + TILE_FLOP))


def lanes_of(p: "Problem") -> int:
    """Elements of a vector of the arithmetic's type."""
    itemsize = np.dtype(Elements(p.input_dtype, p.dtype).dtype).itemsize
    return processor.vector_bytes() // itemsize


def in_phases(p: "Problem", phases: int) -> np.ndarray:
    """The geometry of `p` with rows of `phases` positions each, every filter once per phase."""
    if phases == 1:
        return geometry_of(p)
    *outer, stride = p.stride
    taps = p.K[-1] + (phases - 1) * stride
    rows = p._replace(O=p.O * phases, K=(*p.K[:-1], taps), stride=(*outer, stride * phases))
    g = geometry_of(rows)
    g["phases"], g["tail"] = phases, p.output_L[-1] % phases
    g["phase_rows"], g["weights"] = stride * p.C, p.K[-1] * p.C
    g["out_line"] = p.output_L[-1] * p.O
    for name in ("w_filter", "w_step"):  # the filters themselves have no more taps than before
        g[name] = geometry_of(p)[name]
    g["w_run"] = g["weights"]
    return g


def meets_padding(p: "Problem") -> bool:
    """Whether some window of `p` reaches past the ends of an axis."""
    axes = zip(p.L, p.output_L, p.stride, p.window, p.padding_lo, strict=True)
    return any(
        padding > 0 or (positions - 1) * stride + window - padding > L
        for L, positions, stride, window, padding in axes
    )


def _block_rows(g: np.ndarray, by_line: bool) -> int:
    """Positions of the largest block."""
    if not by_line:
        positions = int(g["N"][0]) * math.prod(g["out"][0].tolist())
        return -(-positions // int(g["blocks"][0]))
    tiles = -(-int(g["tiles"][0]) // int(g["blocks"][0]))
    return min(max(1, tiles) * int(g["MR"][0]), int(g["out"][0, 2]))


def _line_blocks(g: np.ndarray, window: int, elements: Elements, flop: float) -> int:
    """Set the blocks of positions, groups and panels; returns the elements of a strip of input."""
    W, MR, NR = int(g["out"][0, 2]), int(g["MR"][0]), int(g["NR"][0])
    groups, panels = int(g["groups"][0]), int(g["panels"][0])
    itemsize, L2 = np.dtype(elements.dtype).itemsize, processor.caches().L2_bytes
    panel_bytes, x_bytes = window * NR * itemsize, int(g["stride"][0, 2] * g["width"][0]) * itemsize
    g["mode"] = panels * panel_bytes <= (L2 // 4 if window <= 64 else L2 // 32)
    positions = block_positions(MR, x_bytes, panel_bytes)
    if groups > 1:  # the next group finds the rest of the cache lines of this one in L2
        y_bytes = int(g["out_row"][0]) * itemsize
        positions = block_positions(MR, groups * x_bytes + y_bytes, panel_bytes)
    if elements.rounds:  # their outputs stay in scratch until they are rounded
        positions = min(positions, (1 << 16) // (NR * panels))
    positions = max(MR, positions // MR * MR)
    lines = int(g["N"][0]) * math.prod(g["out"][0, :2].tolist())
    wanted = min(8 * processor.cores(), max(1, round(flop / JOB_FLOP)))
    parts = max(1, min(groups, -(-wanted // max(1, lines * -(-W // positions)))))
    g["tiles"], g["group_blocks"] = -(-W // MR), parts
    g["blocks"], g["panel_blocks"] = split(W, MR, positions, lines * parts, panels, flop)
    return strip_elements(g, _block_rows(g, True))


def _gathered_blocks(g: np.ndarray) -> int:
    """The same for blocks of gathered windows, which take up to 128 KB in L2."""
    MR, size = int(g["MR"][0]), math.prod(g["K"][0].tolist()) * int(g["width"][0])
    positions = max(1, int(g["N"][0]) * math.prod(g["out"][0].tolist()))
    rows = MR * max(1, min(8, (1 << 15) // max(1, size * MR)))
    blocks = max(1, positions // rows)
    cores, groups = processor.cores(), int(g["groups"][0])
    parts = min(int(g["panels"][0]), -(-cores // max(1, blocks * groups)))
    g["blocks"], g["group_blocks"], g["panel_blocks"] = blocks, groups, max(1, parts)
    return max(MR, -(-positions // blocks)) * size


def _panel_blocks(g: np.ndarray, window: int) -> int:
    """The same where a block is all positions and one panel."""
    g["blocks"], g["group_blocks"], g["panel_blocks"] = 1, g["groups"], g["panels"]
    return max(int(g["MR"][0]), int(g["N"][0]) * math.prod(g["out"][0].tolist())) * window


def block_positions(MR: int, row_bytes: int, panel_bytes: int) -> int:
    """Positions per block: their input and one panel share half of L2, since the rest of the
    panels, the output and the prefetchers want the other half."""
    room = processor.caches().L2_bytes // 2 - panel_bytes
    return MR * max(4, min(64, room // max(1, row_bytes * MR)))


JOB_FLOP = 1e6  # 10 us: a job costs up to 1 us beside its multiply-adds


def split(W: int, MR: int, positions: int, lines: int, panels: int, flop: float) -> tuple[int, int]:
    """(blocks of a line, blocks of panels), so that every core gets an equal share of jobs.

    Lines too few for that are cut into smaller blocks, down to two tiles and JOB_FLOP; where that
    is still too little, the panels are split as well.
    """
    cores = min(processor.cores(), max(1, round(flop / JOB_FLOP)))
    tiles = -(-W // MR)
    blocks = -(-W // positions)
    if lines * blocks < 8 * cores and lines * blocks % cores:
        blocks = max(blocks, min(-(-blocks // cores) * cores, tiles // 2))
    panel_blocks = 1
    if lines * blocks < cores:
        panel_blocks = min(panels, -(-cores // max(1, lines * blocks)))
    return max(1, blocks), max(1, panel_blocks)
