"""The notice of long compilation: one line, on a terminal, while it lasts, or nothing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlxconv import notice
from mlxconv.cli import progress

terminals = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")

# `reference` in two types, on one thread: 2 s of compiling, which here counts as long
PROGRAM = """
import numpy as np, mlxconv, mlxconv.notice
mlxconv.notice.PATIENCE_SECONDS = 0.05
for dtype in (np.float32, np.float64):
    x, w = np.ones((1, 9, 2), dtype), np.ones((2, 3, 2), dtype)
    y = mlxconv.conv1d(x, w, variant="reference", stream=mlxconv.Stream(threads=1))
assert (y == 6).all()
"""
KEPT = "mlxconv: compiling kernels, kept for the next time (MLXCONV_QUIET=1 silences)\r\n"
NOT_KEPT = "mlxconv: compiling kernels, not kept: no cache (MLXCONV_QUIET=1 silences)\r\n"


def on_terminal(program, cache, **environment):
    """What a terminal shows of the program's stderr."""
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, "MLXCONV_CACHE_DIR": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=env, stderr=theirs, check=False)
    os.write(theirs, b"end")  # so that there is something to read
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0, seen
    return seen.removesuffix("end")


@terminals
def test_once_and_only_where_something_is_compiled(tmp_path):
    assert on_terminal(PROGRAM, tmp_path) == KEPT
    assert on_terminal(PROGRAM, tmp_path) == ""


@terminals
def test_without_a_cache():
    assert on_terminal(PROGRAM, "") == NOT_KEPT


@terminals
@pytest.mark.parametrize("value, seen", [("1", ""), ("0", KEPT), ("", KEPT)])
def test_silenced(tmp_path, value, seen):
    assert on_terminal(PROGRAM, tmp_path, MLXCONV_QUIET=value) == seen


@terminals
def test_quick_ones_are_not_worth_a_word(tmp_path):
    assert on_terminal(PROGRAM.replace("0.05", "1000"), tmp_path) == ""


OTHERS = """
import numba, mlxconv.notice, mlxconv.kernels.elements
assert mlxconv.notice.watch.cache_info().misses == 1
mlxconv.notice.PATIENCE_SECONDS = -1
numba.njit(lambda x: x + 1)(1)
"""


@terminals
def test_nor_are_those_of_others(tmp_path):
    assert on_terminal(OTHERS, tmp_path) == ""


def test_no_terminal(tmp_path):
    env = {**os.environ, "MLXCONV_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, check=True)
    assert run.stdout == run.stderr == b""


# --- the sum of the time, on a clock of our own --------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(notice.time, "perf_counter", lambda: now.seconds)
    return now


@pytest.fixture
def watch(clock):
    """compile(seconds, ...): tells a Watch of a compilation; `said` counts what it says."""

    def compile(seconds, within=lambda: None, module="mlxconv.kernels.direct"):
        data = {"dispatcher": SimpleNamespace(__module__=module)}
        watched.notify(SimpleNamespace(is_start=True, data=data))
        within()
        clock.seconds += seconds
        watched.notify(SimpleNamespace(is_start=False, data=data))

    said = []
    watched = notice.Watch(lambda: said.append(clock.seconds))
    return SimpleNamespace(compile=compile, said=said, notify=watched.notify)


def test_compilations_add_up(watch, clock):
    for _ in range(4):
        watch.compile(0.3)
        clock.seconds += 100  # of something else
    assert watch.said == []  # 1.2 s, but nothing more is to come
    watch.compile(0.1)
    assert len(watch.said) == 1


def test_compilations_within_compilations_count_once(watch):
    watch.compile(0.4, within=lambda: watch.compile(0.4))
    watch.compile(0.1)
    assert watch.said == []
    watch.compile(0.0, within=lambda: (watch.compile(0.2), watch.compile(0.1)))
    assert len(watch.said) == 1


def test_compilations_of_others_do_not_count(watch):
    watch.compile(50, module="users.module")
    watch.compile(50, within=lambda: watch.compile(50), module="numba.core")
    watch.compile(0.1)
    assert watch.said == []


def test_what_cannot_be_understood_is_ignored(watch):
    watch.notify(SimpleNamespace(is_start=True, data=None))  # another Numba's
    watch.notify(SimpleNamespace(is_start=False, data=None))
    watch.notify(SimpleNamespace(is_start=False, data=None))  # an end without a beginning
    watch.compile(1.1)
    watch.compile(0.1)
    assert len(watch.said) == 1


def test_commands_with_quiet_are_quiet(monkeypatch):
    monkeypatch.setattr(notice, "_silent", False)
    with progress.bar("title", 1, quiet=False):
        assert not notice._silent
    with progress.bar("title", 1, quiet=True):
        assert notice._silent
