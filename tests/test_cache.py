"""The cache of compiled kernels: whatever happens to its files, the answer is right.

Each program is a process of its own with a cache folder of its own; it must print the right sum
and nothing else, least of all a traceback.
"""

import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mlxconv
from mlxconv import cache
from mlxconv.kernels import channels_first, direct
from tests.helpers import KERNELS

PROGRAM = """
import sys
import numpy as np
import mlxconv
dtype = sys.argv[1]
x = (np.arange(60) % 7).reshape(1, 20, 3).astype(dtype)
w = (np.arange(18) % 5 - 2).reshape(2, 3, 3).astype(dtype)
print(float(np.abs(mlxconv.conv1d(x, w, padding=1)).sum()))
"""
RIGHT = "332.0"


def run(folder, dtype="float32", program=PROGRAM, package=None, **environment):
    env = {**os.environ, "MLXCONV_CACHE_DIR": str(folder), **environment}
    env = {name: value for name, value in env.items() if value is not None}
    if package:
        env["PYTHONPATH"] = str(package)
    return subprocess.run(
        [sys.executable, "-c", program, dtype],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd="/",
    )


def assert_right(done):
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, RIGHT, "")


def files(folder):
    return sorted(Path(folder).rglob("*.kernel"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A folder with the kernels of PROGRAM in float32."""
    folder = tmp_path_factory.mktemp("warm")
    assert_right(run(folder))
    assert files(folder)
    return folder


@pytest.fixture
def folder(warm, tmp_path):
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in files(folder)}


def test_the_second_process_compiles_nothing(folder):
    before = stamps(folder)
    assert_right(run(folder))
    assert stamps(folder) == before
    loads = "import numba.core.compiler as c\nc.compile_extra = None\n" + PROGRAM
    assert_right(run(folder, program=loads))  # without a compiler


# Prints how many functions Numba compiles in the first call on one thread and on two, and in calls
# of other shapes.
SHAPES = """
import sys
import numpy as np
import mlxconv
from numba.core.event import install_recorder
from mlxconv import threads
variant, workers = sys.argv[1], 1
threads.WORTH_SHARING = dict.fromkeys(threads.WORTH_SHARING, 0)

def compiled(N, L, C, taps, filters, layout=np.ascontiguousarray, groups=None, **named):
    global workers
    workers = 3 - workers  # two and one in turns
    groups = {"depthwise": C, "grouped": C // 2}.get(variant, groups or 1)
    # of grouped another number of filters is another kernel
    filters = {"depthwise": 1, "grouped": 2}.get(variant, filters)
    if variant == "dot":  # one output, many filters
        L = [1 + named.get("kernel_dilation", 1) * (tap - 1) for tap in taps]
        named, filters = {k: v for k, v in named.items() if k != "padding"}, 900
    x = layout(np.ones((N, *L, C), np.float32))
    w = np.ones((groups * filters, *taps, C // groups), np.float32)
    with install_recorder("numba:compile") as recorder:
        y = mlxconv.conv_general(x, w, **named, groups=groups, variant=variant,
                                 stream=mlxconv.Stream(threads=workers))
    assert y.size
    return sum(event.is_start for _, event in recorder.buffer)

few = variant == "depthwise"
print(compiled(1, (40000,), 16, (3,), 32) + compiled(1, (40000,), 16, (3,), 32), sum([
    compiled(3, (301,), 48, (7,), 16, stride=2, padding=3),
    compiled(1, (9000,), 24, (13,) if few else (40,), 48, padding=([3], [0])),
    compiled(2, (900,), 64, (2,), 64, kernel_dilation=9, flip=True),
    compiled(2, (50,), 24, (3,), 16, groups=3),
    compiled(1, (7700,), 10, (4,), 96, layout=np.asfortranarray),
    compiled(1, (20, 30), 8, (3, 5), 32, stride=(2, 1), padding=1),
]))
"""


@pytest.mark.parametrize("variant", KERNELS)
def test_a_second_shape_compiles_nothing(tmp_path, variant):
    """A kernel is compiled for a variant and a type; sizes and parameters are data.  (The other
    tiles of a variant, and short lines, are compiled when they are first met: over groups one for
    each number of taps, at the most, and depthwise two that read lines where they lie.)"""
    done = run(tmp_path, variant, program=SHAPES)
    assert done.returncode == 0, done.stderr
    first, others = map(int, done.stdout.split())
    tiles = {"direct": direct, "channels_first": channels_first}
    others_may = {name: len(kernel.tiles()) - 1 for name, kernel in tiles.items()}
    others_may |= {"grouped": 6, "depthwise": 7}
    assert first > 3 and others <= others_may.get(variant, 0)


def test_files_are_private(tmp_path):
    """Whatever the umask: who can write there can run code as the user."""
    place = tmp_path / "cache"
    assert_right(run(place, program="import os; os.umask(0)\n" + PROGRAM))
    assert files(place)
    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def garble(path):
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 0xFF
    path.write_bytes(blob)


def exchange(paths):
    """Each file gets the content of another; of one with the same signature, where there is one."""
    paths = sorted(paths, key=lambda path: pickle.loads(path.read_bytes()[32:])[0][1])
    blobs = [path.read_bytes() for path in paths]
    for path, blob in zip(paths, blobs[1:] + blobs[:1], strict=True):
        path.write_bytes(blob)


FAULTS = {
    "empty": lambda paths: [path.write_bytes(b"") for path in paths],
    "truncated": lambda paths: [path.write_bytes(path.read_bytes()[:-100]) for path in paths],
    "shorter than a checksum": lambda paths: [path.write_bytes(b"abc") for path in paths],
    "garbled": lambda paths: [garble(path) for path in paths],
    "exchanged": lambda paths: exchange(paths),
    "a folder": lambda paths: [(path.unlink(), path.mkdir()) for path in paths],
    "unreadable": lambda paths: [path.chmod(0) for path in paths],
    "gone": lambda paths: [path.unlink() for path in paths],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(folder, fault):
    """Of every third file, or of all where they take each other's place."""
    FAULTS[fault](files(folder)[:: 1 if fault == "exchanged" else 3])
    assert_right(run(folder))


def test_files_of_another_user(folder):
    if not hasattr(os, "getuid") or os.getuid() != 0:
        pytest.skip("only root can give files away")
    for path in files(folder):
        os.chown(path, 12345, 12345)
    before = stamps(folder)
    assert_right(run(folder))
    assert all(stamps(folder)[name] != stamp for name, stamp in before.items())  # written anew


def test_no_home_and_nowhere_to_write(tmp_path):
    closed = tmp_path / "file"
    closed.write_text("not a folder")
    assert_right(run(closed))
    assert_right(run("", HOME=None, XDG_CACHE_HOME=None))
    assert_right(run("/proc/nowhere"))


def test_a_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        assert_right(run(small))
        assert not [path for path in small.rglob("*") if path.is_file() and path.suffix == ""]
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64")])
def test_two_processes_race(tmp_path, dtypes):
    """Starting from an empty folder, and then from the files they left."""
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            for done in pool.map(lambda dtype: run(tmp_path, dtype), dtypes):
                assert_right(done)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".kernel"]


@pytest.mark.slow
def test_fifty_races(tmp_path):
    for i in range(50):
        test_two_processes_race(tmp_path / str(i), ("float32", ("float32", "float64")[i % 2]))


def test_an_edited_helper(folder, tmp_path):
    """A kernel's own file is unchanged; what it calls is not, and so gives another result."""
    package = tmp_path / "edited"
    shutil.copytree(Path(mlxconv.__file__).parent, package / "mlxconv")
    assert_right(run(folder, package=package))
    words = package / "mlxconv" / "simd" / "words.py"
    text = words.read_text()
    assert text.count("llvm.fmuladd") == 1
    words.write_text(text.replace("list(args))", "[args[0], args[0], args[2]])", 1))
    done = run(folder, package=package)
    assert done.returncode == 0 and done.stdout.strip() not in ("", RIGHT)


# Compiles a kernel for arrays and then for lent ones, which are another type to whoever calls it.
BOTH = """
from numba import types
from mlxconv.kernels.elements import converts_runs, unchanged
from mlxconv.simd.passing import Lent

array, number = types.Array(types.float32, 1, "C"), types.int64
for a in (array, Lent(array)):
    convert = converts_runs(unchanged)
    convert.compile((a, number, a, number, number))
    print(type(list(convert.overloads)[-1][0]).__name__)
"""


def test_types_of_one_layout_have_files_of_their_own(tmp_path):
    done = run(tmp_path, program=BOTH)
    assert (done.stdout.split(), done.stderr) == (["Array", "Lent"], "")
    assert len(files(tmp_path)) == 2


def test_another_processor(folder):
    """Code for this machine is not taken for another, nor the other way round."""
    before = stamps(folder)
    assert_right(run(folder, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=""))
    after = stamps(folder)
    assert before.items() <= after.items() and len(after) > len(before)


def test_old_versions_are_removed_in_time(tmp_path):
    current = tmp_path / "0123456789abcdef"
    old, recent, other = (tmp_path / name for name in ("a" * 16, "b" * 16, "notes"))
    for place in (old, recent, other):
        place.mkdir()
        (place / "x.kernel").write_bytes(b"x")
    long_ago = time.time() - (cache.KEEP_DAYS + 1) * 86400
    for place in (old, other):
        os.utime(place, (long_ago, long_ago))
    cache._write(current / "k.kernel", b"body")
    assert {p.name for p in tmp_path.iterdir()} == {current.name, recent.name, "notes"}
    assert cache._read(current / "k.kernel") == b"body"


def test_a_numba_without_its_private_interface():
    without = "import mlxconv.cache as c\nc._numba = None\n" + PROGRAM
    assert_right(run("", program=without))
