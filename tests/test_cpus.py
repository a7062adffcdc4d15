"""One source, other machines: the exact tier again, compiled for processors that this is not.

`haswell` is AVX2 with fused multiply-adds, `generic` 64-bit x86 without either.  The code runs
wherever the processor at hand has at least those instructions.
"""

import os
import subprocess
import sys

import pytest

from mlxconv import processor

AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt"
CPUS = {"haswell": (AVX2, "f32x8"), "generic": ("", "f32x4")}

# 60 problems in all types, by all variants, and what tile they took
PROGRAM = """
import sys
import numpy as np
import mlxconv
from tests.problems import DTYPES, random_cases
from tests.test_exact import able, assert_same, exact
for i, case in enumerate(random_cases(60, 11)):
    x, w = case.data(np.random.default_rng(i), DTYPES[i % len(DTYPES)])
    for variant in (None, *able(case, x.dtype)):
        assert_same(case.run(x, w, variant=variant), exact(case, x, w), (variant, case))
print(mlxconv.explain((1, 100, 8), (32, 3, 8)).tile)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_the_exact_tier_compiled_for(cpu):
    if not processor.target()[0].startswith("x86_64"):
        pytest.skip("these are x86-64 processors")
    features, vec = CPUS[cpu]
    if cpu == "haswell" and processor.vector_bytes() < 64:
        pytest.skip("this processor is one of its kind, or has no AVX2")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == vec
