"""Races: every variant that can, checked against exact sums, and whether the table picked well;
and what they stand on: turns, samples, tables."""

import itertools

import numpy as np
import pytest

import mlxconv
from mlxconv import dispatch, racing, roofline, sampling, timing
from mlxconv.kernels import channels_first
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of
from mlxconv.tables import Table, number
from tests import helpers
from tests.conftest import forget_plans
from tests.test_roofline import MACHINE


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Machine figures, so that no race measures them."""
    monkeypatch.setattr(roofline, "machine", lambda: MACHINE)


@pytest.mark.parametrize(
    "x, w, named",
    [
        ((2, 60, 8), (12, 3, 8), {}),
        ((1, 60, 8), (8, 3, 1), dict(groups=8, padding=(2, 0), stride=2)),
        ((1, 60, 4), (6, 3, 4), dict(padding="causal", dilation=3)),
        ((1, 60, 4), (6, 3, 4), dict(input_dilation=2, flip=True, padding=([1], [2]))),
        ((1, 12, 9, 4), (6, 3, 2, 4), dict(stride=(2, 1))),
        ((1, 5, 12, 9, 4), (6, 2, 3, 2, 4), dict(padding=(1, 1, 0))),
        ((1, 20, 4), (6, 4, 4), dict(transposed=True, stride=2, padding=1, output_padding=1)),
        ((2, 7, 6, 4), (6, 4, 3, 4), dict(transposed=True, stride=(2, 3))),
        ((1, 60, 4), (6, 3, 4), dict(dtype="float16")),
        ((1, 60, 4), (6, 3, 4), dict(dtype="complex128")),
    ],
)
def test_every_able_variant_runs_and_is_right(x, w, named):
    race = mlxconv.race(x, w, **named, rounds=1)
    found = mlxconv.explain(x, w, **named)
    assert race.problem == found.problem and race.picked == found.variant
    assert {entry.variant for entry in race.entries} == set(
        dispatch.able(race.problem, keeps_bits=False)
    )
    terms = np.prod(w[1:]) * (4 if "complex" in found.problem.dtype else 1)
    assert all(entry.ran and entry.error <= terms + 1 for entry in race.entries)
    times = [entry.seconds for entry in race.entries]
    assert times == sorted(times) and race.fastest.keeps_bits
    took = {entry.variant: entry.seconds for entry in race.entries}
    fastest = min(took[name] for name in dispatch.able(race.problem))
    assert race.fastest.seconds == fastest
    assert race.regret == took[race.picked] / fastest - 1 >= 0
    text = str(race)
    assert all(name in text for name in took) and text.count("picked") == 1 and "bound" in text


@pytest.mark.parametrize("by", ("input", "weight"))
@pytest.mark.parametrize(
    "x, w, named",
    [
        ((2, 60, 8), (12, 3, 8), {}),
        ((1, 12, 9, 8), (8, 3, 3, 1), dict(groups=8, padding=(2, 0), stride=2)),
        ((1, 60, 4), (6, 3, 2), dict(input_dilation=2, flip=True, padding=([1], [2]), groups=2)),
        ((1, 60, 4), (6, 3, 4), dict(input_dilation=2, stride=3, padding=-2, dtype="float64")),
        ((1, 20, 4), (40, 4, 2), dict(transposed=True, stride=2, padding=1, groups=2)),
        ((1, 60, 4), (6, 3, 4), dict(dtype="float16")),
    ],
)
def test_races_and_explanations_of_gradients(x, w, named, by):
    race = mlxconv.race(x, w, **named, gradient=by, rounds=1)
    found = mlxconv.explain(x, w, **named, gradient=by)
    problem = mlxconv.explain(x, w, **named).problem
    assert race.picked == found.variant and race.problem == found.problem
    text = str(found)
    terms = int(text.partition("error     at most ")[2].split()[0])
    assert all(entry.ran and entry.error <= terms + 1 for entry in race.entries)
    assert f"gradient by the {by}" in str(race) and f"gradient by the {by}" in text
    if by == "input":
        assert race.problem.output_shape == problem.input_shape
        assert {entry.variant for entry in race.entries} >= {"direct", "reference"}
    else:
        assert race.problem == problem and "outer" in {entry.variant for entry in race.entries}
        assert terms >= np.prod(problem.output_shape[:-1]) or max(problem.input_dilation) > 1


@pytest.fixture
def always_turned(monkeypatch):
    """The table picks channels_first wherever it can compute a problem."""
    monkeypatch.setattr(channels_first, "cost", lambda p: 0.0)
    monkeypatch.setattr(dispatch, "_takes_copies", lambda p: False)
    forget_plans()
    yield
    forget_plans()


def test_the_phases_of_what_is_picked_may_have_no_variant_in_common(always_turned):
    """One phase has three filters, too few for channels_first, and the larger one has six."""
    phased = {"input_dilation": 3, "stride": 2, "padding": ([4], [5])}
    race = mlxconv.race((1, 60, 3), (3, 3, 3), **phased, rounds=1)
    assert race.picked == "channels_first" and race.picked in {e.variant for e in race.entries}
    assert race.picked not in dispatch.able(race.problem)
    assert race.regret >= 0 and str(race).count("picked") == 1
    assert all(entry.ran and entry.error <= 10 for entry in race.entries)


def test_races_of_gradients_run_on_the_callers_arrays():
    x, w = np.ones((1, 60, 4), "f4"), np.ones((6, 3, 4), "f4")
    w[0, 1, 2] = np.nan
    race = mlxconv.race(x, w, gradient="weight", rounds=1)
    assert all(np.isfinite(entry.error) for entry in race.entries)  # the filters do not matter
    measured = mlxconv.explain(x, w, gradient="input", measure=True).measured_us
    assert measured is not None and measured > 0


def test_gradients_that_there_are_not():
    x, w = (1, 60, 4), (6, 3, 4)
    with pytest.raises(ValueError, match="gradient takes 'input' or 'weight', got 'bias'"):
        mlxconv.race(x, w, gradient="bias")
    with pytest.raises(TypeError, match="complex64; only real convolutions have gradients"):
        mlxconv.explain(x, w, dtype="complex64", gradient="input")
    with pytest.raises(ValueError, match="variant 'dot' cannot compute this gradient; outer can"):
        mlxconv.explain(x, w, variant="dot", gradient="weight")
    reason = dict(mlxconv.explain(x, w, gradient="weight").refused)["outer_grouped"]
    assert reason == "there is one group"


def test_a_race_runs_on_the_callers_arrays():
    x, w = np.ones((1, 60, 4), "f4"), np.ones((6, 3, 4), "f4")
    assert all(entry.error == 0 for entry in mlxconv.race(x, w, rounds=1).entries)
    x += np.float32(1 / 3)  # no sum of these is exact
    assert all(entry.error > 0 for entry in mlxconv.race(x, w, rounds=1).entries)


def test_slow_variants_are_skipped_and_say_so():
    race = mlxconv.race((1, 3000, 64), (64, 3, 64), rounds=1, slowest=1e-9)
    ran = [entry.variant for entry in race.entries if entry.ran]
    skipped = [entry for entry in race.entries if not entry.ran]
    assert ran == [race.picked] and skipped and race.regret == 0
    assert all(entry.seconds > 0 for entry in skipped)
    assert str(race).count("skipped: too slow") == len(skipped)


@pytest.mark.parametrize("named", [dict(padding=-20), dict(padding=500), dict(stride=40)])
def test_trials_are_convolutions_too(named, monkeypatch):
    """A shortened problem keeps room for its window, whatever is cropped or padded."""
    monkeypatch.setattr(racing, "TRIAL_FLOP", 1.0)
    race = mlxconv.race((2, 100, 4), (6, 9, 4), dilation=3, rounds=1, **named)
    assert all(entry.ran for entry in race.entries)


@pytest.mark.parametrize("x, w", [((0, 60, 4), (6, 3, 4)), ((1, 60, 4), (0, 3, 4))])
def test_nothing_to_compute(x, w):
    race = mlxconv.race(x, w, rounds=1)
    assert all(entry.error == 0 for entry in race.entries) and str(race)


def test_a_race_raises_what_the_convolution_would():
    with pytest.raises(ValueError, match="Stride sizes must be positive"):
        mlxconv.race((1, 50, 4), (3, 2, 4), stride=0)


# --- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named",
    [
        {},
        dict(stride=2, padding_lo=3, padding_hi=1, kernel_dilation=2),
        dict(padding_lo=-2, padding_hi=-3, flip=True),
        dict(input_dilation=3, padding_lo=4, padding_hi=4, flip=True),
        dict(groups=3, padding_lo=5, padding_hi=5),
    ],
)
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_exact_outputs_are_the_definition(named, dtype):
    rng, groups = np.random.default_rng(3), named.get("groups", 1)
    x, w = rng.standard_normal((2, 19, 6)), rng.standard_normal((9, 4, 6 // groups))
    if dtype == "c16":
        x, w = x + 1j * rng.standard_normal(x.shape), w - 1j * rng.standard_normal(w.shape)
    x, w = x.astype(dtype), w.astype(dtype)
    general = dict(named)
    pads = ([general.pop("padding_lo", 0)], [general.pop("padding_hi", 0)])
    q = Parameters(
        "conv_general",
        general.pop("stride", 1),
        pads,
        general.pop("kernel_dilation", 1),
        general.pop("input_dilation", 1),
        groups,
        general.pop("flip", False),
    )
    p = problem_of(q, x.shape, x.dtype, w.shape, w.dtype)
    y, magnitude = helpers.reference(x, w, **named), helpers.reference(abs(x), abs(w), **named)
    for index in itertools.product(*map(range, p.output_shape)):
        exact, size = sampling.exact_output(p, x, w, index)
        assert np.isclose(complex(exact), complex(y[index]), rtol=1e-12, atol=1e-12)
        assert np.isclose(float(size), float(magnitude[index]), rtol=1e-6)


def test_an_error_is_found_and_has_its_unit():
    x, w = np.ones((1, 20, 2), "f4"), np.ones((3, 4, 2), "f4")
    p = mlxconv.explain(x, w).problem
    y = mlxconv.conv1d(x, w)
    assert sampling.largest_error(p, x, w, y) == 0
    y[0, 5, 1] += 8 * 2**-24 * 100  # the sum of magnitudes is 8
    assert sampling.largest_error(p, x, w, y) == pytest.approx(100, rel=0.05)
    y[0, 5, 1] = np.nan
    assert sampling.largest_error(p, x, w, y) == np.inf
    large = np.ones((1, 2000, 2), "f4")  # of which not all outputs are checked
    p, y = mlxconv.explain(large, w).problem, mlxconv.conv1d(large, w)
    assert sampling.largest_error(p, large, w, y) == 0
    y[0, -1, -1] = 9
    assert sampling.largest_error(p, large, w, y) > 1000


# --- turns ---------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only calls move; calls(seconds) makes one."""
    now, log = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call(name, *seconds):
        takes = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def run():
            log.append(name)
            now[0] += next(takes)

        return run

    call.log = log
    return call


def test_a_burst_is_the_best_of_its_chunks(clock):
    spans = [0.004, 0.001, 0.03, 0.002, 0.003]
    assert timing.burst(clock("a", *spans), 0.01) == pytest.approx(0.001)
    assert clock.log.count("a") == 4  # as many as must be, the time being over


def test_short_calls_are_timed_in_chunks(clock):
    assert timing.burst(clock("a", 1e-3, 1e-3, 1e-5), 0.01) == pytest.approx(1e-5)
    assert 600 < clock.log.count("a") < 1010  # most of them ten at a time


def test_a_long_call_is_its_own_burst(clock):
    assert timing.burst(clock("a", 2.0, 1.0)) == 2.0
    assert clock.log == ["a"]


def test_contenders_take_turns_and_rotate(clock):
    found = timing.in_turns({"a": clock("a", 1.0), "b": clock("b", 2.0, 3.0)}, rounds=3)
    assert clock.log == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 1, 1], "b": [2, 3, 3]}
    assert timing.best(found) == {"a": 1, "b": 2}


def test_rounds_fill_the_time_but_never_fewer_than_three(clock):
    assert len(timing.in_turns({"a": clock("a", 1.0)}, seconds=0.1)["a"]) == 3
    assert len(timing.in_turns({"a": clock("a", 1.0)}, seconds=9.5)["a"]) == 10


# --- tables --------------------------------------------------------------------------------------


def test_tables():
    table = Table(("name", "us", "note"), text_columns=(0, 2))
    table.add("a", "1,234", "x")
    table.add("long", "5", "", style="red")
    assert table.plain() == "name     us  note\na     1,234  x\nlong      5"
    assert table.markdown().splitlines() == [
        "| name | us | note |",
        "| --- | --: | --- |",
        "| a | 1,234 | x |",
        "| long | 5 |  |",
    ]
    assert table.rich().row_count == 2


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_transposed_convolution_has_no_dilated_input_or_flip():
    for wrong in ({"input_dilation": 2}, {"flip": True}):
        with pytest.raises(ValueError, match="neither input_dilation nor flip"):
            mlxconv.explain((1, 9, 4), (6, 3, 4), transposed=True, **wrong)
