"""benchmarks/: random problems, regret, cliffs, and what asv follows.  Nothing judges speed."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import mlxconv
from benchmarks import cliffs, families, frozen, pages, regret, tracked, unseen
from benchmarks.families import FAMILIES, problems
from benchmarks.shapes import CONV1D
from mlxconv import roofline
from mlxconv.bench.shapes import Shape
from mlxconv.racing import Entry, Race
from tests.test_roofline import MACHINE

ROOT = Path(__file__).parents[1]


# --- random problems -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_problems_are_convolutions_of_bounded_size(name):
    drawn = problems(5, 60, [name])
    assert len(set(drawn.values())) > 50
    for shape in drawn.values():
        assert 1e5 <= shape.problem().flop <= (2e10 if name == "wide" else 4e9)
        assert shape.bytes_moved() <= 200 << 20


def test_a_seed_names_its_problems_for_ever():
    assert problems(1, 22) == problems(1, 22) != problems(2, 22)
    alone, among = problems(3, 4, ["fir"]), problems(3, 4 * len(FAMILIES))
    assert all(among[name] == shape for name, shape in alone.items())
    assert [families.family_of(name) for name in problems(1, len(FAMILIES))] == list(FAMILIES)


def test_families_are_what_their_names_say():
    def all_of(name, holds):
        assert all(holds(s) for s in problems(9, 40, [name]).values()), name

    all_of("dense", lambda s: s.groups == s.stride == s.dilation == 1 < s.K)
    all_of("pointwise", lambda s: s.K == 1)
    all_of("strided", lambda s: s.stride > 1)
    all_of("dilated", lambda s: s.dilation > 1)
    all_of("grouped", lambda s: s.groups > 1 and s.C_in // s.groups > 1)
    all_of("depthwise", lambda s: s.groups == s.C_in and s.C_out % s.C_in == 0)
    all_of("few_in", lambda s: s.C_in <= 4)
    all_of("few_out", lambda s: s.C_out <= 4)
    all_of("short", lambda s: s.problem().output_L[0] <= 8)
    all_of("many_small", lambda s: s.N >= 16 and s.L <= 200)
    all_of("wide", lambda s: s.groups == 1 and s.C_in >= 512 and s.C_out >= 256)
    all_of("fir", lambda s: s.C_in == s.C_out == 1)


def test_an_unknown_family():
    with pytest.raises(SystemExit, match="no family is called round"):
        unseen.main(["--seed", "1", "--families", "round"])


def test_unseen(capsys, tmp_path, monkeypatch):
    drawn = {
        "fir_0": Shape(1, 50, 1, 1, 3),
        "fir_1": Shape(1, 40, 1, 1, 3),
        "short_0": CONV1D["tiny"],
    }
    monkeypatch.setattr(unseen, "problems", lambda *_: drawn)
    out = tmp_path / "u.json"
    line = f"--seed 4 --count 3 --against none --threads 1 --seconds 0.01 --json {out}"
    unseen.main(line.split())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 4, 3 problems; ")
    starts = [line.split()[:2] for line in lines]
    assert ["fir", "2"] in starts and ["short", "1"] in starts and ["all", "3"] in starts
    assert set(json.loads(out.read_text())["results"]) == set(drawn)


# --- regret --------------------------------------------------------------------------------------


def race_of(regret):
    """A race whose picked variant takes 1 + regret times as long as the fastest."""
    entries = [Entry("picked", 1e-3 * (1 + regret), True, 0.5), Entry("other", 1e-3, True, 0.5)]
    entries.sort(key=lambda entry: entry.seconds)
    problem = CONV1D["tiny"].problem()
    return Race(problem, 1, "picked", tuple(entries), roofline.Bound(1.0, "arithmetic"))


def test_the_report_of_regrets():
    races = {"a": race_of(0.0), "b": race_of(0.3), "c": race_of(0.03)}
    text = regret.report(races)
    assert "mean 11.0 %, median 3.0 %, largest 30.0 %; above 5 % on 1 of 3" in text
    assert text.splitlines()[2].split()[:6] == ["b", "30", "picked", "1,300", "other", "1,000"]
    assert "problem" not in regret.report({"a": race_of(0.0)})


def test_a_notable_regret_is_raced_again(monkeypatch):
    seen, outcomes = [], [race_of(0.3), race_of(0.01)]

    def race(*shapes, seconds, **named):
        seen.append(seconds)
        return outcomes[len(seen) - 1]

    monkeypatch.setattr(mlxconv, "race", race)
    assert regret.raced(CONV1D["tiny"], 1.0, 1, "float32") is outcomes[1] and seen == [1.0, 3.0]
    outcomes[0], seen[:] = race_of(0.01), []
    assert regret.raced(CONV1D["tiny"], 1.0, 1, "float32") is outcomes[0] and seen == [1.0]


def test_regret(capsys, monkeypatch):
    monkeypatch.setattr(roofline, "machine", lambda: MACHINE)
    monkeypatch.setattr(regret, "problems", lambda *_: {"short_0": CONV1D["tiny"]})
    monkeypatch.setattr(regret, "named", lambda: {"tiny": CONV1D["tiny"]})
    for which in (["--seed", "1", "--count", "1"], ["--named"]):
        regret.main([*which, "--seconds", "0.01", "--threads", "1"])
        assert "regret: mean" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        regret.main(["--named", "--seed", "1"])


# --- cliffs --------------------------------------------------------------------------------------


def points(*costs):
    """A sweep over N whose points cost so many seconds."""
    return [
        cliffs.Point(cliffs.BASE._replace(N=n), n, seconds, "direct")
        for n, seconds in enumerate(costs, 1)
    ]


def test_jumps():
    assert cliffs.jumps(points(1, 2, 3, 4)) == {}
    assert cliffs.jumps(points(1, 1.1, 1.2, 1.3)) == {}  # cheaper per FLOP
    assert list(cliffs.jumps(points(1, 4, 6, 8))) == [1]
    found = cliffs.jumps(points(1, 2, 9, 4))
    assert found == {2: "2.2 times the time of 4"}


def test_sweeps_are_convolutions_in_order():
    for name, shapes in cliffs.SWEEPS.items():
        sizes = [cliffs.value(name, shape) for shape in shapes]
        assert sizes == sorted(set(sizes))
        assert all(shape.problem().flop > 0 for shape in shapes)
    assert {7, 8, 9, 15, 16, 17, 31, 32, 33, 511, 512} <= set(cliffs.edges(512))


def test_a_jump_must_be_seen_twice(monkeypatch):
    runs = [points(1, 4, 3, 4), points(1, 2, 3)]
    monkeypatch.setattr(cliffs, "measured", lambda *_: runs.pop(0))
    found, steep = cliffs.cliffs("N", [p.shape for p in runs[0]], 1, 1.0)
    assert [p.seconds for p in found] == [1, 2, 3, 4] and not steep


def test_cliffs(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(cliffs.SWEEPS, "K", [Shape(1, 20, 4, 4, n) for n in (1, 2, 3)])
    cliffs.main(["K", "--seconds", "0.01", "--plot", str(tmp_path / "c.png")])
    assert "cliffs among 3 sizes" in capsys.readouterr().out
    assert (tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="no sweep is called Q"):
        cliffs.main(["Q"])


# --- asv -----------------------------------------------------------------------------------------


def test_the_frozen_kernel_is_right():
    for shape in (Shape(2, 20, 4, 6, 3, 2, 1, 2, 2), CONV1D["tiny"]):
        x, w = shape.data("float64")
        y = frozen.conv1d(x, np.ascontiguousarray(w.transpose(1, 2, 0)), *shape.parameters.values())
        assert np.allclose(y, mlxconv.conv1d(x, w, **shape.parameters), rtol=1e-12, atol=1e-12)


def test_figures_that_are_no_times(monkeypatch):
    scratch = tracked.Scratch()
    scratch.setup("tiny", 1)
    assert 0 < scratch.track_scratch_bytes("tiny", 1) < 1 << 20
    monkeypatch.setattr(tracked, "SECONDS", 0.01)
    relative = tracked.Relative()
    relative.setup("tiny", 1)
    for name in ("gflops", "fraction_of_peak", "ratio_to_reference"):
        assert getattr(relative, f"track_{name}")("tiny", 1) > 0
    halves = tracked.Halves()
    for name in halves.params[1]:
        halves.setup("tiny", name)
        assert halves.track_ratio_to_float32("tiny", name) > 0


@pytest.fixture
def asv(tmp_path):
    """A function that runs asv on this tree with the Python at hand, leaving nothing in it."""
    pytest.importorskip("asv", reason="asv is not installed")
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    settings = json.loads((ROOT / "asv.conf.json").read_text())
    settings |= {"repo": str(ROOT), "benchmark_dir": str(ROOT / "benchmarks")}
    settings |= {f"{name}_dir": str(tmp_path / name) for name in ("env", "results", "html")}
    (tmp_path / "asv.conf.json").write_text(json.dumps(settings))
    env = {**os.environ, "HOME": str(tmp_path), "ASV_PYTHONPATH": str(ROOT)}

    def run(*arguments):
        program = [sys.executable, "-m", "asv", "--config", str(tmp_path / "asv.conf.json")]
        done = subprocess.run(
            [*program, *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("machine", "--yes")
    return run


def test_asv_finds_and_runs_the_benchmarks(asv):
    here = f"existing:{sys.executable}"
    assert "No problems found" in asv("check", "-E", here)
    shown = asv("run", "-E", here, "--quick", "--dry-run", "--bench", "track_import_ms")
    assert "track_import_ms" in shown and "failed" not in shown


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def shown(html, page, profile):
    """The document a browser without a network makes of a page, its scripts run."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=30000"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        )
        url = f"http://127.0.0.1:{server.server_port}/index.html#{page}"
        program = [browser, *options, "--dump-dom", url]
        try:
            done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True)
        finally:
            server.shutdown()
    return done.stdout


def test_the_history_is_drawn_in_a_browser_without_a_network(asv, tmp_path):
    shutil.copytree(ROOT / "benchmarks" / "history", tmp_path / "results", dirs_exist_ok=True)
    asv("publish")
    assert "error" in shown(tmp_path / "html", "tracked.Conv1d.time_conv1d", tmp_path / "before")
    try:
        pages.main([str(tmp_path / "html")])
    except SystemExit as error:
        pytest.skip(str(error))  # no network
    document = shown(tmp_path / "html", "tracked.Conv1d.time_conv1d", tmp_path / "after")
    assert '<canvas class="flot-base"' in document
    assert "shape-whisper_conv1" in document
    graphs = list((tmp_path / "html" / "graphs").rglob("tracked.Conv1d.time_conv1d.json"))
    points = [point for graph in graphs for point in json.loads(graph.read_text())]
    assert len({commit for commit, _ in points}) >= 5  # commits of the project itself


def test_a_page_that_asks_for_something_else():
    page = '<script src="https://a.b/md5.min.js" integrity="x" crossorigin="anonymous"></script>'
    assert pages.point_at_them(page) == '<script src="vendor/md5.min.js"></script>'
    with pytest.raises(SystemExit, match=r"loads new\.js"):
        pages.point_at_them('<script src="https://a.b/new.js"></script>')
