"""How a kernel computes a problem: its jobs, its blocks, the memory it needs beside the arrays."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from mlxconv import processor, workspace
from mlxconv.arrays import BITS, CACHE_LINE_BYTES
from mlxconv.forks import cached_property
from mlxconv.kernels import blocking, few_positions
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.entry import serial
from mlxconv.kernels.geometry import (
    FILTERS,
    KEPT,
    OUTPUTS,
    OVERLAPS,
    SLIDES,
    block_call,
    pack_call,
    range_call,
)
from mlxconv.kernels.layouts import across_groups, in_phases
from mlxconv.kernels.loops import blocks, gathered, runs_block, runs_lines, tile_call
from mlxconv.kernels.packing import packers, packs
from mlxconv.kernels.padding import meets_padding
from mlxconv.kernels.pieces import runs_gathered, runs_pieces
from mlxconv.kernels.sharing import share_lines
from mlxconv.kernels.window import strip_copies, strips_call
from mlxconv.simd.address import address_of
from mlxconv.simd.vector import vec_of
from mlxconv.waking import Pace

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
    share: int = 1  # vectors of its kind to a register: 2 are halves, for few filters

    def vec(self, elements: Elements) -> Any:
        """Its vectors, of the type of the arithmetic."""
        return vec_of(elements.dtype, processor.vector_bytes() // self.share)

    def name(self, elements: Elements) -> str:
        """As people call it, "6x2 f32x8"."""
        return f"{self.shape[0]}x{self.shape[1]} {self.vec(elements).name}"


@dataclass(frozen=True, eq=False)
class Schedule:
    """Everything a call needs to know beside its arrays; sizes count elements."""

    elements: Elements
    geometry: np.ndarray  # one GEOMETRY record
    steps: tuple[Step, ...]
    tile: str = ""  # as people call it, "6x2 f32x8"
    parts: tuple[Part, ...] = ()
    panels: int = 0  # packed filters, and a vector behind them
    shared: int = 0  # ... as many, if the first step packs them for all workers
    scratch: int = 0  # per worker
    runs: int = KEPT  # per worker
    split: tuple[tuple[str, int], ...] = ()  # what the jobs are, for people: (name, count)
    by_line: bool = False  # whether blocks are of lines, which may lie anywhere in the output
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
        names = ("NR", "narrow_NR", "banks", "bank_rows", "groups", "checks")
        return (self.elements.arrays()["w"], *(int(self.geometry[name][0]) for name in names))

    @cached_property
    def idle(self) -> list[workspace.Workspace] | None:
        """Workspaces that are kept for small calls on one thread, this one's among them."""
        return workspace.kept(self, 1)

    @cached_property
    def pace(self) -> Pace:
        """How long its launches take."""
        return Pace()

    @cached_property
    def on_one_thread(self) -> Callable[..., int]:
        """What runs the steps, see `entry.serial`."""
        return serial(self.elements)


class Layout(NamedTuple):
    """How the tiles of a variant lie over a problem."""

    over_groups: int = 0  # filters of a group, if vectors run over those of all groups
    in_vectors: bool = False  # whether tiles read windows by vectors
    tap_block: int = 1  # taps of a line that are summed together
    phases: int = 1  # neighbouring positions that each row of a tile computes
    narrow: Tile | None = None  # of fewer vectors, for filters that are left over
    edge: Callable[..., Callable[..., None]] | None = None  # makes the tile of one position
    by_filter: int = 0  # a panel is a filter, and a tile meets all: where they STAY, if anywhere
    takes_pieces: bool = False  # whether there are tiles that add to the sums of other PIECES
    may_stream: bool = False  # whether there are tiles that STREAM: write past the caches
    keeps_rows: bool = False  # whether rows are kept until they fill lines that are written so
    ahead: Mapping[str, int] = {}  # what tiles ask for ahead of the input, and how far


def schedule_of(
    p: "Problem",
    micro_kernel: Callable[..., Callable[..., None]],
    tile: Tile,
    layout: Layout = Layout(),
) -> Schedule:
    """The schedule of a register tile: panels of NR filters, blocks of positions."""
    elements = Elements(p.input_dtype, p.dtype, layout.in_vectors and p.input_dtype in BITS)
    vec = vec_of(elements.dtype, processor.vector_bytes())
    g = _tiled(p, tile, layout, elements)
    window, NR = math.prod(g["K"][0].tolist()) * int(g["C"][0]), int(g["NR"][0])
    strip, few, work = _blocked(p, g, tile, layout, elements)
    if in_pieces := bool(g["piece"][0]):
        micro_kernel = partial(micro_kernel, PIECES_AHEAD=few_positions.rows_ahead(g))
    split, by_line = _split(g), bool(g["tiles"][0])
    written = math.prod(p.output_shape)
    moved = math.prod(p.input_shape) + written
    if layout.may_stream and blocking.streams(g, elements, moved):
        micro_kernel = partial(micro_kernel, STREAMS=1)
    g["keeps_rows"] = layout.keeps_rows and by_line and int(g["panel_blocks"][0]) == 1
    if (ahead := blocking.reads_ahead(g, elements, moved)) in layout.ahead:
        micro_kernel = partial(micro_kernel, **{ahead: layout.ahead[ahead]})
    tiles = [t for t in (tile, layout.narrow) if t]
    kernels = {
        field: micro_kernel(*t.shape, t.vec(elements))
        for field, t in zip(("tile", "narrow"), tiles, strict=False)
    }
    if layout.edge and g["in_place"][0]:
        kernels["edge"] = layout.edge(1, 1, tile.vec(elements))
    whole = int(g["groups"][0] * g["panels"][0])
    panels, range_kernel = whole * window * NR + vec.lanes, blocks if by_line else gathered
    packing = Step(packs(elements), whole, blocking.pack_flop(panels))
    computing = Step(range_kernel(elements, vec), math.prod(n for _, n in split), work)
    parts = int(g["group_blocks"][0] * g["panel_blocks"][0])
    panel_bytes = panels * np.dtype(elements.dtype).itemsize
    # a line that another core has written takes five times as long to read as to pack
    alone = few or parts >= processor.cores() or blocking.fit_side_by_side(panel_bytes)
    own, rows = _scratch(g, strip, vec.lanes), math.prod(_parts_of_job(g)) * window
    suspects = layout.phases > 1 or meets_padding(p)
    if suspects:
        few = written < panels or layout.phases > 1  # which may pad filters
        g["checks"] = OUTPUTS if few else FILTERS
    return Schedule(
        elements,
        g,
        steps=(packing, computing),
        tile=" and ".join(t.name(elements) for t in tiles),
        parts=tuple(_parts(elements, vec, kernels, by_line, in_pieces)),
        panels=panels,
        shared=0 if alone else panels,
        scratch=own + alone * ((int(g["piece"][0]) or rows) * NR + vec.lanes),
        runs=2 * math.prod(g["K"][0].tolist()) + KEPT,
        split=split,
        by_line=by_line,
        suspects=suspects,
    )


def _tiled(p: "Problem", tile: Tile, layout: Layout, elements: Elements) -> np.ndarray:
    """The geometry of `p` with panels of the tile's filters."""
    NR = 1 if layout.by_filter else tile.shape[1] * tile.vec(elements).lanes
    NR -= NR % (layout.over_groups or 1)
    g = in_phases(p, layout.phases)
    g = across_groups(g, NR) if layout.over_groups else g
    g["MR"], narrow = tile.shape[0], layout.narrow
    g["rows"] = max(t.shape[0] for t in (tile, narrow) if t)
    if narrow:
        g["narrow_MR"] = narrow.shape[0]
        g["narrow_NR"] = narrow.shape[1] * narrow.vec(elements).lanes
    g["NR"], g["panels"], g["tap_block"] = NR, -(-int(g["O"][0]) // NR), layout.tap_block
    return g


def _blocked(
    p: "Problem", g: np.ndarray, tile: Tile, layout: Layout, elements: Elements
) -> tuple[int, bool, float]:
    """Set the blocks; returns the elements of a strip of input, or of the windows that a block
    gathers, whether there are few positions, and the work."""
    window = math.prod(g["K"][0].tolist()) * int(g["C"][0])
    shares = not (layout.over_groups or layout.by_filter)
    itemsize, piece = np.dtype(elements.dtype).itemsize, 0
    gathers = blocking.gathers(g, tile.shape[0], itemsize)
    work = _work(g, window, layout, gathers)
    if layout.takes_pieces and elements.output == elements.dtype:
        piece = few_positions.piece_rows(g, window, itemsize, gathers)
    few = shares and few_positions.meets_few(g, window, itemsize, gathers, piece > 0)
    if few and piece:
        g["piece"], gathers = piece, gathers or blocking.lines_of(g) > 1
    if gathers:
        strip = blocking.gathered_blocks(g, elements, work, few)
    else:
        if layout.edge:
            blocking.stay_or_copy(g, lanes_of(p), itemsize)
        g["in_place"] = layout.edge is not None and g["stays"] and not elements.converts
        blocking.line_blocks(g, window, elements, work, few)
    if few:
        panel_bytes = window * int(g["NR"][0]) * itemsize
        copies = not gathers and (elements.converts or meets_padding(p))
        x_bytes = p.N * math.prod(p.L) * p.C * itemsize
        few_positions.share_panels(g, panel_bytes, x_bytes if copies else 0, work)
    if not gathers:
        strip = share_lines(g, elements)
    if layout.over_groups:
        g["mode"] = OVERLAPS * g["overlaps"] + SLIDES * (g["tap_block"] > 1)
    if layout.by_filter or g["overlaps"][0]:
        g["panel_blocks"] = 1
    g["w_stays"] = layout.by_filter
    return strip, few, work


def _split(g: np.ndarray) -> tuple[tuple[str, int], ...]:
    """What the jobs are, for people, and how many."""
    by_line = bool(g["tiles"][0])
    lines = int((g["N"] * g["out"][0, 0] * g["line_blocks"])[0]) if by_line else 1
    return (
        ("blocks of lines", lines),
        ("blocks of positions", int(g["blocks"][0]) + int(by_line and g["tail"][0] > 0)),
        ("blocks of groups", int(g["group_blocks"][0])),
        ("blocks of panels", int(g["panel_blocks"][0])),
    )


def _parts_of_job(g: np.ndarray) -> tuple[int, int]:
    """The groups, and the panels of each, that a job may meet."""
    groups, panels = (int(g[name][0]) for name in ("groups", "panels"))
    return -(-groups // int(g["group_blocks"][0])), -(-panels // int(g["panel_blocks"][0]))


def _scratch(g: np.ndarray, strip: int, lanes: int) -> int:
    """Set where in scratch outputs are kept and filters packed, behind a strip of so many elements;
    returns the elements before these filters."""
    rows, filters = int(g["rows"][0]), _parts_of_job(g)[1] * int(g["NR"][0])
    kept = 0 if g["tiles"][0] else rows * filters
    if g["keeps_rows"][0]:
        kept = 2 * (rows * filters + CACHE_LINE_BYTES)
    if g["piece"][0]:  # in tiles, one behind the other
        kept = (max(rows, blocking.block_rows(g, bool(g["tiles"][0]))) + rows) * filters
    g["block_at"] = strip = -(-strip // lanes) * lanes
    g["panels_at"] = own = strip + -(-kept // lanes) * lanes
    return own


def _parts(
    elements: Elements, vec: Any, tiles: dict[str, Any], by_line: bool, in_pieces: bool
) -> Iterator[Part]:
    """What the range kernels call by address, with these tiles."""
    for field, kernel in tiles.items():
        yield Part(field, kernel, tile_call(elements))
    if "edge" in tiles:
        yield Part("lines", runs_lines(elements), block_call(elements))
    yield Part("pack", packers(elements, vec), pack_call(elements))
    if by_line:
        yield Part("strips", strip_copies(elements, vec), strips_call(elements))
    if by_line or in_pieces:
        run = (runs_pieces if by_line else runs_gathered) if in_pieces else runs_block
        yield Part("run", run(elements), block_call(elements))


TILE_FLOP = 3200  # per register tile: 100 cycles beside its multiply-adds
OVER_GROUPS = 3  # a multiply-add that loads its operand waits for it


def _work(g: np.ndarray, window: int, layout: Layout, gathers: bool) -> float:
    """What the tiles compute, zeros and lanes that nobody needs as well, in FLOP at full speed."""
    MR, W, positions = int(g["MR"][0]), int(g["out"][0, 2]), blocking.positions_of(g)
    tiles = -(-positions // MR) if gathers else positions // max(1, W) * -(-W // MR)
    panels, NR = int(g["panels"][0]), int(g["NR"][0])
    if layout.by_filter:  # a tile meets all of them
        panels, NR = 1, NR * panels
    per_tile = 2 * MR * NR * window * (OVER_GROUPS if layout.over_groups else 1)
    return float(tiles * int(g["groups"][0]) * panels * (per_tile + TILE_FLOP))


def itemsize_of(p: "Problem") -> int:
    """Bytes of an element of the arithmetic's type."""
    return _itemsize(p.input_dtype, p.dtype)


@lru_cache
def _itemsize(input_dtype: str, dtype: str) -> int:
    return np.dtype(Elements(input_dtype, dtype).dtype).itemsize


def lanes_of(p: "Problem") -> int:
    """Elements of a vector of the arithmetic's type."""
    return processor.vector_bytes() // itemsize_of(p)
