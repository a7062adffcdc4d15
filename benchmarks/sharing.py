"""From how much work two threads beat one, and what calls suffer from pauses and other programs.

    python -m benchmarks.sharing [--rounds 200]
    python -m benchmarks.sharing --beside-matmul
    python -m benchmarks.sharing --after-pause
    python -m benchmarks.sharing --beside-others

Every set-up (whose threads, and how they wait) is a process of its own, since both are settled
when Numba is loaded.  The first table is what WORTH_SHARING in mlxconv/threads.py goes by: the
least problem from which on two threads win, as its work and as the time of one thread; one and two
take turns, figures are medians.  The second is the time of a call that takes turns with a matrix
product of NumPy, by that of the call alone.  The third is the time of the first call after a pause,
when threads may have to be woken, and the system may put two of them on one core.  The fourth is
that of calls one after the other while as many other processes run as there are cores: its mean is
what counts, since now and then a call waits for its turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import mlxconv

SETTINGS = {
    "omp default": {"NUMBA_THREADING_LAYER": "omp", "OMP_WAIT_POLICY": ""},
    "omp": {"NUMBA_THREADING_LAYER": "omp", "OMP_WAIT_POLICY": "active"},
    "omp prange": {
        "NUMBA_THREADING_LAYER": "omp",
        "OMP_WAIT_POLICY": "active",
        "MLXCONV_THREADING": "numba",
    },
    "omp passive": {"NUMBA_THREADING_LAYER": "omp", "OMP_WAIT_POLICY": "passive"},
    "tbb": {"NUMBA_THREADING_LAYER": "tbb"},
    "pool": {"MLXCONV_THREADING": "pool"},
    "serial": {"MLXCONV_THREADING": "serial"},
}
ROWS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # 0.2 to 200 MFLOP
SIZES = (64, 4096)  # a small and a large one of the other tables
CHANNELS, TAPS = 64, 3
PAUSES = (0.0, 0.003, 0.05)  # seconds: threads that spin still do, or they sleep
MATRIX = 256  # 0.03 GFLOP in float32: NumPy uses every core for it


def problem(rows):
    """(input, weight, FLOP): `rows` output positions of 64 filters."""
    x = np.ones((1, rows + TAPS - 1, CHANNELS), np.float32)
    w = np.ones((CHANNELS, TAPS, CHANNELS), np.float32)
    return x, w, mlxconv.explain(x, w).problem.flop


def show_load():
    """Two threads need two cores: figures from a machine at work are of no use."""
    if hasattr(os, "getloadavg"):
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(calls, rounds):
    """(best, median) seconds of each call; one of every kind in each round."""
    for call in calls:
        call()
    found = [[timed(call) for call in calls] for _ in range(rounds)]
    return [(min(column), statistics.median(column)) for column in zip(*found, strict=True)]


def share_everything():
    from mlxconv import threads

    threads.WORTH_SHARING = dict.fromkeys(threads.WORTH_SHARING, 0)


def sharing(rounds):
    """[FLOP, seconds on one thread, on two] of every size; seconds are (best, median)."""
    share_everything()
    one, two = mlxconv.Stream(threads=1), mlxconv.Stream(threads=2)
    lines = []
    for rows in ROWS:
        x, w, flop = problem(rows)
        calls = [lambda x=x, w=w, s=s: mlxconv.conv1d(x, w, stream=s) for s in (one, two)]
        lines.append([flop, *measure(calls, max(20, min(rounds, int(4e9 / flop))))])
    return lines


def beside_matmul(rounds):
    """[FLOP, seconds alone, in turns with a matrix product] of a small and of a large call."""
    a = np.ones((MATRIX, MATRIX), np.float32)
    lines = []
    for rows in SIZES:
        x, w, flop = problem(rows)

        def call(x=x, w=w):
            mlxconv.conv1d(x, w)

        (alone,) = measure([call], rounds)
        _, beside = measure([lambda: a @ a, call], rounds)
        lines.append([flop, alone, beside])
    return lines


def after_pause(rounds):
    """[FLOP, seconds of pause, the call's seconds after it: median and upper quartile]."""
    lines = []
    for rows in SIZES:
        x, w, flop = problem(rows)
        for pause in PAUSES:
            found = []
            for _ in range(min(rounds, 60)):
                mlxconv.conv1d(x, w)
                time.sleep(pause)
                found.append(timed(lambda x=x, w=w: mlxconv.conv1d(x, w)))
            lines.append([flop, pause, statistics.median(found), statistics.quantiles(found)[2]])
    return lines


def beside_others(_):
    """[FLOP, seconds per call alone, beside others] of a small and of a large call."""
    lines = []
    for rows in SIZES:
        x, w, flop = problem(rows)
        mlxconv.conv1d(x, w)
        lines.append([flop, per_call(x, w)])
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())
    ]
    try:
        time.sleep(0.5)  # they have started
        for line, rows in zip(lines, SIZES, strict=True):
            line.append(per_call(*problem(rows)[:2]))
    finally:
        for other in others:
            other.kill()
    return lines


def per_call(x, w, seconds=2.0):
    """The mean seconds of a call, over so many seconds."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        mlxconv.conv1d(x, w)
        calls += 1
    return (time.perf_counter() - start) / calls


def in_process(setting):
    """The lines of a table from a process with that setting; None where it cannot be had."""
    tbb = Path(sys.prefix, "lib")  # where the wheel of tbb puts its libraries
    env = {**os.environ, "LD_LIBRARY_PATH": f"{tbb}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    command = [sys.executable, "-m", "benchmarks.sharing", "--child", setting, *sys.argv[1:]]
    done = subprocess.run(
        command, env=env | SETTINGS[setting], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def child(options):
    """Print the lines that the parent asked for, or null where the layer is another."""
    from mlxconv import threads

    table, _ = TABLES[options.table]
    there = threads.layer() == options.child.partition(" ")[0]
    print(json.dumps(table(options.rounds) if there else None))


def crossing(lines, which):
    """(FLOP, us of one thread) from which on two are faster, by `which` figure; "never"."""
    first = None
    for flop, one, two in lines:
        wins = two[which] < one[which]
        first = (first or (flop, one[which])) if wins else None
    return f"{first[0]:8.2g} {first[1] * 1e6:6.0f} us" if first else f"{'never':>18s}"


def show_sharing(results):
    from mlxconv import threads

    print("two threads beat one from   by the best       by the median    WORTH_SHARING")
    for setting, lines in results.items():
        threshold = threads.WORTH_SHARING.get(setting, float("nan"))
        print(f"{setting:20s} {crossing(lines, 0)} {crossing(lines, 1)} {threshold:16.2g}")


def show_beside_matmul(results):
    print("a call            FLOP  us alone: best, median   in turns: best, median   median ratio")
    for setting, lines in results.items():
        for flop, alone, beside in lines:
            us = [f"{1e6 * seconds:11.0f}" for seconds in (*alone, *beside)]
            print(f"{setting:12s} {flop:9.2g} {' '.join(us)} {beside[1] / alone[1]:14.1f}")


def show_after_pause(results):
    print("the first call       FLOP   after a pause of    us: median   upper quartile")
    for setting, lines in results.items():
        for flop, pause, *seconds in lines:
            us = [f"{1e6 * s:14.0f}" for s in seconds]
            print(f"{setting:12s} {flop:12.2g} {1e3 * pause:15.0f} ms {' '.join(us)}")


def show_beside_others(results):
    print("a call             FLOP   mean us: alone   beside others   ratio")
    for setting, lines in results.items():
        for flop, alone, beside in lines:
            us = f"{1e6 * alone:16.0f} {1e6 * beside:15.0f}"
            print(f"{setting:12s} {flop:10.2g} {us} {beside / alone:7.1f}")


TABLES = {  # what measures, and what shows it
    "sharing": (sharing, show_sharing),
    "beside-matmul": (beside_matmul, show_beside_matmul),
    "after-pause": (after_pause, show_after_pause),
    "beside-others": (beside_others, show_beside_others),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.set_defaults(table="sharing")
    for table in [name for name in TABLES if name != "sharing"]:
        parser.add_argument(f"--{table}", action="store_const", dest="table", const=table)
    parser.add_argument("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    show_load()
    settings = [
        s for s in SETTINGS if options.table != "sharing" or s not in ("serial", "omp default")
    ]
    found = {setting: in_process(setting) for setting in settings}
    for setting in [s for s, lines in found.items() if lines is None]:
        print(f"{setting} cannot be loaded here")
        del found[setting]
    _, show = TABLES[options.table]
    show(found)


if __name__ == "__main__":
    main()
