"""How close convolutions come to the machine's FMA peak, measured beside them in the same run.

    python -m benchmarks.peak [name ...] [--threads N] [--dtype float32] [--rounds 20]

In each round the peak (independent chains of multiply-adds that stay in registers, launched like
any kernel) and then each convolution run once; figures are the best round of each.  The clock of
a shared machine moves, so only percentages of the same run mean anything.
"""

import argparse
import time

import numpy as np

import mlxconv
from benchmarks.shapes import CONV1D
from mlxconv import threads
from mlxconv.kernels.peak import peak_schedule


def peak_call(dtype, workers):
    """A call that runs at the FMA peak, and its FLOP."""
    schedule = peak_schedule(dtype, 64 * workers)  # 2 ms, so that the launch does not count
    nothing, factors = np.empty(0, dtype), np.array([0.999, 0.001], dtype)
    x = nothing.view()
    x.flags.writeable = factors.flags.writeable = False
    geometry = schedule.compile()
    return (lambda: threads.run(schedule, geometry, (x, factors, nothing), workers)), schedule.flop


def conv_call(name, dtype, workers):
    """A call of the convolution `name`, and its FLOP."""
    shape, rng = CONV1D[name], np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(dtype) for s in shape.arrays)
    stream = mlxconv.Stream(threads=workers)
    flop = mlxconv.explain(x, w, **shape.parameters).problem.flop
    return (lambda: mlxconv.conv1d(x, w, **shape.parameters, stream=stream)), flop


def measure(calls, rounds):
    """The best GFLOP/s of each of the named (call, FLOP) pairs, in interleaved rounds."""
    best = dict.fromkeys(calls, 0.0)
    for call, _ in calls.values():
        call()
    for _ in range(rounds):
        for name, (call, flop) in calls.items():
            start = time.perf_counter()
            call()
            best[name] = max(best[name], flop / (time.perf_counter() - start) / 1e9)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["whisper_conv2"], metavar="name")
    parser.add_argument("--threads", type=int, default=threads.default_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    calls = {"FMA peak": peak_call(options.dtype, options.threads)}
    for name in options.names:
        calls[name] = conv_call(name, options.dtype, options.threads)
    best = measure(calls, options.rounds)
    print(f"{options.dtype}, {options.threads} threads, best of {options.rounds} rounds")
    for name, gflops in best.items():
        print(f"{name:18s} {gflops:7.1f} GFLOP/s {100 * gflops / best['FMA peak']:5.1f} %")


if __name__ == "__main__":
    main()
