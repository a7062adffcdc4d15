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


@pytest.mark.parametrize(
    ("cpu", "far", "streamed", "from_L2"),
    [("znver5", 16, 48, 1.0), ("znver4", 8, 21, 1.1), ("haswell", 8, 21, 1.1)],
)
def test_what_is_far_and_what_L2_costs(cpu, far, streamed, from_L2, monkeypatch):
    """For an L3 of 32 MB: Zen 5 keeps what it wrote for longer, and reads vectors from L2 as fast
    as tiles take them."""
    monkeypatch.setattr(processor, "target", lambda: ("x86_64-linux", cpu, frozenset()))
    monkeypatch.setattr(processor, "caches", lambda: Caches(32 << 10, 1 << 20, 32 << 20, 8))
    assert processor.far_bytes() == far << 20
    assert processor.streamed_bytes() >> 20 == streamed
    assert processor.from_L2() == from_L2
