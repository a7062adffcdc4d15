"""Streams and devices: how many threads a call may use.  No queue: a call returns its result."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Device:
    """The device a convolution runs on; there is one, `mlxconv.cpu`."""

    def __init__(self, kind: str = "cpu", index: int = 0) -> None:
        if kind != "cpu" or index != 0:
            raise ValueError(f"mlxconv runs on the CPU, Device('cpu', 0); got {kind!r}, {index!r}")
        self.kind, self.index = kind, index

    def __repr__(self) -> str:
        return "Device(cpu, 0)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return hash(("cpu", 0))


class Stream:
    """How many threads a call may use: `threads`, or with None every core of this process."""

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None:
            try:
                threads = operator.index(threads)
            except TypeError:
                raise TypeError(f"threads takes an int or None, got {threads!r}") from None
            if threads < 1:
                raise ValueError(f"threads must be at least 1, got {threads}")
        self.threads = threads

    def __repr__(self) -> str:
        return f"Stream(threads={self.threads})"


cpu = Device()
_default = Stream()
_current: ContextVar[Stream] = ContextVar("mlxconv.stream", default=_default)


@contextmanager
def stream(s: Stream | Device) -> Iterator[Stream]:
    """Make `s` the stream of every call in the block that names none, in this Python thread."""
    chosen = resolve(s)
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)


def resolve(s: Any) -> Stream:
    """The Stream that the argument `stream` of a call stands for.

    None is the current one, a Device its default one; MLX's own CPU devices and streams are
    taken too, so that code moved from MLX need not change.
    """
    if s is None:
        return _current.get()
    if isinstance(s, Stream):
        return s
    if isinstance(s, Device):
        return _default
    if (type(s).__module__ or "").split(".")[0] == "mlx":
        if "gpu" in str(s).lower():
            raise ValueError(f"stream: mlxconv runs on the CPU, got {s}")
        if "cpu" in str(s).lower():
            return _default
    raise TypeError(
        f"stream takes None, an mlxconv.Stream or mlxconv.Device, or a CPU device or stream of "
        f"MLX, got {s!r} of type {type(s).__name__}"
    )
