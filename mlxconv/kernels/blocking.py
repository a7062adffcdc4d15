"""How large the blocks are that jobs compute: of lines, of positions, of groups and of panels."""

import math

import numpy as np

from mlxconv import processor
from mlxconv.arrays import CACHE_LINE_BYTES
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.geometry import STAYS_ALIGNED
from mlxconv.kernels.padding import copied_rows, ends_of, line_in, met, shortened


def positions_of(g: np.ndarray) -> int:
    """Of the output, all told."""
    return int(g["N"][0]) * math.prod(g["out"][0].tolist())


def lines_of(g: np.ndarray) -> int:
    """Of the output, all told."""
    return int(g["N"][0]) * math.prod(g["out"][0, :2].tolist())


def gathers(g: np.ndarray, MR: int, itemsize: int) -> bool:
    """Whether blocks gather their windows from anywhere, instead of being pieces of a line: where
    lines are shorter than a tile, or the last tile of each, which for most filters has MR rows, and
    rows that crowd a set of L1, waste more than the copies take, the last tile of all, and the taps
    that meet padding alone, which copied windows do not leave out."""
    W, positions = int(g["out"][0, 2]), max(1, positions_of(g))
    if g["rows"][0] > W:
        return True
    if g["panel_channels"][0] or g["phases"][0] > 1:
        return False
    crowded = crowding(int(g["stride"][0, 2] * g["x_step"][0, 2]) * itemsize, MR)
    by_line, gathered = -(-W // MR) * MR / W, -(-positions // MR) * MR / positions
    wasted = (by_line - gathered + met(line_in(g)) - 1 + crowded - 1) * 2 * int(g["O"][0])
    taps, dilation, channels = int(g["K"][0, 2]), int(g["dilation"][0, 2]), int(g["C"][0])
    return wasted > READ_AGAIN_FLOP + gather_flop(taps, dilation, channels)


def crowding(step_bytes: int, MR: int) -> float:
    """How much longer tiles take whose rows are so far apart, as more of them share a set of L1
    than it has ways."""
    return max(1.0, processor.filled(step_bytes, MR))


RELOADED = 4.4  # lines of L1 that tiles load again in the time in which a row's are copied
STRADDLED = 0.5  # such lines that a load is worth which meets two, where each multiply-add loads


def stay_or_copy(g: np.ndarray, lanes: int, itemsize: int) -> None:
    """Say whether windows that a depthwise tile reads in place stay there.  Where rows share sets
    of L1, each block of taps loads its own from L2 again, a line for each vector, or two if it
    straddles them: 512 channels, 31 taps take 0.87 of the time if they are copied, 15 taps 1.12
    times as long.  A vector is left between the rows of a strip, where those of a block of taps
    would crowd too."""
    stride, dilation, K, MR = (int(g[name].flat[-1]) for name in ("stride", "dilation", "K", "MR"))
    width, taps, line = int(g["width"][0]), int(g["tap_block"][0]), line_in(g)
    step, rows = width * dilation * itemsize, (MR - 1) * stride // dilation
    whole, more = width * itemsize % CACHE_LINE_BYTES == 0, lanes * itemsize / CACHE_LINE_BYTES
    if taps > 1:
        loads = K // taps * (rows + taps) + (K % taps > 0) * (rows + K % taps)
        aligned = processor.lines_per_set(step, loads) / MR
        anywhere = aligned * (1 + more)
    else:
        aligned, anywhere = 0.0, STRADDLED * K * more * whole
    ends = ends_of(line, MR)  # which are copied anyway
    saved = copied_rows(line, line.W) - (2 * copied_rows(line, ends // 2) if ends else 0)
    worth = RELOADED * saved / (stride * max(1, line.W - ends))
    if g["stays"][0] and saved > 0 and anywhere >= worth:
        g["stays"] = STAYS_ALIGNED if whole and aligned < worth else False
    if processor.filled(step, 2 * (rows + taps)) > 1:
        g["width"] += lanes + -width % lanes


GATHER_FLOP = 12  # per element
READ_AGAIN_FLOP = 23  # ... by its blocks, which have fewer positions
PIECE_FLOP = 1000  # to copy a piece of a window: 10 ns beside its elements


def gather_flop(taps: int, dilation: int, channels: int) -> float:
    """What a tile could do in the time in which an element of a window is copied, one of a line of
    so many taps."""
    return GATHER_FLOP + PIECE_FLOP / max(1, channels * (taps if dilation == 1 else 1))


def fit_side_by_side(panel_bytes: int) -> bool:
    """Whether every worker may keep panels of so many bytes: in its L2, or in what of L3 keeps all
    of them.  More take 0.65 to 0.95 of the time if workers share them, or meet group after group;
    on Zen 3 0.93 to 1.03 for 4 to 8 MB."""
    part = processor.far_bytes() // processor.cores()
    return panel_bytes <= max(processor.caches().L2_bytes, part)


PACK_CYCLES = 0.3  # per weight


def pack_flop(weights: int) -> float:
    """What a tile could do in the time in which so many weights are packed."""
    return PACK_CYCLES * processor.flop_per_cycle() * weights


def are_few(positions: int, filters: int) -> bool:
    """Whether positions are so few beside filters that it is these that are shared out."""
    return positions * processor.cores() <= 2 * filters


def least_tiles(g: np.ndarray) -> int:
    """The tiles of the smallest block, which has enough rows for the narrow tile as well."""
    return -(-int(g["rows"][0]) // int(g["MR"][0]))


def block_rows(g: np.ndarray, by_line: bool) -> int:
    """Positions of the largest block."""
    if not by_line:
        return -(-positions_of(g) // int(g["blocks"][0]))
    tiles, blocks, MR, rows = (int(g[name][0]) for name in ("tiles", "blocks", "MR", "rows"))
    return min(max(rows, -(-tiles // blocks) * MR), int(g["out"][0, 2]))


FROM_L3 = 24  # positions for which all panels are worth reading where L2 does not hold them
FROM_MEMORY = 192  # where those of other cores and the input leave L3 no room for them: 1.1 to 1.5x
BLOCK_CYCLES = 500  # that a block takes to begin
GROUP_CYCLES = 500  # the same for each group of it
# that the panels of a block's groups take: those that come from L3 for each block cost up to 1.36x
PART_OF_L2 = 0.375


def are_from_memory(panels_bytes: int) -> bool:
    """Whether no cache holds panels of so many bytes until the next block."""
    return panels_bytes > processor.far_bytes()


def worth_reading(panels_bytes: int) -> int:
    """The positions of a block that panels of so many bytes are read for."""
    if are_from_memory(panels_bytes):
        return FROM_MEMORY
    return FROM_L3 if panels_bytes > processor.caches().L2_bytes else 1


def block_flop(groups: int) -> float:
    """What a tile could do in the time that a block of so many groups takes to begin."""
    return (BLOCK_CYCLES + groups * GROUP_CYCLES) * processor.flop_per_cycle()


def line_blocks(
    g: np.ndarray, window: int, elements: Elements, flop: float, few: bool = False
) -> None:
    """Set the blocks of positions, groups and panels.  With `few` positions it is the panels that
    are shared out."""
    W, MR, NR = int(g["out"][0, 2]), int(g["MR"][0]), int(g["NR"][0])
    groups, panels = int(g["groups"][0]), int(g["panels"][0])
    itemsize, L2 = np.dtype(elements.dtype).itemsize, processor.caches().L2_bytes
    panel_bytes, x_bytes = window * NR * itemsize, int(g["stride"][0, 2] * g["width"][0]) * itemsize
    all_bytes = groups * panels * panel_bytes
    g["mode"] = panels * panel_bytes <= (L2 // 4 if window <= 64 else L2 // 32)
    positions, parts = block_positions(MR, x_bytes, panel_bytes), 1
    if groups > 1:  # the next group finds the rest of the cache lines of this one in L2
        y_bytes = int(g["y_step"][0, 2]) * itemsize
        parts = max(1, min(groups, -(-all_bytes // int(L2 * PART_OF_L2))))
        positions = block_positions(MR, (groups * x_bytes + y_bytes) // parts, panel_bytes)
    lines, least = lines_of(g), least_tiles(g)
    if not few:
        least = max(least, -(-worth_reading(panels * panel_bytes) // MR))
        positions = max(positions, least * MR)
    if not g["in_place"][0]:  # tiles that read in place leave out all taps that they may
        begins = block_flop(groups) * lines * (panels if few else 1) / max(1.0, flop)
        positions = shortened(line_in(g), positions, MR, least, begins)
    wanted = min(8 * processor.cores(), max(1, round(flop / JOB_FLOP)))
    parts = max(parts, min(groups, -(-wanted // max(1, lines * -(-W // positions)))))
    if not fit_side_by_side(all_bytes):
        parts = groups  # one after the other, each packed once for all its positions
    g["tiles"], g["group_blocks"] = -(-W // MR), parts
    g["blocks"], g["panel_blocks"] = split(g, positions, lines * parts, flop)
    if few:
        g["blocks"] = -(-W // positions)


def window_pitch(g: np.ndarray, elements: Elements) -> int:
    """Set the elements from one copied window to the next, and return them: a cache line between
    them, where a tile's windows would crowd a set of L1."""
    size, piece = math.prod(g["K"][0].tolist()) * int(g["width"][0]), int(g["piece"][0])
    if piece:  # an odd number of pieces: the same of all windows fills all sets of L2
        g["pitch"] = size = (-(-size // piece) | 1) * piece
        return size
    itemsize = np.dtype(elements.dtype).itemsize
    if processor.lines_per_set(size * itemsize, int(g["rows"][0])) > 2:
        size += 64 // itemsize
    g["pitch"] = size
    return size


def gathered_blocks(g: np.ndarray, elements: Elements, flop: float, few: bool) -> int:
    """The same for blocks of gathered windows, which take up to half of L2; `few` are one.  Where
    these are fewer than cores, more of them copy windows in shares, or parts of the panels pack
    filters in shares, whichever are more."""
    least, size = int(g["rows"][0]), window_pitch(g, elements)
    positions = max(1, positions_of(g))
    itemsize = np.dtype(elements.dtype).itemsize
    room = processor.caches().L2_bytes // 2 // itemsize
    rows = least * max(1, min(8, room // max(1, size * least)))
    rows = max(rows, worth_reading(int((g["panels"] * g["NR"])[0]) * size * itemsize))
    blocks = 1 if few else max(1, positions // rows)
    cores, groups = processor.cores(), int(g["groups"][0])
    if groups * blocks > cores and not few:
        blocks = max(blocks, min(even_blocks(blocks, groups, cores), positions // least))
    missing = -(-sharing(flop) // (groups * blocks))
    if missing > 1 and not few and (positions > g["O"][0] or g["panels"][0] < missing):
        blocks = max(blocks, min(missing * blocks, positions // least))
    parts = min(int(g["panels"][0]), -(-cores // (groups * blocks)))
    g["blocks"], g["group_blocks"], g["panel_blocks"] = blocks, groups, max(1, parts)
    return max(least, -(-positions // blocks)) * size


MOST_TILES = 64  # of a block


def block_positions(MR: int, row_bytes: int, panel_bytes: int) -> int:
    """Positions per block: their input and one panel share half of L2, since the rest of the
    panels, the output and the prefetchers want the other half."""
    room = processor.caches().L2_bytes // 2 - panel_bytes
    return MR * max(4, min(MOST_TILES, room // max(1, row_bytes * MR)))


def reads_ahead(g: np.ndarray, elements: Elements, moved: int) -> str:
    """What tiles ask for ahead of the input, where so many elements are moved: nothing, unless it
    comes from memory.  The lines of neighbouring rows are too many streams for the processor to
    foresee.  Where the channels of a group are so few that nothing but the next group follows a
    line that is read, it is what the group after the next reads: takes 0.7 to 0.9 of the time."""
    itemsize = np.dtype(elements.dtype).itemsize
    if moved * itemsize < processor.read_bytes() or elements.converts:
        return ""
    narrow = g["groups"][0] > 1 and int(g["C"][0]) * itemsize <= 2 * CACHE_LINE_BYTES
    return "GROUPS_AHEAD" if narrow else "TILES_AHEAD"


def streams(g: np.ndarray, elements: Elements, moved: int) -> bool:
    """Whether tiles write outputs past the caches: where these do not hold the elements that are
    moved, and tiles write whole lines, unless one lies behind the other: those are read ahead.
    Takes 0.4 to 0.9 of the time where sums are short."""
    filters, NR, y_step = (int(n) for n in (g["O"][0], g["NR"][0], g["y_step"][0, 2]))
    itemsize = np.dtype(elements.dtype).itemsize
    whole = NR * itemsize % CACHE_LINE_BYTES == 0 == filters % NR
    far = are_far(moved * itemsize) and elements.output == elements.dtype
    return far and whole and y_step >= 2 * NR


def are_far(moved_bytes: int) -> bool:
    """Whether outputs are written past the caches, if so much is moved."""
    return moved_bytes >= processor.streamed_bytes()


JOB_FLOP = 6e5  # 6 us: a job costs up to 1 us beside its multiply-adds
EVEN = 32  # jobs of a core, of which one more than of others is worth a smaller block


def even_blocks(blocks: int, others: int, cores: int) -> int:
    """So many blocks, or as many more as give all cores the same if there are `others` of each."""
    jobs = blocks * others
    return blocks if jobs >= EVEN * cores or jobs % cores == 0 else -(-blocks // cores) * cores


def sharing(flop: float) -> int:
    """The cores that so much work is worth."""
    return min(processor.cores(), max(1, round(flop / JOB_FLOP)))


def split(g: np.ndarray, positions: int, lines: int, flop: float) -> tuple[int, int]:
    """(blocks of a line, blocks of panels), so that every core gets an equal share of jobs.

    Lines too few for that are cut into smaller blocks, down to two tiles and JOB_FLOP; where that
    is still too little, the panels are split as well.
    """
    cores, tiles, panels = sharing(flop), int(g["tiles"][0]), int(g["panels"][0])
    blocks = -(-int(g["out"][0, 2]) // positions)
    most = tiles // max(2, least_tiles(g))
    blocks = max(blocks, min(even_blocks(blocks, lines, cores), most))
    panel_blocks = 1
    if lines * blocks < cores:
        panel_blocks = min(panels, -(-cores // max(1, lines * blocks)))
    return max(1, blocks), max(1, panel_blocks)
