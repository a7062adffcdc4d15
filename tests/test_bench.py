"""`mlxconv bench`: engines in processes, contests that survive any of them, honest reports."""

import json
import math
import os
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

import mlxconv
from mlxconv.bench import contest, engines, gradients, report, shapes, workers
from mlxconv.bench.contest import Contest, Result
from mlxconv.bench.engines import OURS, PEERS, Contender, Engine, Task
from mlxconv.bench.shapes import Shape
from mlxconv.bench.workers import Desk, Worker, WorkerLost
from mlxconv.cli import main
from mlxconv.cli.bench import chosen_shapes
from tests.test_roofline import MACHINE

SMALL = Shape(2, 20, 4, 6, 3, stride=2, padding=1, dilation=2, groups=2)
OTHERS = (
    Shape(2, (7, 8), 4, 6, (3, 2), stride=2, padding=(1, 0), groups=2),
    Shape(1, (5, 6, 7), 4, 6, (3, 2, 1), padding=1),
    Shape(2, 9, 4, 6, 4, stride=2, padding=1, transposed=True),
    Shape(1, (4, 5), 4, 6, (4, 3), stride=(2, 1), padding=1, dilation=2, transposed=True),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys, line):
    """The one line of an error, after checking that it is one, and exit code 2."""
    try:
        code = main(["bench", *line.split()])
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == "" and shown.err.count("\n") == 1
    return shown.err


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", gradients.KINDS)
@pytest.mark.parametrize("shape", (SMALL, *OTHERS))
def test_gradients_are_right_and_errors_are_seen(shape, kind):
    task = Task(shape, *shape.data("float64"), 1, kind)
    (ours,) = gradients.ours(task).values()
    found = ours.as_nlc(ours.call())
    assert found.shape == gradients.result_shape(shape, kind)
    assert gradients.largest_error(shape, "float64", kind, found) < 100
    wrong = found.copy()
    wrong.flat[-1] += 1e-6
    assert gradients.largest_error(shape, "float64", kind, wrong) > 1e4
    if engines.installed("torch"):
        for layout, theirs in gradients.torch(task).items():
            assert np.allclose(theirs.as_nlc(theirs.call()), found, rtol=1e-9), layout


def test_gradients_from_the_command_line(capsys, folder):
    (folder / "s.json").write_text(json.dumps({"small": list(SMALL)}))
    line = "--gradient weight --shapes s.json --seconds 0.01 --quiet --json r.json --against none"
    assert main(["bench", *line.split()]) == 0
    assert "float32, gradient by weight" in capsys.readouterr().out
    record = json.loads((folder / "r.json").read_text())
    assert record["gradient by"] == "weight" and record["results"]["small"]["error"] < 100
    assert "no peer with gradients is called jax" in failure(
        capsys, "--gradient input --against jax"
    )


# --- shapes --------------------------------------------------------------------------------------


def test_named_shapes_pose_problems():
    assert len(shapes.named()) > 20
    for shape in shapes.named().values():
        (x, w), p = shape.arrays, shape.problem()
        assert (p.input_shape, p.weight_shape, p.flip) == (x, w, shape.transposed)
        if not shape.transposed:
            told = mlxconv.explain(x, w, **shape.parameters)
            assert (p.flop, shape.bytes_moved()) == (told.problem.flop, told.bytes_moved)


def test_data_is_the_same_in_every_process_and_makes_outputs_of_size_one():
    (x, w), (again, _) = SMALL.data("float64"), SMALL.data("float64")
    assert np.array_equal(x, again) and (x.shape, w.shape) == SMALL.arrays
    y = mlxconv.conv1d(*Shape(1, 500, 64, 64, 9).data())
    assert 0.9 < y.std() < 1.1


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "Expecting"),
        ("[]", "expected names"),
        ("{}", "expected names"),
        ('{"a": [1, 2]}', "shape a"),
        ('{"a": [1, 20, 4, 6, 3, 1, 0, 1, 3]}', "divisible"),
        ('{"a": [1, 2.5, 4, 6, 1]}', "must be an int"),
        ('{"a": {"N": 1, "width": 3}}', "unexpected keyword"),
        ('{"a": [1, 2, 4, 6, 3]}', "cannot be smaller"),
        ('{"a": [0, 20, 4, 6, 3]}', "no output"),
        ('{"a": [1, 20, 4, 6, 3, 1, 0, 1, 0]}', "shape a"),
        ('{"conv2d": {"a": [1, 20, 4, 6, 3]}}', "it is a conv1d"),
        ('{"a": [1, [20], 4, 6, [3, 3]]}', "shape a"),
        ('{"conv_transpose1d": {"a": [1, 20, 4, 6, 3, 1, 0, 1, 2]}}', "grouped"),
    ],
)
def test_bad_shape_files(capsys, folder, content, message):
    (folder / "s.json").write_text(content)
    assert message in failure(capsys, "--shapes s.json")


def test_shape_files(folder):
    rows = {"a": list(SMALL), "b": {"N": 1, "L": 9, "C_in": 2, "C_out": 3, "K": 3}}
    expected = {"a": SMALL, "b": Shape(1, 9, 2, 3, 3)}
    for content in (rows, {"columns": [], "conv1d": rows}):
        (folder / "s.json").write_text(json.dumps(content))
        assert shapes.read(folder / "s.json") == expected


def test_shape_files_of_every_rank(folder):
    tables = {}
    for i, shape in enumerate((SMALL, *OTHERS)):
        tables.setdefault(shape.function, {})[f"s{i}"] = list(shape)
    (folder / "s.json").write_text(json.dumps(tables))
    assert set(shapes.read(folder / "s.json").values()) == {SMALL, *OTHERS}


def test_shapes_are_chosen_by_name_pattern_or_function():
    def chosen(only):
        return set(chosen_shapes(None, only))

    functions = {name: shape.function for name, shape in shapes.named().items()}
    assert chosen(None) == {name for name in functions if functions[name] == "conv1d"}
    assert chosen("conv_transpose*") == {n for n in functions if "transpose" in functions[n]}
    assert chosen("unet_*,tiny") == {n for n in functions if n.startswith("unet_")} | {"tiny"}


# --- engines and workers -------------------------------------------------------------------------


@pytest.fixture
def worker():
    """A function that starts workers, and ends them after the test."""
    started = []

    def start(engine, threads=1):
        started.append(Worker(engine, threads))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize("name", [OURS, *PEERS])
def test_engines_compute_the_same(name, worker):
    if not engines.installed(name):
        pytest.skip(f"{name} is not installed")
    process = worker(name)
    ungrouped = [s._replace(groups=1) for s in OTHERS]  # MLX has no groups in 2-D
    for shape in (
        SMALL,
        SMALL._replace(C_in=2, groups=1),
        *(ungrouped if name == "mlx" else OTHERS),
    ):
        expected = shape.call(*shape.data())()
        found = process.ask("prepare", shape, "float32")
        assert found
        for layout, y in found.items():
            assert not isinstance(y, str), (layout, y)
            assert y.shape == expected.shape and np.abs(y - expected).max() < 1e-4, layout
        assert all(seconds > 0 for seconds in process.ask("burst", list(found)).values())


def test_a_lost_worker_is_replaced(worker):
    process = worker(OURS)
    process.ask("prepare", SMALL, "float32")
    process._process.kill()
    process._process.join()
    with pytest.raises(WorkerLost, match="ended"):
        process.ask("burst", ["nlc"])
    assert set(process.ask("prepare", SMALL, "float32")) == {"nlc"}
    with pytest.raises(RuntimeError, match="KeyError"):
        process.ask("burst", ["none"])
    with pytest.raises(WorkerLost, match="no answer"):
        process.ask("prepare", Shape(1, 20_000, 256, 256, 9), "float32", patience=0)
    assert process.ask("peak", "float32") > 0


def test_workers_know_their_threads_and_leave_our_environment_alone(worker, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    figures = worker(OURS, threads=1).ask("machine")
    assert figures.threads == 1 and dict(os.environ) == before


def test_a_desk_reports_the_layout_that_fails(monkeypatch):
    def prepare(task):
        def fail():
            raise NotImplementedError("no such\nkernel")

        return {"good": Contender(lambda: task.x, np.asarray), "bad": Contender(fail, np.asarray)}

    monkeypatch.setitem(workers.ENGINES, "torch", Engine(prepare, ()))
    desk = Desk("torch", 1)
    found = desk.answer("prepare", SMALL, "float32")
    assert found["bad"] == "NotImplementedError: no such kernel"
    assert found["good"].shape == SMALL.arrays[0] and list(desk.contenders) == ["good"]


# --- contests ------------------------------------------------------------------------------------


class Pretender:
    """A worker of no process: what it answers is in `behaviour`, by engine."""

    behaviour: ClassVar = {}

    def __init__(self, engine, threads):
        self.engine, self.stopped, self.bursts = engine, False, 0
        self.right = mlxconv.conv1d(*SMALL.data(), **SMALL.parameters)

    def ask(self, what, *details):
        if what == "peak":
            return 100.0
        how = self.behaviour.get(self.engine, {})
        if what == "prepare":
            if "lost" in how:
                raise WorkerLost("its process ended")
            layouts = how.get("layouts", {"only": 1e-3})
            return {layout: how.get("y", self.right) for layout in layouts}
        self.bursts += 1
        if "dies" in how and self.bursts > 1:
            raise WorkerLost("its process ended")
        times = how.get("layouts", {"only": 1e-3})
        return {layout: times[layout] * (1 + 0.5 / self.bursts) for layout in details[0]}

    def stop(self):
        self.stopped = True


@pytest.fixture
def held(monkeypatch):
    """A function that holds a contest of pretenders and returns its Result."""
    monkeypatch.setattr(contest, "Worker", Pretender)

    def hold(rounds=6, **behaviour):
        monkeypatch.setattr(Pretender, "behaviour", behaviour)
        with Contest(tuple(name for name in behaviour if name != OURS), 1) as running:
            result = running.run("small", SMALL, rounds=rounds)
        assert all(each.stopped for each in running._workers.values())
        return result

    return hold


def test_the_best_layout_and_the_best_round_count(held):
    result = held(torch={"layouts": {"a": 2e-3, "b": 0.5e-3}}, jax={"layouts": {"c": 4e-3}})
    factor = 1 + 0.5 / 6
    assert result.engines["torch"] == ("b", pytest.approx(0.5e-3 * factor))
    assert result.ours == pytest.approx(1e-3 * factor) and result.best_peer == "torch"
    assert result.ratio == pytest.approx(0.5)
    flop = 2 * 2 * 9 * 6 * 3 * 2
    assert result.flop == flop and result.gflops() == pytest.approx(flop / result.ours / 1e9)
    assert result.percent_of_peak == pytest.approx(result.gflops())
    assert not result.faults and 0 < result.error <= 7


def test_hopeless_layouts_and_engines_get_no_more_rounds(held):
    result = held(torch={"layouts": {"a": 9e-3, "b": 1e-3}}, jax={"layouts": {"c": 1.0}})
    counts = {at: len(seconds) for at, seconds in result.rounds.items()}
    trial = contest.TRIAL_ROUNDS
    assert counts == {
        (OURS, "only"): 6,
        ("torch", "a"): trial,
        ("torch", "b"): 6,
        ("jax", "c"): trial,
    }


@pytest.mark.parametrize(
    "how, message",
    [
        ({"lost": True}, "its process ended"),
        ({"y": "NotImplementedError: no"}, "NotImplementedError: no"),
        ({"y": np.zeros((2, 9, 6), "f4")}, "wrong: differs from ours by"),
        ({"y": np.full((2, 9, 6), np.nan, "f4")}, "wrong"),
        ({"y": np.zeros((2, 6, 9), "f4")}, "wrong: its output has the shape"),
    ],
)
def test_a_peer_that_fails_is_named_and_not_timed(held, how, message):
    result = held(torch=how, jax={})
    assert set(result.engines) == {OURS, "jax"}
    ((who, why),) = result.faults.items()
    assert who.startswith("torch") and message in why
    assert f"not measured, on small: {who}: {why}" in report.summary([result])


def test_a_peer_that_dies_keeps_what_it_did(held):
    result = held(torch={"dies": True})
    assert len(result.rounds["torch", "only"]) == 1 and "ended" in result.faults["torch"]


def test_a_wrong_result_of_ours_is_a_fault(held):
    result = held(**{OURS: {"y": np.zeros((2, 9, 6), "f4")}}, torch={})
    assert "wrong by" in result.faults[f"{OURS} only"]
    assert math.isnan(result.ours) and math.isnan(result.ratio)
    assert report.table([result], ("torch",)).plain().splitlines()[1].split()[1] == "-"


def test_a_contest_goes_on_until_the_best_rounds_agree():
    result = Result("small", SMALL, "float32")
    result.rounds = {(OURS, "nlc"): [1.0, 2.0], ("jax", "nwc"): [1.0, 1.0]}
    assert not result.settled
    result.rounds[OURS, "nlc"].append(1.04)
    assert result.settled
    result.rounds["torch", "a"] = [3.0]
    assert not result.settled


def test_all_percentages_are_of_one_peak(held, monkeypatch):
    with Contest((), 1) as running:
        first = running.run("a", SMALL, rounds=1)
        monkeypatch.setattr(Pretender, "ask", lambda self, *_: 400.0 if _[0] == "peak" else {})
        second = Result("b", SMALL, "float32", peak_gflops=400.0)
        running._share_peak(second)
    assert first.peak_gflops == second.peak_gflops == 400


# --- reports -------------------------------------------------------------------------------------


def result_of(name, ours, **peers):
    rounds = {(OURS, "nlc"): [ours * 1.5, ours * 1.5, ours]}
    rounds |= {(peer, "ncl"): [seconds] for peer, seconds in peers.items()}
    return Result(name, SMALL, "float32", rounds, peak_gflops=1.0)


RESULTS = [
    result_of("won", 1e-6, torch=4e-6, jax=8e-6),
    result_of("lost", 4e-6, torch=1e-6),
    result_of("alone", 2e-6),
]


def test_the_table_shows_wins_and_losses_alike():
    table = report.table(RESULTS, ("torch", "jax"))
    lines = [line.split() for line in table.plain().splitlines()]
    assert lines[1] == ["won", "1.00", "1.30", "130", "4.00", "8.00", "4.00", "torch", "ncl"]
    assert lines[2] == ["lost", "4.00", "0.324", "32", "1.00", "-", "0.25", "torch", "ncl"]
    assert lines[3][-2:] == ["-", "-"] and table.styles == ["green", "red", ""]


def test_the_summary_names_every_loss():
    text = "\n".join(report.summary(RESULTS))
    assert "geometric mean 1.00 over 2 shapes" in text
    assert "slower than the best peer on 1: lost 0.25" in text
    assert "faster than the best peer on 1: won 4.00" in text
    assert "other programs ran: on 3 shapes" in text


def test_the_geometric_mean():
    assert contest.geometric_mean([4, 1, math.nan]) == pytest.approx(2)
    assert math.isnan(contest.geometric_mean([math.nan]))


SETTING = report.Setting(("torch",), ("mlx",), 2, "float32")


def test_the_readme_table(folder):
    text = report.markdown(RESULTS, SETTING)
    assert "not installed: mlx" in text and "2 threads, float32, 20" in text
    assert "| lost | (2, 20, 4) * (6, 3, 2), stride 2, padding 1, dilation 2, groups 2 |" in text
    page = "before\n<!-- speed table: begin -->\nold\n<!-- speed table: end -->\nafter\n"
    once = report.inserted(page, text)
    assert "old" not in once and once.startswith("before\n") and once.endswith("after\n")
    assert report.inserted(once, text) == once
    with pytest.raises(ValueError, match="speed table: begin"):
        report.inserted("no place", text)


def test_the_picture(folder):
    from mlxconv.bench.picture import roofline

    figure = roofline(RESULTS, MACHINE, 2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"won", "lost", "alone", "FMA peak 1 GFLOP/s", "memory 20 GB/s"} <= set(texts)
    figure.savefig("x.png")


# --- the command ---------------------------------------------------------------------------------


def test_without_peers(capsys, folder):
    page = "# x\n<!-- speed table: begin -->\n<!-- speed table: end -->\n"
    (folder / "R.md").write_text(page)
    line = "--only tiny --against none --threads 1 --seconds 0.01 --json f.json --write-readme R.md"
    assert main(["bench", *line.split(), "--plot", "r.svg"]) == 0
    out = capsys.readouterr().out
    assert "1 thread, float32" in out and "tiny" in out and "Picture" in out
    content = json.loads((folder / "f.json").read_text())
    found = content["results"]["tiny"]
    assert content["threads"] == 1 and found["ratio"] is None and not found["faults"]
    assert min(found["rounds"]["mlxconv nlc"]) == found["best"][OURS]["seconds"] > 0
    assert 0 < found["error"] < 30 and found["peak_gflops"] > 0
    assert "| tiny | (1, 16, 8) * (8, 3, 8), padding 1 |" in (folder / "R.md").read_text()
    assert (folder / "r.svg").read_text().count("tiny") >= 1


def test_peers_that_are_missing_are_named(capsys, monkeypatch, held):
    monkeypatch.setattr(engines, "installed", lambda name: name == "jax")
    monkeypatch.setattr(Pretender, "behaviour", {})
    monkeypatch.setattr(shapes, "named", lambda: {"small": SMALL})
    assert main(["bench", "--seconds", "0.01", "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "not installed: torch, onnxruntime, openvino, mlx" in out and "| small |" in out


def test_what_was_measured_before_ctrl_c_is_shown(capsys, monkeypatch, held):
    run = Contest.run

    def interrupted(self, name, shape, seconds):
        if name == "b":
            raise KeyboardInterrupt
        return run(self, name, shape, rounds=1)

    monkeypatch.setattr(Contest, "run", interrupted)
    monkeypatch.setattr(shapes, "named", lambda: {"a": SMALL, "b": SMALL})
    assert main(["bench", "--against", "none"]) == 130
    assert capsys.readouterr().out.splitlines()[2].startswith("a ")


@pytest.mark.parametrize(
    "line, message",
    [
        ("--only tiny,none", "no shape is called none"),
        ("--against torch,numpy", "no peer is called numpy"),
        ("--shapes nowhere.json", "No such file"),
        ("--write-readme README.md", "No such file"),
        ("--plot x.gif", "must be a"),
        ("--json x.txt", "must be a .json"),
        ("--seconds 0", "no positive number"),
        ("--dtype int8", "invalid choice"),
    ],
)
def test_bad_arguments(capsys, line, message):
    assert message in failure(capsys, line)


def test_a_readme_without_a_place(capsys, folder):
    (folder / "R.md").write_text("nothing")
    assert "speed table: begin" in failure(capsys, "--write-readme R.md")


def test_idle_threads_are_left_to_each_library(monkeypatch, held):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(shapes, "named", lambda: {"small": SMALL})
    main(["bench", "--against", "none", "--seconds", "0.01"])
    assert "OMP_WAIT_POLICY" not in os.environ


def test_an_engine_rests_before_the_next_one_runs():
    """Threads that spin after a call are waited for: they would slow down others."""

    def spin():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    workers.rest()
    assert not thread.is_alive()
