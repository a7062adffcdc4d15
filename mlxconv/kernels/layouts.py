"""Problem -> GEOMETRY record: its sizes, and where input, filters and outputs lie in memory.

Some problems are told to kernels as others, of the same sums: positions side by side as more
filters, groups as one vector axis, parts of the channels as groups.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlxconv.kernels.geometry import GEOMETRY, STAYS

if TYPE_CHECKING:
    from mlxconv.problem import Problem


def geometry_of(p: "Problem") -> np.ndarray:
    """`p` as a GEOMETRY record, for a C-contiguous input and any kernel that loops over groups.
    The batch of a convolution along one axis is an axis of its own, which no window reaches along:
    its lines are shared out as those of an image."""

    def three(values, missing):
        return (*(missing,) * (3 - len(values)), *values)

    g = np.zeros(1, GEOMETRY)
    g["N"], g["L"], g["K"] = p.N, three(p.L, 1), three(p.K, 1)
    g["groups"], g["C"], g["O"] = p.groups, p.C // p.groups, p.O // p.groups
    g["channels"], g["width"], g["stays"] = g["C"], g["C"], STAYS
    g["panel_blocks"] = 1
    g["group_blocks"], g["group_channels"] = 1, g["C"]
    g["stride"], g["padding"] = three(p.stride, 1), three(p.padding_lo, 0)
    g["dilation"], g["input_dilation"] = three(p.kernel_dilation, 1), three(p.input_dilation, 1)
    g["out"] = three(p.output_L, 1)
    if len(p.L) == 1:
        g["N"], g["L"][0, 1], g["out"][0, 1] = 1, p.N, p.N
    g["line_blocks"], g["tap_block"] = g["out"][:, 1], 1
    g["phases"], g["weights"] = 1, p.K[-1] * int(g["C"][0])
    set_input_layout(g, 0, strides_of(p.input_shape))
    set_output_layout(g, 0, strides_of(p.output_shape))
    set_filter_layout(g, 0, strides_of(p.weight_shape))
    g["banks"], g["w_run"] = 1, g["w_filter"]
    return g


def copy_of(g: np.ndarray) -> np.ndarray:
    """A copy of a GEOMETRY record, as bytes: field by field NumPy takes 20 us."""
    return g.view(np.uint8).copy().view(g.dtype).view(type(g))


def strides_of(shape: Sequence[int]) -> list[int]:
    """Of a C-contiguous array, in elements."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def in_phases(p: "Problem", phases: int) -> np.ndarray:
    """The geometry of `p` with rows of `phases` positions each, every filter once per phase."""
    if phases == 1:
        return geometry_of(p)
    *outer, stride = p.stride
    taps = p.K[-1] + (phases - 1) * stride
    rows = p._replace(O=p.O * phases, K=(*p.K[:-1], taps), stride=(*outer, stride * phases))
    g = geometry_of(rows)
    g["phases"], g["banks"], g["tail"] = phases, phases, p.output_L[-1] % phases
    g["bank_rows"], g["weights"] = stride * p.C, p.K[-1] * p.C
    own = geometry_of(p)
    for name in ("w_filter", "w_step", "y_image", "y_step"):  # filters and outputs are those of `p`
        g[name] = own[name]
    g["y_step"][0, 2] *= phases
    g["w_run"] = g["weights"]
    return g


def across_groups(g: np.ndarray, NR: int) -> np.ndarray:
    """The geometry `g` with its groups as the vector axis: one group of all filters, NR of them
    and the channels that they meet to a panel.

    Blocks read the input in place where there are enough filters for a vector; where filters are
    left over, the last vector overlaps the one before.
    """
    groups = int(g["groups"][0])
    filters, channels = int(g["O"][0]) * groups, int(g["C"][0]) * groups
    panels = -(-filters // NR)
    g["groups"], g["O"], g["channels"], g["stays"] = 1, filters, channels, filters >= NR
    g["overlaps"] = g["stays"][0] and filters % NR > 0
    g["panel_channels"] = NR * channels // filters
    g["width"] = channels if g["stays"] else panels * g["panel_channels"]
    return g


def in_parts(g: np.ndarray, parts: int) -> None:
    """Split the channels of a geometry over groups: every part is a group of its own."""
    filters = int(g["O"][0]) // parts
    g["groups"] = g["group_blocks"] = parts
    g["O"] = filters
    g["channels"] = g["width"] = g["group_channels"] = int(g["channels"][0]) // parts
    g["panels"] = filters // int(g["NR"][0])


def set_input_layout(g: np.ndarray, offset: int, strides: Sequence[int]) -> None:
    """Say where the input's elements lie: at `offset` and `strides` apart, (N, ..., C)."""
    g["x_offset"], g["x_image"], g["x_channel"] = offset, strides[0], strides[-1]
    g["x_step"] = _steps(strides)


def set_output_layout(g: np.ndarray, offset: int, strides: Sequence[int]) -> None:
    """Say where outputs go: to `offset` and `strides` apart, (N, ..., O); those of a position are
    neighbours."""
    g["y_offset"], g["y_image"] = offset, strides[0]
    g["y_step"] = _steps(strides)


def _steps(strides: Sequence[int]) -> tuple[int, ...]:
    """Those along D, H and W of an array (N, ..., C); the batch of lines is along H."""
    image, *axes, _ = strides
    return (0, image, *axes) if len(axes) == 1 else (*(0,) * (3 - len(axes)), *axes)


def set_filter_layout(g: np.ndarray, offset: int, strides: Sequence[int], leading: int = 0) -> None:
    """Say where the filters lie: at `offset` and `strides` apart, (O, ..., C), or with an axis of
    so many groups or banks before these."""
    if leading:
        outer, *strides = strides
        if g["groups"][0] > 1:
            g["w_group"] = outer
        else:
            g["banks"], g["w_bank"] = leading, outer
    g["w_offset"], g["w_filter"] = offset, strides[0]
    g["w_channel"] = 1 if g["C"][0] == 1 else strides[-1]  # that of one channel may be anything
    g["w_step"] = (*(0,) * (5 - len(strides)), *strides[1:-1])
    run, g["w_turned"] = _run(g, 1), False
    if g["C"][0] == 1 and (turned := _run(g, -1)) > run:
        run, g["w_turned"] = turned, True
    g["w_run"] = run


def _run(g: np.ndarray, direction: int) -> int:
    """The weights of a filter that lie without gaps, its taps in this direction."""
    C, (D, H, _), line = int(g["C"][0]), g["K"][0].tolist(), int(g["weights"][0])
    run, steps = C, g["w_step"][0].tolist()
    if g["w_channel"][0] != 1 or C == 0:
        return C
    for extent, step in zip((line // C, H, D), reversed(steps), strict=True):
        if extent > 1 and step * direction != run:
            break
        run *= extent
        if g["phases"][0] > 1:  # panels leave rows between lines
            break
    return run
