"""`mlxconv bench`: convolutions of real models, beside every other library that is installed."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mlxconv.bench import engines, gradients, report, shapes
from mlxconv.bench.contest import Contest, Result
from mlxconv.bench.shapes import Shape
from mlxconv.cli import output, progress
from mlxconv.cli.errors import BadInput
from mlxconv.tables import Table
from mlxconv.threads import default_threads


def run(options: argparse.Namespace) -> None:
    """Check everything, measure, and show what was found, also after Ctrl-C."""
    from mlxconv.cli import plot

    chosen = chosen_shapes(options.shapes, options.only)
    gradient = options.gradient or ""
    setting = setting_of(options.against, options.threads, options.dtype, gradient)
    picture = plot.checked(options.plot) if options.plot else None
    record = output.destination(options.json, (".json",)) if options.json else None
    readme = checked_readme(options.write_readme) if options.write_readme else None
    results: list[Result] = []
    with Contest(setting.peers, setting.threads, setting.dtype, gradient) as contest:
        try:
            measure(contest, chosen, options.seconds, options.quiet, results)
        finally:
            show(results, setting, options.markdown)
        if record:
            save(record, json.dumps(report.as_json(results, setting), indent=1).encode())
        if readme:
            save(
                readme,
                report.inserted(readme.read_text(), report.markdown(results, setting)).encode(),
            )
        if picture:
            draw(picture, results, contest)


def measure(
    contest: Contest,
    chosen: dict[str, Shape],
    seconds: float,
    quiet: bool,
    results: list[Result],
) -> None:
    """Run the contest on each shape; results are appended as they come."""
    with progress.bar("measuring", len(chosen), quiet, counts=True) as advance:
        for name, shape in chosen.items():
            results.append(contest.run(name, shape, seconds))
            advance(1)


def chosen_shapes(file: str | None, only: str | None) -> dict[str, Shape]:
    """The shapes of the file, or of the package; those named, or of a function that is, if any
    are, else all of the file, or those of conv1d."""
    try:
        table = shapes.named() if file is None else shapes.read(Path(file))
    except (OSError, ValueError) as error:
        raise BadInput(str(error)) from error
    wanted = only.split(",") if only else ["conv1d"] if file is None else ["*"]
    found = {
        want: [name for name in table if fnmatch(name, want) or fnmatch(table[name].function, want)]
        for want in wanted
    }
    if unknown := [want for want, names in found.items() if not names]:
        raise BadInput(f"no shape is called {', '.join(unknown)}; there are {', '.join(table)}")
    return {name: table[name] for names in found.values() for name in names}


def setting_of(
    against: str | None, threads: int | None, dtype: str, gradient: str = ""
) -> report.Setting:
    """Whom to compare with: the peers named, or nobody for "none"; if none is named, all of them,
    or all whose gradients are measured."""
    peers = tuple(p for p in engines.PEERS if not gradient or p in gradients.ENGINES)
    wanted = peers if against is None else tuple(against.split(","))
    wanted = () if wanted == ("none",) else wanted
    if unknown := [name for name in wanted if name not in peers]:
        known, kind = ", ".join(peers), "peer with gradients" if gradient else "peer"
        raise BadInput(f"no {kind} is called {', '.join(unknown)}; there are {known}, or none")
    there = tuple(name for name in wanted if engines.installed(name))
    missing = tuple(name for name in wanted if name not in there)
    return report.Setting(there, missing, threads or default_threads(), dtype, gradient)


def show(results: Sequence[Result], setting: report.Setting, markdown: bool) -> None:
    """The table on stdout: by rich in a terminal, plain elsewhere, or as Markdown."""
    if markdown:
        print(report.markdown(results, setting))
        return
    print(setting)
    if results:
        print_table(report.table(results, setting.peers))
        print("\n".join(report.summary(results)))


def print_table(table: Table) -> None:
    """In colours where stdout is a terminal that is wide enough and rich is there."""
    text = table.plain()
    try:
        if not sys.stdout.isatty():
            raise ImportError
        from rich.console import Console

        console = Console()
        if console.width < max(map(len, text.splitlines())):
            raise ImportError
        console.print(table.rich())
    except ImportError:
        print(text)


def checked_readme(name: str) -> Path:
    """The file whose table is replaced, if it has a place for one."""
    path = output.destination(name, (".md",))
    try:
        report.inserted(path.read_text(), "")
    except (OSError, ValueError) as error:
        raise BadInput(f"{name}: {error}") from error
    return path


def save(path: Path, content: bytes) -> None:
    with output.whole_file(path, len(content)) as file:
        file.write(content)


def draw(path: Path, results: Sequence[Result], contest: Contest) -> None:
    """The roofline, with the roofs of the machine."""
    from mlxconv.bench.picture import roofline

    figure, image = roofline(results, contest.machine(), contest.threads), io.BytesIO()
    figure.savefig(image, format=path.suffix[1:].lower(), dpi=150)
    save(path, image.getvalue())
    print(f"Picture: {path}")
