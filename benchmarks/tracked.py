"""What asv follows from commit to commit; see asv.conf.json and the README.

    asv run HEAD^!                                   this commit
    asv continuous --interleave-rounds --bench time_ main HEAD     has anything become slower?

Times are for comparing commits on one machine.  Tracked figures are for graphs: most are ratios to
something measured in the same turns, which hold on a busy machine as well.
"""

import os
import subprocess
import sys
import tempfile
import tracemalloc

import numpy as np

import mlxconv
from benchmarks import frozen
from benchmarks.shapes import CONV1D, OTHERS
from mlxconv import roofline, timing
from mlxconv.arrays import dtype_named
from mlxconv.bench import gradients
from mlxconv.bench.engines import Task

SECONDS = 0.5  # per figure


class Conv1d:
    """conv1d on every named shape."""

    params = (list(CONV1D), [1, 2], ["float32", "float64"])
    param_names = ("shape", "threads", "dtype")
    rounds = 4  # one round, as with --quick, finds identical code twice as fast
    repeat = (2, 5, 1.0)
    warmup_time = 0.05

    def setup(self, name, threads, dtype):
        x, w = CONV1D[name].data(dtype)
        named, stream = CONV1D[name].parameters, mlxconv.Stream(threads)
        self.call = lambda: mlxconv.conv1d(x, w, **named, stream=stream)
        self.call()  # compiles

    def time_conv1d(self, name, threads, dtype):
        self.call()

    def peakmem_conv1d(self, name, threads, dtype):
        self.call()


class Family:
    """The convolutions of other ranks, and transposed ones, on theirs."""

    params = (list(OTHERS), [1, 2])
    param_names = ("shape", "threads")
    rounds, repeat, warmup_time = Conv1d.rounds, Conv1d.repeat, Conv1d.warmup_time

    def setup(self, name, threads):
        self.call = OTHERS[name].call(*OTHERS[name].data(), stream=mlxconv.Stream(threads))
        self.call()  # compiles

    def time_family(self, name, threads):
        self.call()


class Gradients:
    """The gradients of one shape of each kind."""

    shapes = ("encodec_in", "tcn_d8", "resnext_g32", "resnet50_c3_3x3_n1", "mobilenetv2_dw144_56")
    params = ([*shapes, "hifigan_up2_64"], list(gradients.KINDS), [1, 2])
    param_names = ("shape", "by", "threads")
    rounds, repeat, warmup_time = Conv1d.rounds, Conv1d.repeat, Conv1d.warmup_time

    def setup(self, name, by, threads):
        shape = {**CONV1D, **OTHERS}[name]
        task = Task(shape, *shape.data(), threads, by)
        (contender,) = gradients.ours(task).values()
        self.call = contender.call
        self.call()  # compiles

    def time_gradient(self, name, by, threads):
        self.call()


class Relative:
    """Figures relative to others of the same minute."""

    params = (list(CONV1D), [1, 2])
    param_names = ("shape", "threads")
    timeout = 300

    def setup(self, name, threads):
        self.shape, self.stream = CONV1D[name], mlxconv.Stream(threads)
        x, w = self.shape.data()
        named = self.shape.parameters
        self.call = lambda: mlxconv.conv1d(x, w, **named, stream=self.stream)
        self.peak, self.peak_flop = roofline.fma_call("float32", threads)
        by_filter = np.ascontiguousarray(w.transpose(1, 2, 0))
        self.frozen = lambda: frozen.conv1d(x, by_filter, *named.values())
        for call in (self.call, self.peak, self.frozen):
            call()  # compiles

    def _gflops(self):
        """(ours, the peak's)."""
        best = timing.best(timing.in_turns({"ours": self.call, "peak": self.peak}, SECONDS))
        return (
            self.shape.problem().flop / best["ours"] / 1e9,
            self.peak_flop / best["peak"] / 1e9,
        )

    def track_gflops(self, name, threads):
        return self._gflops()[0]

    def track_fraction_of_peak(self, name, threads):
        ours, peak = self._gflops()
        return ours / peak

    def track_ratio_to_reference(self, name, threads):
        best = timing.best(timing.in_turns({"ours": self.call, "frozen": self.frozen}, SECONDS))
        return best["frozen"] / best["ours"]

    def track_regret(self, name, threads):
        shape = self.shape
        named = {**shape.parameters, "stream": self.stream}
        return mlxconv.race(*shape.arrays, **named, seconds=SECONDS, slowest=0.2).regret

    track_gflops.unit = "GFLOP/s"
    track_fraction_of_peak.unit = "of FMA peak"
    track_ratio_to_reference.unit = "times the frozen kernel"
    track_regret.unit = "of the fastest"


class Halves:
    """The half types beside float32 on the same numbers, on all threads."""

    params = (list(CONV1D), ["float16", "bfloat16"])
    param_names = ("shape", "dtype")
    unit = "times the speed of float32"

    def setup(self, name, dtype):
        try:
            half = dtype_named(dtype)
        except ImportError as error:  # asv shows what is skipped as such
            raise NotImplementedError("bfloat16 needs ml_dtypes") from error
        x, w = CONV1D[name].data()
        named = CONV1D[name].parameters
        narrow_x, narrow_w = x.astype(half), w.astype(half)
        self.calls = {
            "float32": lambda: mlxconv.conv1d(x, w, **named),
            "half": lambda: mlxconv.conv1d(narrow_x, narrow_w, **named),
        }
        for call in self.calls.values():
            call()  # compiles

    def track_ratio_to_float32(self, name, dtype):
        best = timing.best(timing.in_turns(self.calls, SECONDS))
        return best["float32"] / best["half"]


class Scratch:
    """Memory a call takes beside its result."""

    params = (list(CONV1D), [1, 2])
    param_names = ("shape", "threads")
    unit = "bytes"

    def setup(self, name, threads):
        x, w = CONV1D[name].data()
        named, stream = CONV1D[name].parameters, mlxconv.Stream(threads)
        self.call = lambda: mlxconv.conv1d(x, w, **named, stream=stream)
        self.call()

    def track_scratch_bytes(self, name, threads):
        tracemalloc.start()
        try:
            y = self.call()
            return tracemalloc.get_traced_memory()[1] - y.nbytes
        finally:
            tracemalloc.stop()


CALL = "mlxconv.conv1d(np.ones((1, 64, 8), 'f4'), np.ones((8, 3, 8), 'f4'))"


def milliseconds(code, cache):
    """What `code` takes in a fresh process that has imported NumPy; kernels are kept in `cache`."""
    program = f"import time, numpy as np; t = time.perf_counter(); {code}; "
    program += "print((time.perf_counter() - t) * 1e3)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MLXCONV_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


class Start:
    """What a program waits for before its first result."""

    unit = "ms"
    timeout = 300

    def track_import_ms(self):
        return min(milliseconds("import mlxconv", "") for _ in range(15))

    def track_cold_first_call_ms(self):
        """With an empty cache of kernels: all is compiled."""
        with tempfile.TemporaryDirectory() as cache:
            return milliseconds(f"import mlxconv; {CALL}", cache)

    def track_warm_first_call_ms(self):
        with tempfile.TemporaryDirectory() as cache:
            program = f"import mlxconv; {CALL}"
            milliseconds(program, cache)
            return min(milliseconds(program, cache) for _ in range(3))
