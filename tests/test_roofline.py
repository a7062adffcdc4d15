"""The machine's figures: measured, kept, never trusted; and what they say of a convolution."""

import json
import math

import numpy as np
import pytest

import mlxconv
from mlxconv import processor, roofline, threads, timing
from mlxconv.roofline import Machine, Rates

MACHINE = Machine(
    processor="a test",
    threads=4,
    float32_gflops=Rates(100.0, 300.0),
    float64_gflops=Rates(50.0, 150.0),
    L2_copy_gbs=Rates(80.0, 320.0),
    L3_copy_gbs=Rates(40.0, 100.0),
    memory_copy_gbs=Rates(10.0, 20.0),
)


@pytest.fixture
def unknown(tmp_path, monkeypatch):
    """A machine that was never measured, with a place for its figures."""
    folder = tmp_path / "cache" / "kernels"
    monkeypatch.setattr(roofline, "_found", {})
    monkeypatch.setattr(roofline.cache, "folder", lambda: folder)
    return folder.parent


@pytest.fixture
def counted(unknown, monkeypatch):
    """The number of measurements so far; each gives MACHINE."""
    measurements = []

    def measure(workers):
        measurements.append(workers)
        return MACHINE

    monkeypatch.setattr(roofline, "_measure", measure)
    return measurements


def forget():
    """As a new process would know nothing."""
    roofline._found.clear()


def test_it_is_measured_once(counted, unknown):
    assert roofline.measured() is None and not counted
    assert mlxconv.machine() is MACHINE and mlxconv.machine() is MACHINE
    assert len(counted) == 1
    forget()
    assert roofline.measured() == MACHINE and mlxconv.machine() == MACHINE
    assert len(counted) == 1
    mlxconv.machine(refresh=True)
    assert len(counted) == 2
    assert len(list(unknown.glob("machine-*.json"))) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:40],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace("a test", "a test", 1).replace('"key"', '"other"'),
        lambda text: text.replace("float32_gflops", "float99_gflops"),
        lambda text: text.replace("300.0", "-1"),
        lambda text: text.replace("300.0", "NaN"),
        lambda text: text.replace("300.0", "0"),
        lambda text: json.dumps({**json.loads(text), "key": "another machine"}),
    ],
)
def test_spoilt_figures_are_measured_anew(counted, unknown, spoil):
    mlxconv.machine()
    (path,) = unknown.glob("machine-*.json")
    path.write_text(spoil(path.read_text()))
    forget()
    assert roofline.measured() is None
    assert mlxconv.machine() == MACHINE and len(counted) == 2


@pytest.mark.parametrize("place", [None, "a file"])
def test_where_nothing_can_be_kept_it_is_measured_in_each_process(
    counted, unknown, monkeypatch, place
):
    if place is None:
        monkeypatch.setattr(roofline.cache, "folder", lambda: None)
    else:
        unknown.write_text("a file where the folder should be")
    assert mlxconv.machine() == MACHINE
    forget()
    assert mlxconv.machine() == MACHINE and len(counted) == 2


def test_figures_are_kept_per_number_of_threads(counted, monkeypatch):
    mlxconv.machine()
    monkeypatch.setattr(roofline.threads, "default_threads", lambda: 77)
    assert roofline.measured() is None


def test_a_real_measurement(unknown, monkeypatch):
    monkeypatch.setattr(roofline, "LARGEST_BYTES", 8 << 20)
    monkeypatch.setattr(timing, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(timing, "BURST_SECONDS", 0.0)
    figures = mlxconv.machine()
    assert figures.processor == processor.name()
    rates = [value for value in vars(figures).values() if isinstance(value, Rates)]
    assert len(rates) == 5
    assert all(0 < rate < math.inf for pair in rates for rate in pair)
    text = str(figures)
    assert text.count("\n") == 5 and text.count("GFLOP/s") == 2 and text.count("GB/s") == 3


def test_the_fma_call_says_what_it_computes(monkeypatch):
    monkeypatch.setattr(threads, "layer", lambda: "serial")
    call, flop = roofline.fma_call("float64", 1)
    call()
    lanes = processor.vector_bytes() // 8
    assert flop == 64 * 20_000 * 12 * lanes * 2


@pytest.mark.parametrize(
    "dtype, workers, peak",
    [
        ("float32", 1, 100),
        ("float32", 2, 200),
        ("float32", 3, 300),
        ("float32", 4, 300),
        ("float32", 9, 300),
        ("float64", 1, 50),
        ("complex128", 4, 150),
        ("complex64", 4, 300),
        ("float16", 4, 300),
        ("bfloat16", 4, 300),
    ],
)
def test_the_peak_of_so_many_threads(dtype, workers, peak):
    assert MACHINE.peak_gflops(dtype, workers) == peak


@pytest.fixture
def known_caches(monkeypatch):
    monkeypatch.setattr(processor, "caches", lambda: processor.Caches(1 << 15, 1 << 20, 1 << 25))


@pytest.mark.parametrize(
    "flop, size, workers, us, binds",
    [
        (10**9, 10**6, 4, 1e9 / 300e3, "arithmetic"),
        (10**9, 10**6, 1, 1e9 / 100e3, "arithmetic"),
        (10**3, 10**6, 1, 1e6 / 80e3, "L2"),
        (10**3, 4 * 10**6, 4, 4e6 / 320e3, "L2"),  # each core has an L2
        (10**3, 4 * 10**6, 1, 4e6 / 40e3, "L3"),
        (10**3, 10**9, 2, 1e9 / 20e3, "memory"),
    ],
)
def test_the_bound(known_caches, flop, size, workers, us, binds):
    bound = MACHINE.bound(flop, size, "float32", workers)
    assert (bound.us, bound.binds) == (pytest.approx(us), binds)


def test_a_peak_of_the_same_run_takes_the_place_of_the_kept_one(known_caches):
    assert MACHINE.bound(10**9, 1, "float32", 4, peak_gflops=200.0).us == pytest.approx(5000)


# --- explain -------------------------------------------------------------------------------------

QUESTION = ((1, 3000, 80), (512, 3, 80))


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(roofline, "measured", lambda: MACHINE)
    monkeypatch.setattr(roofline, "machine", lambda: MACHINE)


def test_explain_measures_nothing_unasked(counted, unknown):
    found = mlxconv.explain(*QUESTION)
    assert found.bound is None and found.measured_us is None and found.percent_of_bound is None
    assert not counted and "bound" not in str(found) and "FLOP per byte" in str(found)


def test_explain_shows_the_bound(known, known_caches):
    found = mlxconv.explain(*QUESTION, padding=1, stream=mlxconv.Stream(1))
    flop = 2 * 3000 * 512 * 3 * 80
    size = 4 * (3000 * 80 + 512 * 3 * 80 + 3000 * 512)
    assert (found.flop, found.bytes_moved) == (flop, size)
    assert found.intensity == flop / size
    assert found.bound.us == pytest.approx(flop / 100e3) and found.bound.binds == "arithmetic"
    assert found.measured_us is None and "7,373 us, by arithmetic" in str(found)


@pytest.mark.parametrize(
    "dtype, flop, size",
    [
        ("float16", 2, 2),
        ("complex64", 8, 8),
        (("float32", "complex64"), 4, None),
        (("float32", "float64"), 2, None),
    ],
)
def test_real_operations_and_bytes_of_every_type(dtype, flop, size):
    found = mlxconv.explain((2, 10, 3), (5, 4, 3), dtype=dtype)
    products = 2 * 7 * 5 * 4 * 3
    assert found.flop == flop * products
    elements = 2 * 10 * 3, 5 * 4 * 3, 2 * 7 * 5
    kinds = dtype if isinstance(dtype, tuple) else (dtype, dtype)
    sizes = [np.dtype(kind).itemsize for kind in (*kinds, found.problem.dtype)]
    assert found.bytes_moved == sum(a * b for a, b in zip(elements, sizes, strict=True))
    assert size is None or found.bytes_moved == sum(elements) * size


@pytest.mark.parametrize("arrays", [True, False])
def test_explain_measures_when_asked(known, monkeypatch, arrays):
    monkeypatch.setattr("mlxconv.explanation.MEASURE_SECONDS", 0.01)
    question = (
        [np.ones(s, "f4") for s in ((1, 60, 8), (8, 3, 8))]
        if arrays
        else (
            (1, 60, 8),
            (8, 3, 8),
        )
    )
    found = mlxconv.explain(*question, measure=True)
    assert found.measured_us > 0
    assert found.percent_of_bound == pytest.approx(100 * found.bound.us / found.measured_us)
    assert "measured" in str(found) and "% of the bound" in str(found)


# --- info ----------------------------------------------------------------------------------------


def test_info_shows_figures_that_are_known(counted, unknown, monkeypatch, capsys):
    from mlxconv.cli import main

    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert main(["info"]) == 0
    assert "GFLOP/s" not in capsys.readouterr().out and not counted
    mlxconv.machine()
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "float32 300, float64 150 GFLOP/s" in text and "memory 20 GB/s" in text
    assert main(["info", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["machine"]
    assert shown["float32_gflops"] == [100.0, 300.0] and len(counted) == 1
