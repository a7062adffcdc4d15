"""The package: light to import, its road one way, its names and versions in one place."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlxconv
from mlxconv import weight_gradient

PACKAGE = Path(mlxconv.__file__).parent


def python(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_import_is_light():
    """NumPy and the standard library; Numba comes with the first call."""
    code = (
        "import sys, numpy; before = set(sys.modules); import mlxconv;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "assert new == {'mlxconv'}, new; assert 'numba' not in sys.modules"
    )
    assert python(code).stderr == ""


def test_import_has_no_side_effects():
    code = (
        "import os, threading; before = dict(os.environ); import mlxconv;"
        "assert dict(os.environ) == before and threading.active_count() == 1"
    )
    assert python(code).stderr == ""


def test_all_names_are_there():
    assert sorted(mlxconv.__all__) == mlxconv.__all__
    for name in mlxconv.__all__:
        assert getattr(mlxconv, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'conv9d'"):
        mlxconv.conv9d


def test_version():
    assert importlib.metadata.version("mlxconv") == mlxconv.__version__
    assert (PACKAGE / "py.typed").exists()


# The road of data; a module may import those after it, and the side roads below from anywhere.
ROAD = (
    *("bench", "racing", "explanation", "query", "roofline"),  # what looks at the road
    "patching",
    *("derivatives", "gradients", "prepared", "convolving", "transposed", "api", "tracing"),
    *("weight_gradient", "input_gradient", "problem", "parameters", "dispatch", "phases", "fft"),
    *("plan", "lowering", "threads", "kernels", "simd"),
)
SIDE = (
    *("arrays", "stream", "processor", "cache", "timing", "tables"),
    *("workspace", "recycling", "notice", "interrupts", "forks", "pool", "waking"),
)


def imports_of(source):
    """The modules of the package that `source` imports when it runs, not for types only."""
    tree = ast.parse(source.read_text())
    for_types = {
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and getattr(test.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_types and node.module:
            names = [node.module]
            if node.module == "mlxconv":
                names = [f"mlxconv.{alias.name}" for alias in node.names]
            yield from (name.split(".")[1] for name in names if name.startswith("mlxconv."))


@pytest.mark.parametrize("place", range(len(ROAD)))
def test_imports_go_down_the_road(place):
    stop = ROAD[place]
    sources = [PACKAGE / f"{stop}.py"] if (PACKAGE / f"{stop}.py").exists() else []
    sources += sorted((PACKAGE / stop).glob("*.py"))
    assert sources
    allowed = {stop, *ROAD[place + 1 :], *SIDE}
    if stop in ("explanation", "dispatch", "phases", "fft", "plan"):
        allowed.add("problem")  # the data that travels the road
    if stop in ("bench", "racing", "query"):
        allowed.add("sampling")
    for source in sources:
        assert set(imports_of(source)) <= allowed, source


@pytest.mark.parametrize("side", SIDE)
def test_side_roads_lead_nowhere(side):
    assert set(imports_of(PACKAGE / f"{side}.py")) <= set(SIDE)


def test_every_promise_names_the_tests_that_hold_it():
    root = Path(__file__).parents[1]
    readme = (root / "README.md").read_text()
    promises = readme.partition("## What is promised")[2].partition("\n## ")[0].split("\n- ")[1:]
    assert len(promises) > 9
    for promise in promises:
        named = re.findall(r"`(tests/[a-z_/]+\.py)`", promise)
        assert named and all((root / name).exists() for name in named), promise


def test_every_kernel_file_of_a_variant_is_a_row():
    variants = {
        source.stem
        for source in (*(PACKAGE / "kernels").glob("*.py"), PACKAGE / "fft.py")
        if "\ndef refuses(" in source.read_text()
    }
    assert variants == {*mlxconv.variants(), *weight_gradient.KERNELS}
