"""convolve: equal to numpy.convolve, by kernels and by FFT; NumPy's own tests run on it."""

import importlib

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from mlxconv import convolving, fft
from tests.conftest import forget_plans
from tests.helpers import gamma, integer_array, random_array

MODES = ("full", "same", "valid")
DTYPES = ("float32", "float64", "complex64", "complex128")
LENGTHS = [(1, 1), (5, 1), (1, 5), (7, 7), (20, 4), (4, 20), (300, 37), (36, 300), (1000, 129)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", (None, *convolving.VARIANTS))
def test_equals_numpy(dtype, mode, variant):
    rng = np.random.default_rng(0)
    for m, n in LENGTHS:
        a, v = integer_array(rng, m, dtype), integer_array(rng, n, dtype)
        y, expected = mlxconv.convolve(a, v, mode, variant=variant), np.convolve(a, v, mode)
        assert y.dtype == dtype and y.shape == expected.shape
        if variant == "fft":
            assert np.allclose(y, expected, rtol=0, atol=1e-3 if y.dtype.itemsize < 8 else 1e-9)
            assert np.array_equal(y.round(), expected)
        else:
            assert np.array_equal(y, expected)


@pytest.mark.parametrize("types", [("f2", "f2"), ("f4", "f8"), ("f4", "c8"), ("f8", "c8")])
def test_types_are_promoted_as_in_numpy(types):
    rng = np.random.default_rng(1)
    a, v = (integer_array(rng, n, t, 2) for n, t in zip((90, 8), types, strict=True))
    y, expected = mlxconv.convolve(a, v), np.convolve(a, v)
    assert y.dtype == expected.dtype and np.array_equal(y, expected)


def test_bfloat16():
    a, v = (np.ones(n, ml_dtypes.bfloat16) for n in (50, 7))
    y = mlxconv.convolve(a, v, "valid")
    assert y.dtype == a.dtype and (y == 7).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fft_is_within_its_bound(mode, dtype):
    rng = np.random.default_rng(2)
    a, v = random_array(rng, 20_000, dtype), random_array(rng, 1200, dtype)
    exact = np.convolve(a.astype(np.clongdouble), v.astype(np.clongdouble), mode)
    y = mlxconv.convolve(a, v, mode, variant="fft")
    norms = np.linalg.norm(a) * np.linalg.norm(v)
    allowed = 1e-15 * np.log2(len(a)) * norms + np.finfo(dtype).eps * np.abs(exact)
    assert (np.abs(y - exact) <= allowed).all()


def test_the_kernel_keeps_the_bound_of_conv1d():
    rng = np.random.default_rng(3)
    a, v = random_array(rng, 3000, "f4"), random_array(rng, 400, "f4")
    exact = np.convolve(a.astype("f8"), v.astype("f8"))
    sums = np.convolve(np.abs(a.astype("f8")), np.abs(v.astype("f8")))
    assert (np.abs(mlxconv.convolve(a, v) - exact) <= gamma(400, "f4") * sums * 1.01).all()


def test_long_filters_take_the_fft_unless_something_is_not_finite(monkeypatch):
    seen = []
    run = fft.FourierPlan.run
    monkeypatch.setattr(fft.FourierPlan, "run", lambda *args: seen.append(1) or run(*args))
    forget_plans()
    a, v = np.ones(9000, "f4"), np.ones(4000, "f4")
    assert mlxconv.convolve(a, v, "valid")[0] == 4000 and len(seen) == 1
    assert mlxconv.convolve(a, v[:100], "valid")[0] == 100 and len(seen) == 1
    a[0] = np.inf
    y = mlxconv.convolve(a, v, "valid")
    assert len(seen) == 1 and y[0] == np.inf and (y[1:] == 4000).all()
    with pytest.raises(ValueError, match=r"input has inf at \(0, 0, 0\)"):
        mlxconv.convolve(a, v, "valid", variant="fft")
    assert mlxconv.convolve(np.ones(9000, "f4"), v, variant="kernel")[0] == 1 and len(seen) == 2


def test_errors():
    with pytest.raises(ValueError, match=r"\[convolve\] Inputs must be 1D"):
        mlxconv.convolve(np.ones((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match=r"\[convolve\] Inputs must be 1D"):
        mlxconv.convolve(1.0, np.ones(2))
    with pytest.raises(ValueError, match=r"\[convolve\] Inputs cannot be empty"):
        mlxconv.convolve(np.ones(0), np.ones(2))
    with pytest.raises(ValueError, match=r"\[convolve\] Invalid mode"):
        mlxconv.convolve(np.ones(3), np.ones(2), "middle")
    with pytest.raises(ValueError, match="variant takes one of kernel, fft"):
        mlxconv.convolve(np.ones(3), np.ones(2), variant="direct")
    with pytest.raises(TypeError):
        mlxconv.convolve(a=np.ones(3), v=np.ones(2))


def test_inputs_are_not_written_to():
    a, v = np.arange(9.0)[::-2], np.arange(3.0)[::-1]
    a.flags.writeable = v.flags.writeable = False
    assert np.array_equal(mlxconv.convolve(a, v), np.convolve(a, v))


def test_against_mlx():
    mx = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(4)
    for m, n in LENGTHS:
        a, v = integer_array(rng, m, "f4"), integer_array(rng, n, "f4")
        for mode in MODES:
            with mx.stream(mx.cpu):
                expected = np.array(mx.convolve(mx.array(a), mx.array(v), mode=mode))
            assert np.array_equal(mlxconv.convolve(a, v, mode), expected), (m, n, mode)


def rerouted():
    """NumPy's tests of convolve and correlate."""
    module = importlib.import_module("numpy._core.tests.test_numeric")
    for name in ("TestConvolve", "TestCorrelate"):
        tests = getattr(module, name)
        for test in sorted(n for n in dir(tests) if n.startswith("test_")):
            if "error_message" in test:  # ours are MLX's
                continue
            yield pytest.param(tests, test, id=f"{name}.{test}")


@pytest.mark.parametrize("tests, test", list(rerouted()))
def test_of_numpy(tests, test, monkeypatch):
    def convolve(a, v, mode="full"):
        a, v = np.array(a, ndmin=1), np.array(v, ndmin=1)
        if mode not in MODES:  # an enum, a number, or a mistake: NumPy's own matter
            return original(a, v, mode)
        calls.append(mode)
        return mlxconv.convolve(a, v, mode)

    def correlate(a, v, mode="valid"):
        return convolve(a, np.conj(np.array(v, ndmin=1))[::-1], mode)

    original, calls = np.convolve, []
    monkeypatch.setattr(np, "convolve", convolve)
    monkeypatch.setattr(np, "correlate", correlate)
    monkeypatch.setattr(convolving, "np", _NumpyWith(original))
    getattr(tests(), test)()
    assert calls


class _NumpyWith:
    """numpy, with its own convolve."""

    def __init__(self, convolve):
        self.convolve = convolve

    def __getattr__(self, name):
        return getattr(np, name)
