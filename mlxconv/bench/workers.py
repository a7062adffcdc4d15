"""One process per engine, kept alive: no library's threads, allocator or settings meet another's.

    parent                          worker
    ("prepare", shape, dtype,
     gradient)                 ->   builds its contenders, runs each once
                               <-   {layout: its result as (N, ..., C), or why there is none}
    ("burst", layouts)         ->
                               <-   {layout: seconds per call}

and of the worker of our own engine:

    ("peak", dtype)            ->
                               <-   GFLOP/s of multiply-adds that stay in registers
    ("machine",)               ->
                               <-   the figures of mlxconv.machine()
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from mlxconv import timing
from mlxconv.bench import gradients
from mlxconv.bench.engines import ENGINES, Contender, Task
from mlxconv.bench.shapes import Shape

REST_SECONDS = 0.5  # at the most, until the threads of an engine stand still
LOOK_SECONDS = 0.002  # between looks whether they do
PATIENCE_SECONDS = 180.0  # for one answer; compiling may take long, hanging should not
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "MLXCONV_NUM_THREADS",
)


class WorkerLost(Exception):
    """The process of an engine ended or gave no answer."""


class Worker:
    """The process of one engine, started when it is first asked, and again after it was lost."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine, self.threads = engine, threads
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None

    def ask(self, *request: Any, patience: float = PATIENCE_SECONDS) -> Any:
        """The answer to `request`; RuntimeError with its words if the engine raised an error."""
        connection = self._connection or self._start()
        try:
            connection.send(request)
            if not connection.poll(patience):
                raise WorkerLost(f"no answer within {patience:.0f} s")
            good, answer = connection.recv()
        except WorkerLost:
            self.stop(at_once=True)
            raise
        except (EOFError, OSError) as error:
            self.stop(at_once=True)
            raise WorkerLost("its process ended") from error
        if not good:
            raise RuntimeError(answer)
        return answer

    def stop(self, at_once: bool = False) -> None:
        """End the process: let it go, or, if it hangs, kill it."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is None:
            return
        if connection is not None and not at_once:
            with suppress(OSError):
                connection.send(None)
            process.join(5)
        process.kill()
        process.join()

    def _start(self) -> "Connection[Any, Any]":
        """A fresh interpreter, in which the number of threads is set before anything is loaded."""
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=serve, args=(theirs, self.engine, self.threads), daemon=True
        )
        with environment({name: str(self.threads) for name in THREAD_VARIABLES}):
            self._process.start()
        theirs.close()
        return self._connection


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """`variables` in the environment of processes started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def serve(connection: "Connection[Any, Any]", engine: str, threads: int) -> None:
    """The worker: answer requests until None comes, or the parent is gone."""
    _quiet()
    _keep_to(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    desk = Desk(engine, threads)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while (request := connection.recv()) is not None:
            try:
                answer = (True, desk.answer(*request))
            except Exception as error:
                answer = (False, _words(error))
            rest()
            connection.send(answer)


def rest() -> None:
    """Return when no thread of this process works any longer.  Those of some libraries spin after a
    call, PyTorch's and ours for 10 ms, ONNX Runtime's for 60: as long as whoever is next may take,
    on the same cores."""
    end = time.perf_counter() + REST_SECONDS
    while time.perf_counter() < end:
        worked = time.process_time()
        time.sleep(LOOK_SECONDS)
        if time.process_time() - worked < LOOK_SECONDS / 4:
            return


class Desk:
    """What a worker knows between requests."""

    def __init__(self, engine: str, threads: int) -> None:
        self.engine, self.threads = engine, threads
        self.contenders: dict[str, Contender] = {}

    def answer(self, what: str, *details: Any) -> Any:
        requests: tuple[Callable[..., Any], ...] = (
            self.prepare,
            self.burst,
            self.peak,
            self.machine,
        )
        return next(request for request in requests if request.__name__ == what)(*details)

    def prepare(self, shape: Shape, dtype: str, gradient: str = "") -> dict[str, Any]:
        """Each layout's result, of the convolution or a gradient of it; a string says why there is
        none."""
        x, w = shape.data(dtype)
        self.contenders = {}  # those of the last problem go before new ones take memory
        task = Task(shape, x, w, self.threads, gradient)
        if gradient:
            made = gradients.ENGINES[self.engine](task)
        else:
            made = ENGINES[self.engine].prepare(task)
        found: dict[str, Any] = {}
        for layout, contender in made.items():
            try:
                found[layout] = np.ascontiguousarray(contender.as_nlc(contender.call()))
                self.contenders[layout] = contender
            except Exception as error:
                found[layout] = _words(error)
        return found

    def burst(self, layouts: Sequence[str]) -> dict[str, float]:
        """Seconds per call, of each layout."""
        return {layout: timing.burst(self.contenders[layout].call) for layout in layouts}

    def peak(self, dtype: str) -> float:
        """The FMA peak of this minute, GFLOP/s."""
        from mlxconv import roofline

        call, flop = roofline.fma_call(dtype, self.threads)
        return flop / timing.burst(call) / 1e9

    def machine(self) -> Any:
        from mlxconv import roofline

        return roofline.machine()


def _quiet() -> None:
    """Libraries that print print to nobody: the terminal is the parent's."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)


def _keep_to(threads: int) -> None:
    """Run on so many cores only: some libraries have no other way to be told."""
    if hasattr(os, "sched_getaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, mine[-threads:])


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
