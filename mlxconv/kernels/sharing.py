"""How the lines of an image are shared out: several to a block, channels in parts, or in place.

A cost model picks, since what is best depends on all sizes at once: lines of a block copy the input
they share once, but a strip has to stay in L2, and depthwise lines may not be copied at all.
"""

import math
from collections.abc import Iterator

import numpy as np

from mlxconv import processor
from mlxconv.kernels.blocking import are_from_memory, block_rows
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.layouts import in_parts
from mlxconv.kernels.padding import ends_of, line_in, whole_windows
from mlxconv.kernels.window import strip_elements


def share_lines(g: np.ndarray, elements: Elements) -> int:
    """Set the blocks of lines, in whatever parts and place takes least time; returns the elements
    of a strip of input."""
    choices = sharings(g, np.dtype(elements.dtype).itemsize)
    lines, parts, g["in_place"] = min(choices, key=lambda choice: _cycles(g, elements, *choice))
    g["line_blocks"] = -(-int(g["out"][0, 1]) // lines)
    if parts > 1:
        in_parts(g, parts)
    return strip_elements(g, lines, block_rows(g, True))


# The time of a block of lines, in cycles of one core.  Fitted to 414 measured choices for 30
# depthwise problems on two cores with AVX-512, where the choice of the least is 1 % from the best.
MULTIPLY_ADD = 0.8  # of vectors; depthwise a window that shares no rows with the next takes
APART = 1.4  # that long, since each operand is loaded
TILE = 12  # beside those
COPY = 3.5  # of a vector to a strip; four times as long where the type is converted
ROW = 4  # of a strip that is apart from the one before
PART = 1500  # to begin a part of a block
EDGE = 3.0  # a multiply-add of a position that comes by itself
LINE = 200  # to begin the positions of a line that are read in place, or one of them
PANEL_BYTES = 9  # in a cycle, from memory: blocks of 24 positions took 1.3 times as long
LAST = 0.2  # blocks that some worker waits for in the end

LINES = (2, 3, 4, 5, 6, 8, 10, 14, 20, 28, 40, 56)
LEAST_CHANNELS = 96  # of a part, lest rows be too short


def sharings(g: np.ndarray, itemsize: int) -> Iterator[tuple[int, int, bool]]:
    """(lines of a block, parts of the channels, in place): the ways to share out an image.

    Blocks of several lines copy the input that these share once.  Channels of a depthwise problem
    are split where strips of all of them leave no room for lines; nothing is copied where its lines
    are read in place."""
    H, filters, NR = int(g["out"][0, 1]), int(g["O"][0]), int(g["NR"][0])
    ways = (False, True) if g["in_place"][0] else (False,)
    yield from ((1, 1, in_place) for in_place in ways)
    splits = g["panel_channels"][0] and g["stays"][0] and filters % NR == 0
    most = filters // LEAST_CHANNELS if splits else 1
    choices = {-(-H // -(-H // n)) for n in LINES if H > 1}  # blocks of one size
    strips = {lines: strip_elements(g, lines, block_rows(g, True)) for lines in choices - {1}}
    for parts in range(1, max(1, most) + 1):
        if parts == 1 or filters % (parts * NR) == 0:
            for lines, strip in strips.items():
                if strip // parts * itemsize <= processor.caches().L2_bytes // 2:
                    yield from ((lines, parts, in_place) for in_place in ways)


def _cycles(g: np.ndarray, elements: Elements, lines: int, parts: int, in_place: bool) -> float:
    """What a sharing takes, all told, on all cores."""
    H, line_axis = int(g["out"][0, 1]), line_in(g)
    MR, blocks, rows = int(g["MR"][0]), int(g["blocks"][0]), block_rows(g, True)
    lanes = processor.vector_bytes() // np.dtype(elements.dtype).itemsize
    vectors = max(1, int((g["panels"] * g["NR"])[0]) // lanes)
    apart = g["panel_channels"][0] and g["tap_block"][0] == 1
    window = math.prod(g["K"][0].tolist()) * int(g["C"][0])
    tile = vectors * (TILE + MR * window * (APART if apart else MULTIPLY_ADD))
    by_element = COPY * (4 if elements.converts else 1) / lanes / parts
    if parts > 1:
        by_element += ROW / int(g["width"][0])
    copies = strip_elements(g, lines, rows) * by_element
    ends = line_axis.W - whole_windows(line_axis)
    if g["stays"][0] and not elements.converts:
        if ends == 0:
            copies = 0.0
        elif lines == 1:
            at_end = strip_elements(g, 1, ends_of(line_axis, MR) // 2) * by_element
            copies = min(copies, 2 * at_end + 2 * PART)
    if in_place:
        middle = rows - ends if rows - ends >= MR else 0
        by_itself = LINE + vectors / parts * window * EDGE
        line = LINE + -(-middle // MR) * tile / parts + (rows - middle) * by_itself
        block = lines * line + PART
    else:
        block = lines * -(-rows // MR) * tile / parts + copies + PART
    block += _reading(g, window * np.dtype(elements.dtype).itemsize)
    images = int((g["N"] * g["out"][0, 0] * g["group_blocks"] * g["panel_blocks"])[0])
    jobs = images * -(-H // lines) * blocks * parts
    return block * (-(-jobs // processor.cores()) + LAST)


def _reading(g: np.ndarray, window_bytes: int) -> float:
    """What a block waits for its part of the panels, which all its lines read once, where no cache
    holds them."""
    panels_bytes, parts = int((g["panels"] * g["NR"])[0]) * window_bytes, int(g["panel_blocks"][0])
    return panels_bytes / PANEL_BYTES / parts if are_from_memory(panels_bytes) else 0.0
