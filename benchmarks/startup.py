"""What a fresh process waits for: imports, the first call, and the first call that compiles.

    python -m benchmarks.startup [--processes 10] [--python PATH]

Every figure is the median over fresh processes; each round starts one of every kind, so that a
slow minute of the machine falls on all of them.  Starting Python itself is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.sharing import show_load

CLOCK = "import time; start = time.perf_counter(); "
SHOW = "; print(time.perf_counter() - start)"
CALL = "import mlxconv; x, w = (np.ones(s, np.float32) for s in ((1, 300, 16), (32, 3, 16))); "
CALL += "mlxconv.conv1d(x, w)"
SECOND = "start = time.perf_counter(); mlxconv.conv1d(x[:, 50:], w[:20, :2], stride=2)"

# label -> what a process does, and whether it finds compiled kernels on the disk
KINDS = {
    "import numpy": (f"{CLOCK} import numpy {SHOW}", True),
    "import mlxconv": (f"{CLOCK} import mlxconv {SHOW}", True),
    "import numba": (f"{CLOCK} import numba {SHOW}", True),
    "a trivial cached njit": (f"{CLOCK} import trivial {SHOW}", True),
    "first conv1d": (f"{CLOCK} import numpy as np; {CALL} {SHOW}", True),
    "second shape": (f"{CLOCK} import numpy as np; {CALL}; {SECOND} {SHOW}", True),
    "first conv1d, compiling": (f"{CLOCK} import numpy as np; {CALL} {SHOW}", False),
}
TRIVIAL = """\
from numba import njit

@njit(cache=True)
def successor(x):
    return x + 1

successor(1)
"""


def seconds(python, program, cache, modules):
    """What `program` prints, with its kernels in `cache`, and `modules` among its imports."""
    path = os.pathsep.join(filter(None, [modules, os.getcwd(), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "MLXCONV_CACHE_DIR": cache, "PYTHONPATH": path}
    done = subprocess.run(
        [python, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def measure(python, processes):
    """Seconds of every kind, one for each round."""
    results = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        warm = os.path.join(folder, "warm")
        Path(folder, "trivial.py").write_text(TRIVIAL)
        for program, cached in KINDS.values():
            if cached:  # fill the caches, also those of the disk
                seconds(python, program, warm, folder)
        for i in range(processes):
            for kind, (program, cached) in KINDS.items():
                cache = warm if cached else os.path.join(folder, str(i))
                results[kind].append(seconds(python, program, cache, folder))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=10, help="of every kind")
    parser.add_argument("--python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    show_load()
    results = measure(options.python, options.processes)
    numpy = statistics.median(results["import numpy"])
    print(f"{'ms, from a running Python':26s} median     least   import numpy = 1")
    for kind, found in results.items():
        middle = statistics.median(found)
        print(f"{kind:24s} {middle * 1e3:8.1f}  {min(found) * 1e3:8.1f}   {middle / numpy:8.2f}")


if __name__ == "__main__":
    main()
