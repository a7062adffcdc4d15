"""Where convolve takes the FFT: times of both ways, of NumPy and, if it is there, of SciPy.

python -m benchmarks.convolving [--length 200000]
"""

import argparse

import numpy as np

import mlxconv
from mlxconv import timing
from mlxconv.tables import Table, number


def measure(length, taps, dtype, seconds):
    """Best seconds of each way."""
    rng = np.random.default_rng(0)
    a, v = (rng.standard_normal(n).astype(dtype) for n in (length, taps))
    calls = {
        "kernel": lambda: mlxconv.convolve(a, v, variant="kernel"),
        "fft": lambda: mlxconv.convolve(a, v, variant="fft"),
    }
    if taps * length < 1e9:
        calls["numpy"] = lambda: np.convolve(a, v)
    try:
        from scipy.signal import fftconvolve

        calls["scipy fft"] = lambda: fftconvolve(a, v)
    except ImportError:
        pass
    return {name: min(times) for name, times in timing.in_turns(calls, seconds).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=0.3, help="per row")
    options = parser.parse_args()
    names = ("kernel", "fft", "numpy", "scipy fft")
    table = Table(("us", "taps", *names))
    for dtype in ("float32", "float64", "complex64", "complex128"):
        for taps in (16, 64, 256, 512, 1024, 2048, 4096, 16384):
            found = measure(options.length, taps, dtype, options.seconds)
            times = (number(found[n] * 1e6) if n in found else "" for n in names)
            table.add(dtype, str(taps), *times)
    print(table.plain())


if __name__ == "__main__":
    main()
