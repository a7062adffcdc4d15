"""Inputs: anything NumPy can view gives the right values; what it cannot view is refused."""

import array

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv.arrays import memory_of, real_view
from tests import helpers
from tests.problems import DTYPES

rng = np.random.default_rng(0)
X = helpers.integer_array(rng, (2, 40, 6), np.float32)
W = helpers.integer_array(rng, (8, 3, 6), np.float32)
Y = mlxconv.conv1d(X, W, padding=1)


class Exports:
    """Another library's array: a DLPack capsule, and no __array__."""

    def __init__(self, a):
        self._a = a

    def __dlpack__(self, **named):
        return self._a.__dlpack__(**named)

    def __dlpack_device__(self):
        return self._a.__dlpack_device__()


class Subclass(np.ndarray):
    """Refuses to take part in anything, so that using it as an ndarray would show."""

    def __array_function__(self, *args, **named):
        raise AssertionError

    def __array_ufunc__(self, *args, **named):
        raise AssertionError


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        lambda a: a.view(Subclass),
        Exports,
        memoryview,
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(">f4"),
        lambda a: np.frombuffer(array.array("f", a.ravel()), np.float32).reshape(a.shape),
    ],
)
def test_anything_numpy_can_view(convert):
    y = mlxconv.conv1d(convert(X), convert(W), padding=1)
    assert type(y) is np.ndarray and np.array_equal(y, Y)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    assert np.array_equal(mlxconv.conv1d(torch.tensor(X), torch.tensor(W), padding=1), Y)
    with pytest.raises(TypeError, match="weight must be something NumPy can view.*requires grad"):
        mlxconv.conv1d(X, torch.tensor(W, requires_grad=True))


def test_a_broadcast_input_is_not_copied():
    """Stride 0 along the batch: 2**30 images that are one in memory."""
    x = np.broadcast_to(X[:1], (2**30, *X.shape[1:]))
    assert memory_of(x).flat.size == X[0].size
    wide = np.broadcast_to(X[:, :, :1], X.shape)
    expected = mlxconv.conv1d(wide.copy(), W, padding=1)
    assert np.array_equal(mlxconv.conv1d(wide, W, padding=1), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1, ::-1, ::-1],
        lambda a: a[:, ::3],
        lambda a: a[..., ::2],
        lambda a: a[:, 5:, 1:3],
        lambda a: a.transpose(0, 2, 1),
        lambda a: a[:, :0],
        lambda a: a[:, :, :0],
        lambda a: np.broadcast_to(a[:, :1], (2, 30, 8)),
        lambda a: a[:1, ::-2, -1:],
    ],
)
def test_views(view, dtype):
    dtype = getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype
    base = helpers.integer_array(np.random.default_rng(1), (2, 30, 8), np.dtype(dtype), 3)
    x = view(base)
    w = helpers.integer_array(np.random.default_rng(2), (3, 2, x.shape[-1]), np.dtype(dtype), 3)
    expected = mlxconv.conv1d(np.ascontiguousarray(x), w, padding=1)
    before = base.tobytes()
    assert mlxconv.conv1d(x, w, padding=1).tobytes() == expected.tobytes()
    assert base.tobytes() == before


@pytest.mark.parametrize("step", [(1, 1, 1), (-1, 1, 1), (1, -2, 1), (1, 1, -3), (-1, -1, -1)])
def test_memory_of_views(step):
    """Every element is where `memory_of` says, and memory outside the view is left out."""
    a = np.arange(3 * 8 * 9.0).reshape(3, 8, 9)[tuple(slice(None, None, s) for s in step)]
    memory = memory_of(a)
    strides = memory.strides or tuple(s // a.itemsize for s in a.strides)
    for index in np.ndindex(a.shape):
        at = memory.offset + sum(i * s for i, s in zip(index, strides, strict=True))
        assert memory.flat[at] == a[index]
    assert not memory.flat.flags.writeable
    assert np.shares_memory(memory.flat, a)


def test_complex_views_without_a_copy():
    z = (X + 1j).astype(np.complex64)
    for a in (z, z[::-1, ::2], z[:, :, 2:5], z[:, :, 3:4], z[:, 1::3, ::6]):
        real = real_view(a)
        assert np.shares_memory(real, z) and real.shape == (*a.shape[:-1], 2 * a.shape[-1])
        assert np.array_equal(real[..., ::2], a.real) and np.array_equal(real[..., 1::2], a.imag)


@pytest.mark.parametrize("dtype", ("f2", "f4", "f8", "c8", "c16"))
def test_byte_order(dtype):
    x, w = X.astype(dtype), W.astype(dtype)
    if np.dtype(dtype).kind == "c":
        x += 1j * x[::-1]
    expected = mlxconv.conv1d(x, w, padding=1)
    for swapped in (x.astype(f">{dtype}"), x.astype(f">{dtype}")[:, ::-1][:, ::-1]):
        y = mlxconv.conv1d(swapped, w.astype(f">{dtype}"), padding=1)
        assert y.dtype.isnative and y.tobytes() == expected.tobytes()


def test_structured_and_text_arrays_are_refused():
    for bad in (
        np.zeros((1, 5, 2), [("a", "f4")]),
        np.full((1, 5, 2), "a"),
        np.zeros((1, 5, 2), "M8[s]"),
    ):
        with pytest.raises(ValueError, match="Invalid input array with type"):
            mlxconv.conv1d(bad, W)


def test_longdouble_is_refused():
    with pytest.raises(ValueError, match="Invalid input array with type (float128|float96|longd)"):
        mlxconv.conv1d(X.astype(np.longdouble), W)
