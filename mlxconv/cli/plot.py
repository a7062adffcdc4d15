"""The picture of the demo: record and trend, seasonal cycle, growth.  Needs matplotlib."""

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxconv.cli.errors import BadInput
from mlxconv.cli.output import destination, whole_file

if TYPE_CHECKING:
    from mlxconv.cli.demo import Record, Result

SUFFIXES = (".png", ".pdf", ".svg")
CREDIT = "Data: Keeling and Whorf, Scripps Institution of Oceanography, 2004"
INK, GREY, BLUE, RED, GREEN = "#22303c", "#8a97a3", "#2b6cb0", "#c53030", "#2f855a"


def checked(name: str, option: str = "--plot") -> Path:
    """Where the picture goes; BadInput if it cannot, or if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput(f'{option} needs matplotlib: pip install "mlxconv[cli]"')
    return destination(name, SUFFIXES)


def draw(path: Path, record: "Record", result: "Result") -> None:
    """Write the picture to `path`, in the format its suffix names."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(10, 8.5), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True, height_ratios=(5, 3, 3))
        _draw_record(panels[0], record, result)
        _draw_season(panels[1], result)
        _draw_growth(panels[2], result)
        for panel in panels:
            _style(panel)
        figure.align_ylabels(panels)
        figure.supxlabel(CREDIT, x=0.995, ha="right", fontsize=7.5, color=GREY)
        image = io.BytesIO()
        figure.savefig(image, format=path.suffix[1:].lower(), dpi=150)
    with whole_file(path, image.tell()) as file:
        file.write(image.getbuffer())


def _draw_record(panel: Any, record: "Record", result: "Result") -> None:
    gaps = np.isnan(record.measured)
    panel.plot(record.weeks, record.measured, ".", ms=2.2, color=BLUE, alpha=0.55)
    panel.plot(record.weeks[gaps], record.filled[gaps], "x", ms=4, mew=1, color=RED)
    panel.plot(result.weeks, result.y["trend"], color=INK, lw=2)
    panel.set_ylabel("ppm")
    _title(panel, "Carbon dioxide at Mauna Loa, weekly, and its trend over one year")
    for row, (mark, color, text) in enumerate(
        [
            ("•", BLUE, "weekly mean, as measured"),
            ("×", RED, f"{gaps.sum()} weeks without a measurement, filled by straight lines"),
            ("—", INK, "trend: mean over 52.18 weeks"),
        ]
    ):
        at = {"xy": (0.015, 0.93 - 0.085 * row), "xycoords": "axes fraction", "va": "center"}
        panel.annotate(mark, color=color, fontweight="bold", ha="left", **at)
        panel.annotate(text, xytext=(16, 0), textcoords="offset points", **at)


def _draw_season(panel: Any, result: "Result") -> None:
    season = result.y["season"]
    panel.fill_between(result.weeks, season, where=season >= 0, color=GREEN, alpha=0.35, lw=0)
    panel.fill_between(result.weeks, season, where=season <= 0, color=BLUE, alpha=0.35, lw=0)
    panel.plot(result.weeks, season, color=INK, lw=0.8)
    panel.set_ylabel("ppm")
    _title(panel, "Seasonal cycle: high in May, low when summer's leaves have taken their share")


def _draw_growth(panel: Any, result: "Result") -> None:
    growth = result.y["growth"]
    panel.plot(result.weeks, growth, color=RED, lw=1.4)
    panel.fill_between(result.weeks, growth, color=RED, alpha=0.12, lw=0)
    panel.set_ylabel("ppm per year")
    panel.set_ylim(bottom=0)
    _title(panel, "Growth: change of the trend over one year")


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK)


def _style(panel: Any) -> None:
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color(GREY)
    panel.tick_params(colors=INK, length=3)
    panel.grid(axis="y", color=GREY, alpha=0.25, lw=0.6)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
