"""MLX's convolutions through mlxconv: the same results and gradients, undone without a trace."""

import numpy as np
import pytest

import mlxconv
from mlxconv.patching import CONVOLUTIONS

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")


@pytest.fixture(autouse=True)
def on_cpu():
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


def array(*shape, dtype=np.float32, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


CALLS = [
    ("conv1d", (2, 30, 8), (12, 3, 4), (2, 1, 1, 2)),
    ("conv2d", (2, 9, 8, 4), (6, 3, 2, 4), ((2, 1), (1, 0), 1, 1)),
    ("conv3d", (1, 5, 6, 7, 2), (3, 2, 2, 2, 2), (1, 1, 1, 1)),
    ("conv_general", (2, 30, 8), (12, 3, 8), (1, ([2], [1]), 1, 2, 1, True)),
    ("conv_transpose1d", (2, 10, 8), (12, 3, 8), (2, 1, 1, 1, 1)),
    # with an output_padding here MLX's gradient has not the shape of the input
    ("conv_transpose2d", (1, 5, 6, 4), (6, 3, 2, 4), ((2, 3), (1, 0), 1, 0, 1)),
    ("conv_transpose3d", (1, 3, 4, 3, 2), (3, 2, 2, 2, 2), (2, 0, 1, 0, 1)),
]


def results(name, x_shape, w_shape, call):
    """Value and gradients, as NumPy arrays."""
    x, w = array(*x_shape), array(*w_shape, seed=1)
    fn = getattr(mx, name)
    y = fn(x, w, *call)
    weights = array(*y.shape, seed=2)
    grads = mx.grad(lambda x, w: (fn(x, w, *call) * weights).sum(), argnums=(0, 1))(x, w)
    return [np.array(a) for a in (y, *grads)]


@pytest.mark.parametrize("name, x_shape, w_shape, call", CALLS)
def test_values_and_gradients(name, x_shape, w_shape, call, monkeypatch):
    expected = results(name, x_shape, w_shape, call)
    with mlxconv.patch_mlx():
        for a, b in zip(results(name, x_shape, w_shape, call), expected, strict=True):
            assert a.dtype == b.dtype and np.allclose(a, b, rtol=1e-4, atol=1e-4)
        calls = []
        monkeypatch.setattr(np, "asarray", lambda *a, was=np.asarray: calls.append(1) or was(*a))
        results(name, x_shape, w_shape, call)
        assert calls  # they came by NumPy, not by MLX


def test_undone_without_a_trace():
    before = {name: getattr(mx, name) for name in (*CONVOLUTIONS, "convolve")}
    patch = mlxconv.patch_mlx()
    assert all(getattr(mx, name) is not original for name, original in before.items())
    assert mx.conv1d.__doc__ == before["conv1d"].__doc__
    with pytest.raises(RuntimeError, match="patched already"):
        mlxconv.patch_mlx()
    patch.undo()
    patch.undo()
    assert all(getattr(mx, name) is original for name, original in before.items())
    with pytest.raises(ZeroDivisionError), mlxconv.patch_mlx():
        1 / 0
    assert all(getattr(mx, name) is original for name, original in before.items())


def test_the_bits_are_those_of_mlxconv():
    x, w = array(1, 50, 8), array(16, 5, 8, seed=1)
    with mlxconv.patch_mlx():
        y = mx.conv1d(x, w, padding=2)
    assert np.array(y).tobytes() == mlxconv.conv1d(x, w, padding=2).tobytes()


@pytest.mark.parametrize("mode", ("full", "same", "valid"))
def test_convolve(mode):
    a, v = array(40), array(7, seed=1)
    expected = np.array(mx.convolve(a, v, mode))
    with mlxconv.patch_mlx():
        assert np.allclose(np.array(mx.convolve(a, v, mode)), expected, atol=1e-5)
        grad = mx.grad(lambda v: mx.convolve(a, v, mode).sum())(v)
    assert np.allclose(
        np.array(grad), np.array(mx.grad(lambda v: mx.convolve(a, v, mode).sum())(v))
    )


@pytest.mark.parametrize("dtype", (mx.float16, mx.bfloat16))
def test_half_types(dtype):
    x, w = array(1, 50, 8).astype(dtype), array(16, 5, 8, seed=1).astype(dtype)
    exact = np.array(mx.conv1d(x.astype(mx.float32), w.astype(mx.float32)))
    with mlxconv.patch_mlx():
        y = mx.conv1d(x, w)
    assert y.dtype == dtype
    assert np.allclose(np.array(y.astype(mx.float32)), exact, rtol=1e-2, atol=1e-2)


def test_modules_and_transformations():
    x, layer = array(3, 30, 8), nn.Conv1d(8, 4, 3)
    w = array(5, 3, 8, seed=1)
    expected = [np.array(layer(x)), np.array(mx.conv1d(x, w))]
    with mlxconv.patch_mlx():
        compiled = mx.compile(lambda x: mx.conv1d(x, w))(x)
        mapped = mx.vmap(lambda one: mx.conv1d(one[None], w)[0])(x)
        found = [np.array(a) for a in (layer(x), compiled, mapped)]
    for a, b in zip(found, (*expected, expected[1]), strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_errors_are_raised_at_the_call():
    x, w = array(1, 5, 2), array(3, 2, 3)
    with mlxconv.patch_mlx(), pytest.raises(ValueError, match="Expect the input channels"):
        mx.conv1d(x, w)
