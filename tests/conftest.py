"""What all tests share: switches for width and threading."""

import pytest

from mlxconv import processor, threads
from mlxconv.api import _known_runner, _runner
from mlxconv.dispatch import plan
from mlxconv.kernels import tiling
from mlxconv.waking import Awake, Waking


def forget_plans():
    """Let the next call plan anew, for another machine than the last, or with another constant: a
    plan knows on how many threads it runs, and where its results come from."""
    processor.vector_bytes.cache_clear()
    threads._worth_sharing.cache_clear()
    plan.cache_clear()
    tiling.fastest.cache_clear()
    _runner.cache_clear()
    _known_runner.cache_clear()


@pytest.fixture(autouse=True)
def threads_are_awake(monkeypatch):
    """Whether work is shared does not depend on when the test before was over."""
    monkeypatch.setattr(Waking, "wanted", Awake.wanted)
    monkeypatch.setattr(Waking, "launched", Awake.launched)


@pytest.fixture
def vector_bytes(request, monkeypatch):
    """Kernels for registers of `request.param` bytes, whatever the machine has."""
    monkeypatch.setenv("MLXCONV_VECTOR_BYTES", str(request.param))
    forget_plans()
    yield request.param
    monkeypatch.undo()
    forget_plans()


@pytest.fixture
def always_parallel(monkeypatch):
    """Share even the smallest work, so that small problems test the parallel road."""
    monkeypatch.setattr(threads, "WORTH_SHARING", dict.fromkeys(threads.WORTH_SHARING, 0))
    monkeypatch.setattr(threads, "default_threads", lambda: 3)
    forget_plans()
    yield
    monkeypatch.undo()
    forget_plans()
