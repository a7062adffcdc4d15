"""How close convolutions come to the machine's FMA peak, measured beside them in the same run.

    python -m benchmarks.peak [name ...] [--threads N] [--dtype float32] [--rounds 20]

In each round the peak (independent chains of multiply-adds that stay in registers, launched like
any kernel) and then each convolution run once; figures are the best round of each.  The clock of
a shared machine moves, so only percentages of the same run mean anything.
"""

import argparse

import mlxconv
from mlxconv import roofline, threads, timing
from mlxconv.bench.shapes import named


def conv_call(name, dtype, workers):
    """A call of the convolution `name`, and its FLOP."""
    shape, stream = named()[name], mlxconv.Stream(threads=workers)
    return shape.call(*shape.data(dtype), stream=stream), shape.problem(dtype).flop


def measure(calls, rounds):
    """The best GFLOP/s of each of the named (call, FLOP) pairs, in interleaved rounds."""
    for call, _ in calls.values():
        call()  # compiles
    found = timing.in_turns({name: call for name, (call, _) in calls.items()}, rounds=rounds)
    return {name: calls[name][1] / min(seconds) / 1e9 for name, seconds in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["whisper_conv2"], metavar="name")
    parser.add_argument("--threads", type=int, default=threads.default_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    calls = {"FMA peak": roofline.fma_call(options.dtype, options.threads)}
    for name in options.names:
        calls[name] = conv_call(name, options.dtype, options.threads)
    best = measure(calls, options.rounds)
    print(f"{options.dtype}, {options.threads} threads, best of {options.rounds} rounds")
    for name, gflops in best.items():
        print(f"{name:18s} {gflops:7.1f} GFLOP/s {100 * gflops / best['FMA peak']:5.1f} %")


if __name__ == "__main__":
    main()
