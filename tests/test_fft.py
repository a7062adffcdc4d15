"""The FFT as a row of the table: only when asked, within its bound, never on what is not finite."""

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, fft
from tests import helpers
from tests.conftest import forget_plans
from tests.problems import DTYPES, random_cases

RNG = np.random.default_rng(0)


def assert_within_bound(y, x, w, *parameters, **named):
    """|error| <= 1e-15 log2(size) |x| |w| by norms, size <= 2**13, and the result's rounding."""
    expected = helpers.reference(x, w, *parameters, **named)
    wide = helpers._widened(y, np.clongdouble if np.iscomplexobj(y) else np.longdouble)
    norms = np.linalg.norm(helpers._absolute(x).astype("f8")) * np.linalg.norm(
        helpers._absolute(w).astype("f8")
    )
    rounding = helpers.unit_roundoff(y.dtype) * 2 * np.abs(expected)
    rounding += np.longdouble(helpers._finfo(y.dtype).smallest_subnormal) / 2
    assert y.shape == expected.shape
    assert (np.abs(wide - expected) <= 1e-15 * 13 * norms + rounding).all()


def depthwise(case, rng):
    """`case` with one channel in each group, one axis and no stride."""
    multiplier = int(rng.integers(1, 4))
    return case._replace(
        x_shape=(*case.x_shape[:2], case.groups),
        w_shape=(case.groups * multiplier, case.w_shape[1], 1),
        stride=(1,),
    )


@pytest.mark.parametrize("small", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_random_problems(dtype, small, monkeypatch):
    """Batches, multipliers, dilation of filter and input, cropping; in blocks of any size."""
    if small:  # many blocks, and few filters at a time
        monkeypatch.setattr(fft, "LEAST", 2)
        monkeypatch.setattr(fft, "REACH", 2)
        monkeypatch.setattr(fft, "CHUNK", 64)
        forget_plans()
    ran = 0
    for i, case in enumerate(random_cases(150, 11)):
        rng = np.random.default_rng(i)
        case = depthwise(case, rng)
        x, w = case.data(rng, dtype, helpers.random_array)
        try:
            expected_shape = case.run(x, w).shape
            y = case.run(x, w, variant="fft")
        except ValueError as refused:  # phases of a dilated input have strides of their own
            assert "would be dropped" in str(refused) or "[conv]" in str(refused)
            continue
        assert y.shape == expected_shape and y.dtype == x.dtype
        assert_within_bound(y, x, w, *case.parameters)
        ran += 1
    forget_plans()
    assert ran > 80


@pytest.mark.parametrize("types", [("f4", "f8"), ("f4", "c8"), ("c8", "f4"), ("f2", "i4")])
def test_mixed_types(types):
    x = helpers.integer_array(RNG, (2, 90, 1), types[0], 2)
    w = helpers.integer_array(RNG, (3, 8, 1), types[1], 2)
    y, expected = mlxconv.conv1d(x, w, variant="fft"), mlxconv.conv1d(x, w)
    assert y.dtype == expected.dtype and np.array_equal(np.round(y), expected)


def test_the_same_bits_alone_prepared_and_in_place():
    x, w = helpers.random_array(RNG, (2, 900, 6), "f4"), helpers.random_array(RNG, (6, 40, 1), "f4")
    y = mlxconv.conv1d(x, w, padding=5, groups=6, variant="fft")
    out = np.empty_like(y)
    assert mlxconv.conv1d(x, w, 1, 5, 1, 6, variant="fft", out=out) is out
    conv = mlxconv.Conv1d(w, 1, 5, 1, 6, variant="fft")
    for other in (out, conv(x), conv(x), conv(np.asfortranarray(x))):
        assert np.array_equal(y, other)
    with pytest.raises(ValueError, match="out overlaps with input"):
        mlxconv.conv1d(x, w[:, :1], groups=6, variant="fft", out=x)


@pytest.mark.parametrize(("filters", "taps", "groups"), [(4, 9, 4), (1, 8, 1), (3, 8, 1)])
def test_a_transposed_convolution(filters, taps, groups):
    """Those of one channel and equal phases are one problem, of the filters of both."""
    x = helpers.random_array(RNG, (1, 70, groups), "f8")
    w = helpers.random_array(RNG, (filters, taps, 1), "f8")
    q = dict(stride=2, padding=2, groups=groups)
    y = mlxconv.conv_transpose1d(x, w, **q, variant="fft")
    assert np.allclose(y, mlxconv.conv_transpose1d(x, w, **q), rtol=0, atol=1e-13)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_is_refused_before_any_work(bad):
    x, w, out = np.ones((1, 90, 1), "f4"), np.ones((1, 8, 1), "f4"), np.zeros((1, 83, 1), "f4")
    x[0, 33] = bad
    with pytest.raises(ValueError, match=r"input has -?(nan|inf) at \(0, 33, 0\)"):
        mlxconv.conv1d(x, w, variant="fft", out=out)
    with pytest.raises(ValueError, match=r"weight has -?(nan|inf) at \(0, 33, 0\)"):
        mlxconv.conv1d(np.ones((1, 90, 1), "f4"), x, variant="fft")
    assert not out.any()


@pytest.mark.parametrize("shape", [((1, 90000, 1), (1, 9000, 1)), ((1, 9000, 4), (4, 5000, 1))])
def test_it_is_never_picked(shape):
    """However long the filters: its bound is not that of the kernels."""
    found = mlxconv.explain(*shape, groups=shape[0][2])
    assert found.variant != "fft" and found.refused[0][0] == "fft"
    assert "relative to the norms" in found.refused[0][1]
    assert "fft" not in dispatch.able(found.problem)
    assert "fft" in dispatch.able(found.problem, keeps_bits=False)


@pytest.mark.parametrize(
    ("x", "w", "named", "reason"),
    [
        ((1, 90, 4), (4, 8, 4), {}, "each filter sums over 4 channels"),
        ((1, 90, 1), (1, 8, 1), dict(stride=2), "stride of 2"),
        ((1, 90, 9, 1), (1, 8, 2, 1), {}, "2 spatial axes"),
    ],
)
def test_refusals_say_why(x, w, named, reason):
    with pytest.raises(ValueError, match=f"'fft' cannot compute this problem: .*{reason}"):
        mlxconv.explain(x, w, **named, variant="fft")


def test_explain_states_the_bound_of_each():
    shape = ((1, 90000, 1), (1, 9000, 1))
    text = str(mlxconv.explain(*shape, variant="fft"))
    assert "variant   fft" in text and "|block| |filter|, by their norms" in text
    assert "tile" not in text and "1 threads" not in text and "on one thread (numpy.fft)" in text
    assert "at most 9000 u of sum |x||w|, u = 2**-24; the same bits" in str(mlxconv.explain(*shape))
    halves = mlxconv.explain((1, 9, 2), (1, 3, 2), dtype="float16").error
    assert halves.startswith("at most 6 u of sum |x||w|, u = 2**-24, then one rounding to float16")


def test_a_race_shows_it_but_does_not_count_it_as_regret(monkeypatch):
    from tests.test_race import MACHINE

    monkeypatch.setattr(mlxconv.roofline, "machine", lambda: MACHINE)
    race = mlxconv.race((1, 20000, 1), (1, 2500, 1), dtype="float64", rounds=1)
    times = {entry.variant: entry.seconds for entry in race.entries}
    assert "fft" in times and race.picked == "direct"
    kernels = [seconds for name, seconds in times.items() if name != "fft"]
    assert race.regret == times["direct"] / min(kernels) - 1
