"""The roofline of a contest: what each convolution reaches under the roofs of the machine.

After Williams, Waterman and Patterson, Roofline, CACM 52, 2009.  Needs matplotlib.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlxconv.bench.contest import Result
from mlxconv.bench.engines import OURS, PEERS
from mlxconv.roofline import Machine

INK, GREY = "#22303c", "#8a97a3"
COLOURS = dict(zip(PEERS, ("#dd6b20", "#2b6cb0", "#805ad5", "#2f855a", "#b83280"), strict=True))


def roofline(results: Sequence[Result], machine: Machine, threads: int) -> Any:
    """The figure: arithmetic intensity against GFLOP/s, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panel = figure.subplots()
    panel.set_xscale("log")
    panel.set_yscale("log")
    shown = [r for r in results if not math.isnan(r.ours)]
    _draw_roofs(panel, shown, machine, threads)
    for engine in PEERS:
        points = [(r.intensity, r.gflops(engine)) for r in shown if engine in r.engines]
        if points:
            panel.plot(*zip(*points, strict=True), ".", ms=4, color=COLOURS[engine], label=engine)
    panel.plot(
        [r.intensity for r in shown], [r.gflops() for r in shown], "o", ms=5, color=INK, label=OURS
    )
    panel.set_xlabel("FLOP per byte of input, weight and output")
    panel.set_ylabel("GFLOP/s")
    panel.legend(frameon=False, loc="lower right", fontsize=8)
    panel.set_title(f"{machine.processor}, {threads} threads", loc="left", fontsize=11, color=INK)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    _label(panel, shown)
    return figure


def _draw_roofs(panel: Any, results: Sequence[Result], machine: Machine, threads: int) -> None:
    """The FMA peak of the run, and under it one slope per bandwidth."""
    dtype = results[0].dtype if results else "float32"
    peak = max([r.peak_gflops for r in results] or [machine.peak_gflops(dtype, threads)])
    intensities = [r.intensity for r in results] or [1.0]
    x = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    slopes = {
        "memory": machine.memory_copy_gbs,
        "L3": machine.L3_copy_gbs,
        "L2": machine.L2_copy_gbs,
    }
    for style, (name, rates) in zip(("-", "--", ":"), slopes.items(), strict=True):
        gbs = rates.on(threads, machine.threads)
        panel.plot(x, np.minimum(peak, gbs * x), style, color=GREY, lw=1.2, zorder=1)
        at = {"xy": (x[0], gbs * x[0]), "fontsize": 7.5, "color": GREY}
        along = {"rotation": math.degrees(math.atan(gbs)), "transform_rotates_text": True}
        panel.annotate(f"{name} {gbs:.0f} GB/s", rotation_mode="anchor", va="bottom", **along, **at)
    at = {"xy": (x[-1], peak), "fontsize": 7.5, "color": GREY}
    panel.annotate(f"FMA peak {peak:.0f} GFLOP/s", ha="right", va="bottom", **at)


def _label(panel: Any, results: Sequence[Result]) -> None:
    """The name of each shape beside its point, in the first place that is still free."""
    figure = panel.figure
    figure.draw_without_rendering()  # settles where points are
    at = [panel.transData.transform((r.intensity, r.gflops())) * 72 / figure.dpi for r in results]
    taken = [(x - 2, y - 2, x + 2, y + 2) for x, y in at]
    for r, (x, y) in zip(results, at, strict=True):
        free = (d for d in PLACES if not _meets(_box(r.name, x, y, *d), taken))
        dx, dy = next(free, PLACES[0])
        taken.append(_box(r.name, x, y, dx, dy))
        how = {"textcoords": "offset points", "fontsize": LABEL_POINTS, "color": INK}
        side = "left" if dx > 0 else "right"
        panel.annotate(r.name, (r.intensity, r.gflops()), (dx, dy), ha=side, **how)


LABEL_POINTS = 6.5
PLACES = [(dx, dy) for dy in (3, -9, 10, -16, 17, -23, 24) for dx in (4, -4)]  # points away

Box = tuple[float, float, float, float]


def _box(name: str, x: float, y: float, dx: float, dy: float) -> Box:
    """About the points that a label takes there."""
    width, left = 0.65 * LABEL_POINTS * len(name), x + dx
    if dx < 0:
        left -= width
    return left, y + dy - 1, left + width, y + dy + LABEL_POINTS


def _meets(box: Box, taken: Sequence[Box]) -> bool:
    return any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
