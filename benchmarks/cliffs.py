"""Where one size more costs too much: sweeps around the edges of tiles and tables.

    python -m benchmarks.cliffs [L C_in ...] [--threads 1] [--plot cliffs.png]

Each sweep changes one size of a problem and takes the time per useful FLOP at each.  Larger
problems should not cost more per FLOP than smaller ones: where one costs JUMP times more than its
smaller neighbour, or takes JUMP times longer than its larger one, it is measured again and, if it
still does, it is a cliff.  All points of a sweep take turns.
"""

import argparse
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import mlxconv
from mlxconv import timing
from mlxconv.bench.shapes import Shape
from mlxconv.cli import output, plot, progress
from mlxconv.cli.bench import save
from mlxconv.cli.errors import CommandError
from mlxconv.cli.parser import positive, positive_number
from mlxconv.tables import Table, number

JUMP = 1.6


def edges(largest: int) -> list[int]:
    """1 to 9, and n - 1, n, n + 1 around n = 12, 16, 24, 32, 48, 64, ... up to `largest`."""
    centres = [c << i for i in range(20) for c in (8, 12) if c << i <= largest]
    return sorted({*range(1, 10), *(c + d for c in centres for d in (-1, 0, 1))})


BASE = Shape(1, 512, 64, 64, 3)
DEPTHWISE = Shape(1, 512, 512, 512, 15, groups=512)
WIDE = Shape(1, 256, 1024, 40, 1)  # rows 4 KB apart share a set of most caches
SWEEPS = {
    "L": [BASE._replace(L=n + 2) for n in edges(4096)],  # n outputs
    "C_in": [BASE._replace(C_in=n) for n in edges(512)],
    "C_out": [BASE._replace(C_out=n) for n in edges(512)],
    "K": [BASE._replace(K=n, L=511 + n) for n in edges(128)],
    "dilation": [BASE._replace(dilation=n, L=512 + 2 * n) for n in edges(256)],
    "groups": [BASE._replace(C_in=256, C_out=256, groups=1 << i) for i in range(8, -1, -1)],
    "multiplier": [BASE._replace(C_out=64 * n, groups=64) for n in edges(32)],
    "N": [BASE._replace(N=n, L=18) for n in edges(64)],
    "K-depthwise": [DEPTHWISE._replace(K=n, L=511 + n) for n in edges(64)],
    "C_in-depthwise": [DEPTHWISE._replace(C_in=n, C_out=n, groups=n) for n in edges(2048)],
    "C_in-wide": [WIDE._replace(C_in=n) for n in edges(4096)],
    "C_out-wide": [WIDE._replace(C_out=n) for n in edges(256)],
}


def value(sweep: str, shape: Shape) -> int:
    """What changes along a sweep, as people count it."""
    if sweep == "multiplier":
        return shape.C_out // shape.C_in
    if sweep == "groups":  # by channels per group, since fewer groups are more work
        return shape.C_in // shape.groups
    return shape.L - 2 if sweep == "L" else int(getattr(shape, sweep.partition("-")[0]))


class Point(NamedTuple):
    """One size of a sweep."""

    shape: Shape
    size: int
    seconds: float
    variant: str

    @property
    def ns_per_kflop(self) -> float:
        return self.seconds * 1e12 / self.shape.problem().flop


def call_of(shape: Shape, threads: int) -> timing.Call:
    """A call of the problem, compiled."""
    (x, w), stream = shape.data(), mlxconv.Stream(threads)

    def call() -> object:
        return mlxconv.conv1d(x, w, **shape.parameters, stream=stream)

    call()
    return call


def measured(sweep: str, shapes: Sequence[Shape], threads: int, seconds: float) -> list[Point]:
    """The points of a sweep, in order of size."""
    made = {str(i): call_of(shape, threads) for i, shape in enumerate(shapes)}
    best = timing.best(timing.in_turns(made, seconds))
    return [
        Point(
            shape,
            value(sweep, shape),
            best[str(i)],
            mlxconv.explain(*shape.arrays, **shape.parameters).variant,
        )
        for i, shape in enumerate(shapes)
    ]


def jumps(points: Sequence[Point]) -> dict[int, str]:
    """What is wrong at which place of the sweep."""
    found = {}
    for i, (smaller, larger) in enumerate(pairwise(points)):
        dearer = larger.ns_per_kflop / smaller.ns_per_kflop
        slower = smaller.seconds / larger.seconds
        if dearer > JUMP:
            found[i + 1] = f"{dearer:.1f} times the cost per FLOP of {smaller.size}"
        if slower > JUMP:
            found[i] = f"{slower:.1f} times the time of {larger.size}"
    return found


def cliffs(
    sweep: str, shapes: Sequence[Shape], threads: int, seconds: float
) -> tuple[list[Point], dict[int, str]]:
    """The points of a sweep, and those jumps that a second measurement confirms."""
    points = measured(sweep, shapes, threads, seconds)
    suspects = sorted({j for i in jumps(points) for j in (i - 1, i, i + 1) if 0 <= j < len(points)})
    again = measured(sweep, [shapes[i] for i in suspects], threads, seconds) if suspects else []
    for i, second in zip(suspects, again, strict=True):
        points[i] = min(points[i], second, key=lambda point: point.seconds)
    return points, jumps(points)


def report(found: dict[str, tuple[list[Point], dict[int, str]]]) -> str:
    table = Table(("sweep", "size", "us", "variant", "cliff"), text_columns=(0, 3, 4))
    for sweep, (points, steep) in found.items():
        for i, why in sorted(steep.items()):
            point = points[i]
            cells = (str(point.size), number(point.seconds * 1e6), point.variant, why)
            table.add(sweep, *cells)
    count = sum(len(points) for points, _ in found.values())
    return f"{len(table.rows)} cliffs among {count} sizes" + (
        f"\n{table.plain()}" if table.rows else ""
    )


def picture(found: dict[str, tuple[list[Point], dict[int, str]]], title: str) -> bytes:
    """One panel per sweep: size against cost per FLOP, cliffs in red."""
    from matplotlib.figure import Figure

    rows = -(-len(found) // 2)
    figure = Figure(figsize=(12, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for panel, (sweep, (points, steep)) in zip(panels, found.items(), strict=False):
        panel.loglog([p.size for p in points], [p.ns_per_kflop for p in points], ".-", lw=0.7, ms=4)
        red = [points[i] for i in steep]
        panel.loglog([p.size for p in red], [p.ns_per_kflop for p in red], "ro", ms=5, mfc="none")
        for p in red:
            at = {"xytext": (3, 4), "textcoords": "offset points", "fontsize": 7}
            panel.annotate(str(p.size), (p.size, p.ns_per_kflop), color="r", **at)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.tick_params(which="both", labelsize=7)
        panel.set_title(sweep, loc="left", fontsize=10)
        panel.set_ylabel("ns per 1000 FLOP")
    for panel in panels[len(found) :]:
        panel.set_visible(False)
    figure.suptitle(title, fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("sweeps", nargs="*", metavar="sweep", help=", ".join(SWEEPS))
    made.add_argument("--threads", type=positive, default=1)
    made.add_argument("--seconds", type=positive_number, default=8.0, help="per sweep")
    made.add_argument("--plot", metavar="FILE", help=".png")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if unknown := [name for name in options.sweeps if name not in SWEEPS]:
        raise SystemExit(f"no sweep is called {', '.join(unknown)}; there are {', '.join(SWEEPS)}")
    try:
        plot.checked(options.plot or "cliffs.png")
        path = output.destination(options.plot, (".png",)) if options.plot else None
    except CommandError as error:
        raise SystemExit(str(error)) from error
    found = {}
    names = options.sweeps or list(SWEEPS)
    with progress.bar("sweeping", len(names), False, counts=True) as advance:
        for name in names:
            found[name] = cliffs(name, SWEEPS[name], options.threads, options.seconds)
            advance(1)
    print(report(found))
    if path:
        threads = f"{options.threads} thread{'s' * (options.threads != 1)}"
        save(path, picture(found, f"time per FLOP, float32, {threads}"))


if __name__ == "__main__":
    main()
