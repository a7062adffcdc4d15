"""What a terminal shows of work under way; nothing where stderr is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlxconv import notice


def shown(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


@contextmanager
def bar(
    title: str, total: int, quiet: bool, counts: bool = False
) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` bytes, or things with `counts`: call what it gives with those
    of each step.

    It needs rich; without, the work goes on without a bar.  With `quiet` nothing is said of
    compilation either.
    """
    if quiet:
        notice.silence()
    try:
        if not shown(quiet):
            raise ImportError
        from rich import progress
        from rich.console import Console
    except ImportError:
        yield lambda step: None
        return
    size = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        *((progress.MofNCompleteColumn(),) if counts else size),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(title, total=total)
        yield lambda step: display.advance(task, step)
