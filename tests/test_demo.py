"""The demo, info, and what loading the command line costs."""

import json
import subprocess
import sys

import numpy as np
import pytest

import mlxconv
from mlxconv.cli import demo, main, photograph
from mlxconv.cli.errors import Failed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(demo, "TRIES", 2)
    monkeypatch.setattr(photograph, "TRIES", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_demo_checks_itself(capsys):
    assert main(["demo", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    for part in ("2284 weeks, 1958-03-29 to 2001-12-29", "gaps     59", "check    passed", "1990s"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100 and text.isascii()


def test_demo_says_when_it_is_wrong(capsys, monkeypatch):
    right = mlxconv.conv1d
    monkeypatch.setattr(demo, "conv1d", lambda *a, **k: right(*a, **k) + np.float32(0.1))
    assert main(["demo"]) == 1
    shown = capsys.readouterr()
    assert "check    FAILED" in shown.out and shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "name, magic", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_demo_draws(folder, capsys, name, magic):
    assert main(["demo", "--plot", name]) == 0
    assert str(folder / name) in capsys.readouterr().out
    picture = (folder / name).read_bytes()
    assert picture.startswith(magic) and len(picture) > 10_000
    assert [f.name for f in folder.iterdir()] == [name]


def test_demo_filters_a_photograph(folder, capsys):
    assert main(["demo", "--photograph", "a.png"]) == 0
    assert "lines at 45 degrees" in capsys.readouterr().out
    picture = (folder / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 100_000


def test_filters_of_the_photograph_answer_to_what_they_are_named_after():
    bank = photograph.filter_bank()
    np.testing.assert_allclose(bank[:3].sum((1, 2)), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(bank[3:].sum((1, 2)), 0, atol=1e-12)
    v, u = np.mgrid[:41, :41] - 20.0
    for i, angle in enumerate(photograph.ANGLES):
        across = u * np.sin(np.deg2rad(angle)) + v * np.cos(np.deg2rad(angle))
        line = np.repeat((np.abs(across) < 1.5)[..., None], 3, axis=2).astype(np.float32)
        found = photograph.filtered(line, mlxconv.Stream(1)).y[20, 20, 3:7]
        assert found.argmax() == i


def test_a_wrong_photograph_is_told(monkeypatch):
    right = photograph.conv2d
    monkeypatch.setattr(photograph, "conv2d", lambda *a, **k: right(*a, **k) + np.float32(0.1))
    with pytest.raises(Failed, match="rounding"):
        photograph.filtered(np.ones((20, 20, 3), np.float32), mlxconv.Stream(1))


@pytest.mark.parametrize("option", ["--plot", "--photograph"])
@pytest.mark.parametrize("name", ["a.bmp", "nowhere/a.png"])
def test_demo_refuses_a_bad_place_before_any_work(capsys, name, option):
    assert main(["demo", option, name]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1


def test_demo_says_what_a_plot_needs(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--plot", "a.png"]) == 2
    assert 'pip install "mlxconv[cli]"' in capsys.readouterr().err


def test_record_and_filters():
    record, bank = demo.load(), demo.filter_bank()
    assert record.measured.size == record.filled.size == record.weeks.size == 2284
    assert str(record.weeks[-1]) == "2001-12-29" and np.isnan(record.measured).sum() == 59
    there = ~np.isnan(record.measured)
    assert np.array_equal(record.filled[there], record.measured[there])
    middle = np.zeros(105)
    middle[52] = 1
    np.testing.assert_allclose(bank[:3].sum(0), middle, atol=1e-15)  # the parts make up the record
    np.testing.assert_allclose(bank.sum(1), [1, 0, 0, 0], atol=1e-14)
    weeks = np.arange(105) - 52
    np.testing.assert_allclose(bank[3] @ (2.5 * weeks / demo.YEAR_WEEKS), 2.5)  # ppm per year
    year = np.cos(2 * np.pi * weeks / demo.YEAR_WEEKS)
    assert abs(bank[0] @ year) < 1e-3 and bank[1] @ year > 0.9


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for part in (mlxconv.__version__, np.__version__, "OMP_WAIT_POLICY=passive", "direct"):
        assert part in text


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["mlxconv"] == mlxconv.__version__ and facts["cores"] >= 1
    assert facts["variants"] == list(mlxconv.variants())


@pytest.mark.parametrize(
    "layer, policy, threads, warned",
    [
        ("omp", "", 2, True),
        ("omp", "ACTIVE", 2, True),
        ("omp", "PASSIVE", 2, False),
        ("omp", "", 1, False),
        ("tbb", "", 2, False),
        ("pool", "", 2, False),
    ],
)
def test_info_warns_of_threads_that_spin(capsys, monkeypatch, layer, policy, threads, warned):
    """Of those in other programs: that these commands wait passively does not help them."""
    from mlxconv import threads as launcher

    monkeypatch.setattr(launcher, "layer", lambda: layer)
    monkeypatch.setattr(launcher, "default_threads", lambda: threads)

    def info(*arguments):
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        if not policy:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        assert main(["info", *arguments]) == 0
        return capsys.readouterr().out

    text = info()
    assert f"{threads} of" in text and f"layer {layer}" in text
    assert f"OMP_WAIT_POLICY={policy or 'unset, which is active'}" in text
    assert ("Start it with OMP_WAIT_POLICY=passive" in text) == warned
    assert len(json.loads(info("--json"))["warnings"]) == warned


def test_info_without_a_cache(capsys, monkeypatch):
    from mlxconv import cache

    for folder in (None, cache.Path("never") / "made"):
        monkeypatch.setattr(cache, "folder", lambda folder=folder: folder)
        assert main(["info"]) == 0
        assert "0 kernels" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["conv1d", "--help"], ["demo", "--help"]])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert f"  mlxconv {arguments[0].replace('--help', 'demo')}" in text


def run(code, **environment):
    import os

    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept | environment
    )


def test_version_loads_nothing_heavy():
    code = "import sys, mlxconv.cli as c\ntry: c.main(['--version'])\nexcept SystemExit: pass\n"
    code += "print({'numba', 'matplotlib', 'rich', 'llvmlite'} & set(sys.modules))"
    assert run(code).stdout == f"mlxconv {mlxconv.__version__}\nset()\n"


@pytest.mark.parametrize(
    "given, found", [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")]
)
def test_idle_threads_sleep_unless_the_user_says_otherwise(given, found):
    code = "import os; from mlxconv.cli import main; main(['info', '--json']); "
    done = run(code + "print(os.environ['OMP_WAIT_POLICY'])", **given)
    facts, _, policy = done.stdout.rpartition("}")
    assert policy.strip() == found
    assert json.loads(facts + "}")["omp_wait_policy"] == given.get("OMP_WAIT_POLICY", "")
    assert run("import mlxconv, os; print(os.environ.get('OMP_WAIT_POLICY'))").stdout == "None\n"


def test_demo_without_rich_and_matplotlib():
    code = "import sys; sys.modules.update(rich=None, matplotlib=None)\n"
    code += "from mlxconv.cli import main; sys.exit(main(['demo']))"
    assert "check    passed" in run(code).stdout


def test_a_closed_pipe_is_no_traceback():
    code = "import sys, subprocess as s; from pathlib import Path\n"
    code += "p = s.Popen([sys.executable, '-m', 'mlxconv', 'info'], stdout=-1, stderr=-1)\n"
    code += "p.stdout.close(); print(p.stderr.read())"
    assert run(code).stdout == "b''\n"
