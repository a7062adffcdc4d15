"""What the kernels are told of the processor."""

import pytest

from mlxconv import processor
from mlxconv.processor import Caches


def test_the_caches_of_this_machine():
    caches = processor.caches()
    assert 0 < caches.L1_bytes <= caches.L2_bytes <= caches.L3_bytes
    assert caches.L1_ways > 0 and caches.L1_bytes % caches.L1_ways == 0


@pytest.mark.parametrize(
    ("step_bytes", "rows", "lines"),
    [
        (4096, 14, 14),  # all in one set
        (8192, 6, 6),
        (2048, 14, 7),  # in two sets
        (1024, 14, 4),
        (4096 + 64, 14, 1),
        (4096 + 4, 14, 14),  # which begin in one line's worth of it
        (4096 + 32, 14, 2),
        (300 * 4, 14, 1),
        (4, 14, 1),  # several rows to a line
    ],
)
def test_lines_per_set(step_bytes, rows, lines, monkeypatch):
    monkeypatch.setattr(processor, "caches", lambda: Caches(32 << 10, 1 << 20, 32 << 20, 8))
    assert processor.lines_per_set(step_bytes, rows) == lines


@pytest.mark.parametrize(
    ("cpu", "vector_bytes", "starts"),
    [("znver4", 64, 1), ("znver4", 32, 2), ("skylake-avx512", 64, 2), ("haswell", 32, 2)],
)
def test_multiply_adds_per_cycle(cpu, vector_bytes, starts, monkeypatch):
    monkeypatch.setattr(processor, "target", lambda: ("x86_64-linux", cpu, frozenset()))
    monkeypatch.setattr(processor, "vector_bytes", lambda: vector_bytes)
    assert processor.fma_per_cycle() == starts
