"""What is packed, and what is looked through."""

import numpy as np
import pytest

from mlxconv.arrays import aligned_empty
from mlxconv.kernels.packing import finite
from mlxconv.simd.static import kernel
from mlxconv.simd.vector import vec_of


@pytest.mark.parametrize("vector_bytes", (16, 32, 64))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_rows_that_are_not_finite(dtype, vector_bytes):
    """Any number of any row counts, and none between rows."""
    is_finite = finite(vec_of(np.dtype(dtype), vector_bytes))

    @kernel(no_cpython_wrapper=False)
    def are_finite(a, first, rows, step, size):
        return is_finite(a, first, rows, step, size)

    a = aligned_empty(4000, dtype)
    for first, rows, step, size in [(0, 1, 0, 300), (5, 4, 30, 20), (3, 3, 90, 90), (1, 5, 81, 80)]:
        a[:] = np.nan
        inside = {first + m * step + i for m in range(rows) for i in range(size)}
        a[list(inside)] = np.finfo(dtype).max
        assert are_finite(a, first, rows, step, size)
        for i in inside:
            for bad in (np.inf, -np.inf, np.nan):
                a[i] = bad
                assert not are_finite(a, first, rows, step, size)
            a[i] = 0
