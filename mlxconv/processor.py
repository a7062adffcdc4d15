"""The processor, read once: vector width, registers, caches, cores."""

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mlxconv.arrays import CACHE_LINE_BYTES


class Caches(NamedTuple):
    """The caches one core sees."""

    L1_bytes: int
    L2_bytes: int
    L3_bytes: int
    L1_ways: int = 8  # lines that a set holds


@lru_cache(1)
def target() -> tuple[str, str, frozenset[str]]:
    """What Numba compiles for: the LLVM triple, the name of the processor, its features.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES change it, which is how other machines are tested here.
    """
    from numba.core.registry import cpu_target

    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    on = frozenset(f[1:] for f in features.split(",") if f.startswith("+"))
    return triple, cpu, on


@lru_cache(1)
def vector_bytes() -> int:
    """Bytes of the widest SIMD register: 64 with AVX-512, 32 with AVX, else 16 (SSE2, NEON).

    MLXCONV_VECTOR_BYTES overrides it; wider than the machine is slow but gives the same results.
    """
    if override := os.environ.get("MLXCONV_VECTOR_BYTES"):
        if override not in ("16", "32", "64"):
            raise ValueError(f"MLXCONV_VECTOR_BYTES takes 16, 32 or 64, got {override!r}")
        return int(override)
    features = target()[2]
    return 64 if "avx512f" in features else 32 if "avx" in features else 16


@lru_cache(1)
def registers() -> int:
    """How many SIMD registers a kernel may hold: 32 with AVX-512 and on ARM, else 16."""
    triple, _, features = target()
    return 32 if "avx512f" in features or triple.startswith(("aarch64", "arm64")) else 16


def fma_per_cycle() -> int:
    """Multiply-adds of whole registers that may start in a cycle: 1 where registers of 512 bits
    pass through units of 256, else 2."""
    return 1 if target()[1] == "znver4" and vector_bytes() == 64 else 2


def flop_per_cycle() -> int:
    """The float32 operations that a core does in a cycle at its peak."""
    return 2 * vector_bytes() // 4 * fma_per_cycle()


@lru_cache(1)
def converts_float16() -> bool:
    """Whether there are instructions between float16 and float32."""
    triple, _, features = target()
    return "f16c" in features or triple.startswith(("aarch64", "arm64"))


@lru_cache(1)
def rounds_to_bfloat16() -> bool:
    """Whether an instruction rounds float32 to bfloat16, if it makes zeros of subnormals."""
    return "avx512bf16" in target()[2]


@lru_cache(1)
def masks_stores() -> bool:
    """Whether to write some lanes of a register takes about as long as all of them."""
    return {"avx512vl", "avx512bw"} <= target()[2]


@lru_cache(1)
def caches() -> Caches:
    """The data caches of core 0; typical sizes where the system does not tell."""
    sizes, ways = {"1": 32 << 10, "2": 512 << 10, "3": 8 << 20}, 8
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() != "Instruction":
                size = (index / "size").read_text().strip()
                unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
                level = (index / "level").read_text().strip()
                sizes[level] = int(size.rstrip("KM")) * unit
                if level == "1":
                    ways = int((index / "ways_of_associativity").read_text()) or ways
        except (OSError, ValueError):
            continue
    return Caches(sizes["1"], sizes["2"], sizes["3"], ways)


def _is_zen5() -> bool:
    return target()[1] == "znver5"


def from_L2() -> float:
    """How much longer tiles take whose windows L1 does not hold; on Zen 5, which reads a whole
    vector from L2 in a cycle, no longer."""
    return 1.0 if _is_zen5() else 1.1


def far_bytes() -> int:
    """The size from which an array that is written has left the caches since it was last: a quarter
    of L3, which others use as well, where measured, but half of it on Zen 5."""
    return caches().L3_bytes // (2 if _is_zen5() else 4)


def read_bytes() -> int:
    """How much input and output together have to be for the input to come from memory."""
    return caches().L3_bytes // 2


def streamed_bytes() -> int:
    """How much input and output together have to be for outputs to be written past the caches: two
    thirds of L3, which others use as well, but half more than all of it on Zen 5.  On Zen 4 1.1 to
    1.4x from 23 to 29 MB of 32, and half as fast for 15 MB if L3 holds them; on Zen 5 1.1 to 1.8x
    from 50 MB on, and half as fast for 29 MB."""
    return caches().L3_bytes * (9 if _is_zen5() else 4) // 6


def lines_per_set(step_bytes: int, rows: int) -> int:
    """The lines that so many rows, as far apart, begin in, as many as fall into one set of L1: more
    than it has ways push each other out before their next element is read."""
    L1_bytes, _, _, ways = caches()
    lines = {i * step_bytes // CACHE_LINE_BYTES for i in range(rows)}
    sets = Counter(line % (L1_bytes // ways // CACHE_LINE_BYTES) for line in lines)
    return max(sets.values(), default=0)


def filled(step_bytes: int, rows: int) -> float:
    """The share of the ways of a set of L1 that these lines take: above 1 rows crowd it."""
    return lines_per_set(step_bytes, rows) / caches().L1_ways


def cores() -> int:
    """Cores this process may use: its affinity mask, and the CPU quota of its cgroup."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(count, round(quota))) if quota else max(1, count)


@lru_cache(1)
def _cgroup_quota() -> float | None:
    """CPUs' worth of time that cgroup v2 grants this process, None where it sets no limit."""
    try:
        group = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()[0]
    except (OSError, IndexError):
        return None
    limits = []
    folder = Path("/sys/fs/cgroup") / group.lstrip("/")
    for place in (folder, *folder.parents):
        try:
            quota, period = (place / "cpu.max").read_text().split()
            if quota != "max":
                limits.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass
        if place == Path("/sys/fs/cgroup"):
            break
    return min(limits, default=None)


def name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
