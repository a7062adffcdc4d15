"""Threads and forks: every call returns the right bits or raises, nothing dies, nothing hangs.

Each cell of the matrix is a process of its own with a time limit, since what is tested for is
abortion, deadlock and memory that was never written.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = {
    "omp": {"NUMBA_THREADING_LAYER": "omp"},
    "prange": {"NUMBA_THREADING_LAYER": "omp", "MLXCONV_THREADING": "numba"},
    "tbb": {"NUMBA_THREADING_LAYER": "tbb"},
    "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
    "pool": {"MLXCONV_THREADING": "pool"},
}

PRELUDE = """
import os, signal, sys, threading, time
import multiprocessing as mp
import numpy as np
import mlxconv
X = (np.arange(2 * 4000 * 64) % 11 - 5).reshape(2, 4000, 64).astype(np.float32)
W = (np.arange(64 * 3 * 64) % 7 - 3).reshape(64, 3, 64).astype(np.float32)

def conv(dtype=np.float32, threads=None):
    return mlxconv.conv1d(X.astype(dtype), W.astype(dtype), padding=1,
                          stream=mlxconv.Stream(threads=threads))

def right(_=None, dtype=np.float32):
    '''Whether a call gives what a sum in float64 gives; exact, the data are small integers.'''
    y = conv(dtype)
    xp = np.pad(X.astype(np.float64), ((0, 0), (1, 1), (0, 0)))
    rows = [0, 1, 1777, 3998, 3999]
    expected = np.array([[np.tensordot(xp[n, l:l + 3], W, ([0, 1], [1, 2])) for l in rows]
                         for n in range(2)])
    return bool((y[:, rows] == expected).all())

def in_threads(count, work=right):
    results = [None] * count
    def run(i):
        results[i] = all(work() for _ in range(8))
    ts = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    [t.start() for t in ts]; [t.join() for t in ts]
    return all(results)

def in_child(work=right):
    '''Fork; the child works and exits 0 if all is well.'''
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
"""

SCENARIOS = {
    "4 threads at once": "assert in_threads(4)",
    "a pool of concurrent.futures": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(right, range(40)))
""",
    "beside the user's own prange": """
import numba
@numba.njit(parallel=True)
def total(n):
    s = 0
    for i in numba.prange(n):
        s += i
    return s
assert total(1000) == 499500 and right() and total(1000) == 499500 and right()
""",
    "nested in the user's own prange": """
import numba
@numba.njit(parallel=True)
def nested(n):
    ok = np.zeros(n, np.int64)
    for i in numba.prange(n):
        with numba.objmode(good="int64"):
            good = int(right())
        ok[i] = good
    return ok.sum()
assert right() and nested(4) == 4
""",
    "fork after import": "assert in_child() and right()",
    "fork after use": "assert right() and in_child() and right()",
    "fork after compiling": "conv(np.float64); assert in_child() and right()",
    "fork of a fork": "assert right() and in_child(lambda: right() and in_child()) and right()",
    "a new type in the child": "assert right() and in_child(lambda: right(dtype=np.float64))",
    "a child's threads": "assert right() and in_child(lambda: in_threads(4))",
    "fork while a thread is inside a kernel": """
assert right()
stop = False
def busy():
    while not stop:
        conv()
t = threading.Thread(target=busy); t.start()
assert all(in_child() for _ in range(10))
stop = True; t.join()
""",
    "fork while a thread loads Numba": """
t = threading.Thread(target=right); t.start()
while "numba" not in sys.modules:
    time.sleep(0)
assert in_child(); t.join(); assert right()
""",
    "fork while a thread compiles": """
import tempfile
os.environ["MLXCONV_CACHE_DIR"] = tempfile.mkdtemp()
t = threading.Thread(target=right, kwargs={"dtype": np.float64}); t.start()
time.sleep(2)
assert t.is_alive(), "it takes longer to compile"
assert in_child(lambda: right(dtype=np.float64))
t.join(); assert right(dtype=np.float64)
""",
    "fork while a thread waits to compile": """
assert right()
from numba.core.compiler_lock import global_compiler_lock
with global_compiler_lock:
    t = threading.Thread(target=right, kwargs={"dtype": np.float64}); t.start()
    time.sleep(0.5)
    assert t.is_alive() and in_child() and in_child(lambda: right(dtype=np.float64))
t.join(); assert right()
""",
    "multiprocessing fork": """
assert right()
with mp.get_context("fork").Pool(2) as pool:
    assert all(pool.map(right, range(6)))
assert right()
""",
    "a SIGTERM handler": """
signal.signal(signal.SIGTERM, lambda *a: None); signal.signal(signal.SIGABRT, lambda *a: None)
assert right() and in_child() and in_threads(3)
""",
    "a daemonised process": """
assert right()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, b"1" if right() and right() else b"0")
    os._exit(0)
os.wait(); assert os.read(read, 1) == b"1"
""",
    "the user's parallel code, a fork, then the first import": """
import subprocess
code = '''
import os, numba
@numba.njit(parallel=True)
def f(n):
    s = 0
    for i in numba.prange(n):
        s += i
    return s
f(10)
pid = os.fork()
if pid == 0:
    import mlxconv, numpy as np
    x, w = np.ones((1, 9000, 64), np.float32), np.ones((64, 3, 64), np.float32)
    os._exit(0 if (mlxconv.conv1d(x, w) == 192).all() else 1)
assert os.waitpid(pid, 0)[1] == 0
'''
assert subprocess.run([sys.executable, "-c", code]).returncode == 0
""",
}


def environment(layer):
    libraries = Path(sys.prefix, "lib")  # where the wheel of tbb puts them
    paths = f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    return {**os.environ, **LAYERS[layer], "NUMBA_NUM_THREADS": "2", "LD_LIBRARY_PATH": paths}


def run(program, layer, timeout=120, **more):
    return subprocess.run(
        [sys.executable, *([program] if isinstance(program, Path) else ["-c", program])],
        env={**environment(layer), **more},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module", params=LAYERS)
def layer(request):
    if request.param in ("omp", "tbb"):
        probe = run(f"import numba.np.ufunc.{request.param}pool", request.param)
        if probe.returncode:
            pytest.skip(f"{request.param} cannot be loaded here")
    return request.param


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_matrix(layer, scenario):
    if layer == "workqueue" and "user's own prange" in scenario:
        pytest.skip("the user's own code may enter workqueue; ours never does")
    done = run(PRELUDE + SCENARIOS[scenario], layer)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.parametrize("method", ("spawn", "forkserver"))
def test_multiprocessing(layer, method, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + f"""
if __name__ == "__main__":
    assert right()
    with mp.get_context("{method}").Pool(2) as pool:
        assert all(pool.map(right, range(4)))
    assert right()
"""
    )
    done = run(program, layer)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_torch_dataloader_workers(layer, tmp_path):
    pytest.importorskip("torch")
    program = tmp_path / "program.py"
    program.write_text(
        PRELUDE
        + """
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return right()
assert right()
assert all(map(all, torch.utils.data.DataLoader(Data(), num_workers=2)))
"""
    )
    done = run(program, layer)
    assert done.returncode == 0, (done.returncode, done.stderr)


COUNT = """
import numba
numba.njit(lambda x: x)(1)  # loads SciPy where there is one, whose BLAS starts threads
before = set(os.listdir("/proc/self/task"))
conv(); conv(threads=N)
print(len(os.listdir("/proc/self/task")) - len(before) + 1)
"""


@pytest.mark.parametrize(
    "bound",
    [
        {"MLXCONV_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "1"},
        {"NUMBA_NUM_THREADS": "1"},
        {"MLXCONV_THREADING": "serial"},
        {"stream": "1"},
        {"affinity": "1"},
    ],
    ids=lambda bound: next(iter(bound)),
)
def test_one_thread_is_one_thread(layer, bound):
    """Not a single other thread is alive where only one may be used."""
    bound = dict(bound)
    stream, affinity = bound.pop("stream", None), bound.pop("affinity", None)
    first = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" if affinity else ""
    count = COUNT.replace("conv(); ", "conv(threads=1);") if stream else COUNT
    program = "import os\n" + first + PRELUDE + count.replace("=N", "=1" if stream else "=None")
    done = run(program, layer, **bound)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]


# The files that say so, in a folder of their own: /proc and /sys are the machine's.
QUOTA = """
import pathlib
from mlxconv import processor
processor.Path = lambda place: pathlib.Path(ROOT, place.lstrip("/"))
"""


@pytest.mark.parametrize(
    ("of_job", "of_step", "expected"),
    [("100000 100000", "max 100000", 1), ("max 100000", "50000 100000", 1), ("max 1", "max 1", 2)],
)
def test_a_cpu_quota_bounds_the_threads(tmp_path, of_job, of_step, expected):
    """That of the process's own cgroup, and of those around it."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core is one thread")
    step = tmp_path / "sys/fs/cgroup/job/step"
    step.mkdir(parents=True)
    (step / "cpu.max").write_text(of_step)
    (step.parent / "cpu.max").write_text(of_job)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/\n0::/job/step\n")
    quota = QUOTA.replace("ROOT", repr(str(tmp_path)))
    done = run(PRELUDE + quota + COUNT.replace("=N", "=None"), "omp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(expected)]


def test_two_threads_are_two_threads(layer):
    done = run(PRELUDE + COUNT.replace("=N", "=2"), layer)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2
