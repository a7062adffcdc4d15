"""Ctrl-C: a convolution of ten seconds and more ends within half a second."""

import itertools
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, interrupts, processor, threads

# The first calls have the same filters, on few positions, so that nothing is left to compile.  Then
# work for a minute.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
import numpy as np
import mlxconv
variant, groups = sys.argv[1], int(sys.argv[2])
slow = variant == "reference"
w = np.ones((512, 999 if variant == "depthwise" else 99, 512 // groups), np.float32)
x = np.ones((1, 40_000 if slow else 2_000_000, 512), np.float32)
for positions in (1, 10) if slow else (1, 10, 1000, 2000):
    mlxconv.conv1d(x[:, : w.shape[1] + positions], w, groups=groups, variant=variant)
print("ready", flush=True)
try:
    mlxconv.conv1d(x, w, groups=groups, variant=variant)
    print("done")
except KeyboardInterrupt:
    print("interrupted", flush=True)
    assert (mlxconv.conv1d(x[:, :1500], w, groups=groups) == w[0].size).all()
"""


def seconds_to_stop(variant, groups, mode):
    """From Ctrl-C to the KeyboardInterrupt in the program; its next call must then be right."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, variant, str(groups)],
        env={**os.environ, "MLXCONV_THREADING": mode},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    assert line == "interrupted\n" and process.returncode == 0
    return seconds


@pytest.mark.parametrize("mode", ("serial", "numba", "pool"))
@pytest.mark.parametrize(
    ("variant", "groups"), [("direct", 1), ("depthwise", 512), ("reference", 1)]
)
def test_ctrl_c(variant, groups, mode):
    """Tried again where the machine was too busy to tell."""
    assert any(seconds_to_stop(variant, groups, mode) < 0.5 for _ in range(3))


@pytest.mark.skipif(processor.cores() < 2, reason="one core")
def test_launches_leave_no_thread_idle(monkeypatch):
    """Launches that are short enough for Ctrl-C are of as many jobs for each thread, but the last
    of a step, and of all jobs."""
    launched = []

    def launch(elements, arguments, first, last, lo, hi, chunks):
        launched.append((first, lo, hi))
        return 0

    monkeypatch.setattr(threads, "_on_numba", launch)
    monkeypatch.setattr(threads, "_on_pool", launch)
    x, w = np.ones((5, 2000, 64), np.float32), np.ones((64, 30, 64), np.float32)
    schedule = dispatch.plan(mlxconv.explain(x, w).problem).schedule
    monkeypatch.setattr(threads, "LAUNCH_FLOP", schedule.flop / 14)  # on two threads: 7 launches
    mlxconv.conv1d(x, w, stream=mlxconv.Stream(threads=2))
    last = [(lo, hi) for first, lo, hi in launched if first == len(schedule.steps) - 1]
    assert len(last) > 3 and last[0][0] == 0 and last[-1][1] == schedule.steps[-1].jobs
    assert all(lo % 2 == 0 and lo < hi for lo, hi in last)
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(last))


# A signal that comes while LLVM has the kernel is seen in its callback, the first Python to run.
COMPILING = """
import signal, sys
from numba.core.codegen import JITCodeLibrary
import numpy as np
import mlxconv

def convolved():
    return mlxconv.conv1d(np.ones((1, 9, 2)), np.ones((3, 4, 2)), variant=sys.argv[1])

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt = lambda *code: signal.raise_signal(signal.SIGINT)
JITCodeLibrary._object_compiled_hook = interrupt
try:
    convolved()
    print("lost")
except KeyboardInterrupt:
    print("interrupted")
signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes on in all that follow
assert (convolved() == 8).all() and sys.unraisablehook is sys.__unraisablehook__
"""


@pytest.mark.parametrize("variant", ["reference", "direct"])
def test_ctrl_c_in_a_callback_of_the_compiler(variant, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMPILING, variant],
        env={**os.environ, "MLXCONV_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_what_callbacks_drop():
    """Exits are raised in the place of errors of the compilation; others are told, as ever."""
    told = []
    hook, sys.unraisablehook = sys.unraisablehook, told.append

    def drops(*dropped):
        for value in dropped:
            sys.unraisablehook(SimpleNamespace(exc_value=value))
        raise ValueError("no code")

    try:
        with pytest.raises(SystemExit, match="143"):
            interrupts.passed_on(drops)(OSError(), SystemExit(143), KeyboardInterrupt())
        with pytest.raises(ValueError, match="no code"):
            interrupts.passed_on(drops)(OSError())
        assert sys.unraisablehook == told.append
    finally:
        sys.unraisablehook = hook
    assert [type(unraisable.exc_value) for unraisable in told] == [OSError, OSError]
