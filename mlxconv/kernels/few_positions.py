"""Few positions beside filters: it is panels that are shared out, each packed by who meets it.

To pack filters, or to read packed ones, then takes as long as the sums.  Where no cache holds them,
or L2 not one panel beside the input, they are met in pieces, see pieces.py.
"""

import numpy as np

from mlxconv import processor
from mlxconv.kernels.blocking import (
    BLOCK_CYCLES,
    are_few,
    are_from_memory,
    least_tiles,
    lines_of,
    pack_flop,
    positions_of,
    worth_reading,
)

WINDOWS_BYTES = 1 << 23  # of all windows of a group, to L3 at the most, unless pieces meet them
SHARED_LINE_FLOP = 5  # per output, where cores write lines of memory that are neighbours


def meets_few(g: np.ndarray, window: int, itemsize: int, gathers: bool, in_pieces: bool) -> bool:
    """Whether filters meet so few positions that to copy the input for each of several parts of
    them takes less than to share what others have packed; and there are enough panels for equal
    shares, fewer where positions can be shared out as well, but not as many groups, which meet no
    input in common."""
    positions, cores, groups = positions_of(g), processor.cores(), int(g["groups"][0])
    return bool(
        g["phases"][0] == 1
        and are_few(positions, int(g["O"][0]))
        and groups < 4 * cores
        and groups * g["panels"][0] >= (4 if gathers else 2) * cores
        and (in_pieces or _windows_bytes(g, window, itemsize) <= WINDOWS_BYTES)
        and (gathers or _shares_panels(g, window, itemsize))
    )


def _windows_bytes(g: np.ndarray, window: int, itemsize: int) -> int:
    """Of all windows of a group, one behind the other."""
    return positions_of(g) * window * itemsize


def _shares_panels(g: np.ndarray, window: int, itemsize: int) -> bool:
    """Whether few positions are better met by parts of the panels than shared out themselves, each
    core packing all filters: parts write side by side, and what one core reads ahead another has
    written."""
    cores, panels, NR, MR = processor.cores(), *(int(g[n][0]) for n in ("panels", "NR", "MR"))
    lines, W = lines_of(g), int(g["out"][0, 2])
    if panels * NR * window * itemsize > processor.caches().L2_bytes:
        return True

    def wasted(jobs: int) -> float:
        return 2 * window * (-(-jobs // cores) * cores / max(1, jobs) - 1)

    packing = pack_flop(window) * (cores - 1) / max(1, lines * W)
    return packing + wasted(lines * -(-W // MR)) > SHARED_LINE_FLOP + wasted(panels)


PIECE_BYTES = 2048  # of a row of the input that meets a piece
PIECES_OF_PART = 8  # ... and panels: 1.1x where the pieces of a part were fewer
PANELS_OF_PART = 2
# rows that a tile asks for, by the registers of the machine: fewer tiles have no time for that on
# Zen 3; with 32 registers they take 0.7 to 0.9 of the time with 8, 0.82 to 0.98 with 16
MOST_AHEAD = {16: 4, 32: 16}
MOST_COPIED = 1 << 24  # bytes of windows
MOST_BLOCKS = 2  # of positions, each of which packs the panels again
WORTH_BLOCKS = 512  # positions; more take 0.83 to 1.05 of the time where each core packs all panels
MOST_IDLE = 0.05  # of all cores, where pieces come from L3


def piece_rows(g: np.ndarray, window: int, itemsize: int, gathers: bool) -> int:
    """The rows of a panel that are met at a time, where no cache holds all panels, or L2 not one
    beside the input; 0 if it is met as a whole.  Pieces take 0.6 to 0.95 of the time, packed before
    or not, and up to 1.4 where L2 does not hold the input that meets one; from L3 0.76 to 1.  The
    input of several lines is copied.  Windows too long for that may be met in two blocks: without
    pieces each core would pack all panels as well."""
    windows_bytes, blocks = _windows_bytes(g, window, itemsize), _piece_blocks(g)
    panel_bytes = int(g["NR"][0]) * window * itemsize
    panels = int((g["groups"] * g["panels"])[0])
    if gathers or lines_of(g) > 1:
        fits = blocks == 1 and windows_bytes <= MOST_COPIED
    else:
        again = windows_bytes > WINDOWS_BYTES and positions_of(g) <= WORTH_BLOCKS
        fits = blocks <= (MOST_BLOCKS if again else 1)
    is_long = 2 * panel_bytes > processor.caches().L2_bytes
    # there are no blocks of positions that would make shares equal
    are_equal = -panels % processor.cores() <= MOST_IDLE * panels
    waits = are_from_memory(panels * panel_bytes) or (is_long and are_equal)
    has_time = _ahead(g) <= MOST_AHEAD[processor.registers()]
    return PIECE_BYTES // itemsize if fits and waits and has_time else 0


def _piece_blocks(g: np.ndarray) -> int:
    """The blocks of positions of which L2 holds the input that meets a piece."""
    return -(-positions_of(g) * PIECE_BYTES // processor.caches().L2_bytes)


def rows_ahead(g: np.ndarray) -> int:
    """What each tile asks for of the next piece, so that those of a panel ask for all of it: a
    power of 2, lest there be many kernels."""
    return 1 << (_ahead(g) - 1).bit_length()


def _ahead(g: np.ndarray) -> int:
    tiles = -(-positions_of(g) // int(g["MR"][0]))
    return -(-int(g["NR"][0]) // max(1, tiles))


PANELS_OF_INPUT = 4  # a part has as many as the input it copies: an eighth of the time to pack them
READ_AGAIN = 1  # ... if several blocks of positions read them, from L3: 0.63 to 1 of the time


def share_panels(g: np.ndarray, panel_bytes: int, copied_bytes: int, flop: float) -> None:
    """Set the parts of the panels; and more blocks of a line where there are too few of these, or
    fewer where L2 does not hold a part, unless shares would not be equal."""
    if g["tiles"][0]:
        g["blocks"] = max(int(g["blocks"][0]), _shares(g, flop))
    parts = g["panel_blocks"] = panel_blocks(g, panel_bytes, copied_bytes)
    if g["piece"][0]:
        g["blocks"] = _piece_blocks(g)
    elif parts % processor.cores() == 0:
        positions = worth_reading(int(g["panels"][0]) * panel_bytes // parts)
        g["blocks"] = min(int(g["blocks"][0]), max(1, int(g["out"][0, 2]) // positions))


def panel_blocks(g: np.ndarray, panel_bytes: int, copied_bytes: int) -> int:
    """As many parts as L2 has room for each; fewer if every part copies so much of the input
    again, or panels are met in pieces."""
    blocks, panels, cores = int(g["blocks"][0]), int(g["panels"][0]), processor.cores()
    jobs, L2_bytes = int(g["groups"][0]) * blocks, processor.caches().L2_bytes
    again = blocks > 1 and panels * panel_bytes > L2_bytes and not g["piece"][0]
    least = -(-(READ_AGAIN if again else PANELS_OF_INPUT) * copied_bytes // panel_bytes)
    if g["piece"][0]:
        pieces = -(-panel_bytes // int(g["NR"][0]) // PIECE_BYTES)
        least = max(least, PANELS_OF_PART, -(-PIECES_OF_PART // pieces))
    if least:
        return min(panels, max(cores, panels // least // cores * cores))
    if panels < 4 * cores and jobs % cores == 0:
        return panels  # any other parts of so few would not be equal
    parts = max(-(-2 * cores // jobs), -(-panels * panel_bytes * 4 // L2_bytes))
    return min(panels, parts + -parts % cores)


def _shares(g: np.ndarray, flop: float) -> int:
    """The blocks of positions that give all cores the same where there are so few panels, unless it
    takes longer to begin them than some cores would wait."""
    cores, panels = processor.cores(), int((g["groups"] * g["panels"])[0])
    shares = min(-(-4 * cores // panels), int(g["tiles"][0]) // least_tiles(g))
    waiting = (-panels % cores) * flop / panels
    begins = panels * (shares - 1) * BLOCK_CYCLES * processor.flop_per_cycle()
    return shares if waiting > begins else 1
