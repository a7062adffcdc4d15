"""Streams and devices: how many threads a call may use, and what stands for a stream."""

import threading

import numpy as np
import pytest

import mlxconv
from mlxconv import threads as launcher
from mlxconv.dispatch import plan

X, W = np.ones((1, 5000, 32), np.float32), np.ones((20, 3, 32), np.float32)  # worth sharing


@pytest.fixture
def seen(monkeypatch):
    """The number of threads each call was allowed."""
    allowed = []
    run = launcher.run

    def spy(schedule, geometry, arrays, threads, panels=None):
        allowed.append(threads or launcher.default_threads())
        return run(schedule, geometry, arrays, threads, panels)

    monkeypatch.setattr(launcher, "run", spy)
    return allowed


def test_the_stream_of_a_call(seen):
    mlxconv.conv1d(X, W, stream=mlxconv.Stream(threads=1))
    mlxconv.conv1d(X, W, stream=mlxconv.Stream(threads=7))
    mlxconv.conv1d(X, W)
    mlxconv.conv1d(X, W, stream=mlxconv.cpu)
    mlxconv.conv1d(X, W, stream=mlxconv.Device("cpu"))
    default = launcher.default_threads()
    assert seen == [1, 7, default, default, default]


def test_the_stream_of_a_block(seen):
    with mlxconv.stream(mlxconv.Stream(threads=1)) as s:
        mlxconv.conv1d(X, W)
        with mlxconv.stream(mlxconv.Stream(threads=2)):
            mlxconv.conv1d(X, W)
        mlxconv.conv1d(X, W)
        assert s.threads == 1
    mlxconv.conv1d(X, W)
    assert seen == [1, 2, 1, launcher.default_threads()]


def test_a_block_is_left_by_an_error(seen):
    with pytest.raises(KeyError), mlxconv.stream(mlxconv.Stream(threads=1)):
        raise KeyError
    mlxconv.conv1d(X, W)
    assert seen == [launcher.default_threads()]


def test_a_block_is_of_its_python_thread(seen):
    with mlxconv.stream(mlxconv.Stream(threads=1)):
        other = threading.Thread(target=mlxconv.conv1d, args=(X, W))
        other.start()
        other.join()
    assert seen == [launcher.default_threads()]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MLXCONV_NUM_THREADS", "1", 1),
        ("NUMBA_NUM_THREADS", "1", 1),
        ("OMP_NUM_THREADS", "1", 1),
        ("OMP_NUM_THREADS", "1,2", 1),
        ("OMP_NUM_THREADS", "nonsense", None),
        ("MLXCONV_NUM_THREADS", "0", None),
    ],
)
def test_environment(monkeypatch, variable, value, expected):
    for name in ("MLXCONV_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    launcher.default_threads.cache_clear()  # it is read once
    everything = launcher.default_threads()
    monkeypatch.setenv(variable, value)
    launcher.default_threads.cache_clear()
    found = launcher.default_threads()
    launcher.default_threads.cache_clear()
    assert found == (expected or everything)


@pytest.mark.parametrize("bad", (1, "cpu", object(), True))
def test_no_streams(bad):
    with pytest.raises(TypeError, match="stream takes None, an mlxconv"):
        mlxconv.conv1d(X, W, stream=bad)


def test_errors_of_streams_and_devices():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        mlxconv.Stream(threads=0)
    with pytest.raises(TypeError, match="takes an int or None, got 1.5"):
        mlxconv.Stream(threads=1.5)
    with pytest.raises(ValueError, match="runs on the CPU"):
        mlxconv.Device("gpu")
    assert mlxconv.Device("cpu", 0) == mlxconv.cpu and repr(mlxconv.cpu) == "Device(cpu, 0)"
    assert repr(mlxconv.Stream(threads=2)) == "Stream(threads=2)"


class Foreign:
    """Stands for a device of MLX, which need not be installed."""

    def __init__(self, name):
        self._name = name

    def __str__(self):
        return self._name


Foreign.__module__ = "mlx.core"


def test_streams_of_mlx(seen):
    for name in ("DeviceType.cpu", "Device(cpu, 0)", "Stream(Device(cpu, 0), 0)"):
        mlxconv.conv1d(X, W, stream=Foreign(name))
    assert seen == [launcher.default_threads()] * 3
    with pytest.raises(ValueError, match="runs on the CPU"):
        mlxconv.conv1d(X, W, stream=Foreign("Stream(Device(gpu, 0), 0)"))


def test_the_devices_of_an_installed_mlx(seen):
    mx = pytest.importorskip("mlx.core")
    for s in (mx.cpu, mx.Device(mx.cpu), mx.default_stream(mx.cpu)):
        mlxconv.conv1d(X, W, stream=s)
    assert len(seen) == 3
    with pytest.raises(ValueError, match="runs on the CPU"):
        mlxconv.conv1d(X, W, stream=mx.gpu)


@pytest.mark.parametrize(("threads", "launched"), ((None, [2]), (1, []), (2, [2]), (5, [2])))
def test_the_threads_of_what_is_bound(monkeypatch, threads, launched):
    """What is looked up once, for all threads, uses no more than a call may."""
    if launcher.layer() == "pool" or launcher.numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("it is not bound to several threads")
    launches, launching = [], launcher._launcher

    def spy(elements):
        launch = launching(elements)
        return lambda *arguments: launches.append(arguments[-2]) or launch(*arguments)

    monkeypatch.setattr(launcher, "_launcher", spy)
    monkeypatch.setattr(launcher, "default_threads", lambda: 2)
    monkeypatch.setattr(launcher.numba.config, "NUMBA_NUM_THREADS", 2)
    schedule = plan.__wrapped__(mlxconv.explain(X[:, :200], W).problem, None).schedule
    at_once = launcher.bound(schedule, schedule.compile())
    y = np.zeros((1, 198, 20), np.float32)
    assert not at_once(X[:, :200], W, y, None, threads)
    assert (y == 96).all()
    assert launches == launched
