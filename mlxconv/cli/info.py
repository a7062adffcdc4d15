"""`mlxconv info`: versions, processor, threads, the cache of compiled kernels, known figures."""

import argparse
import json
import platform
from dataclasses import asdict
from typing import Any

from mlxconv import __version__

SPINNING = (
    "idle threads spin, and so do those of NumPy's matrix product: a program that takes turns "
    "between the two is slowed down.  Start it with OMP_WAIT_POLICY=passive"
)


def run(options: argparse.Namespace) -> None:
    facts = gathered(options.wait_policy)
    print(json.dumps(facts, indent=2) if options.json else as_text(facts))


def gathered(wait_policy: str) -> dict[str, Any]:
    """All that info says of programs that find `wait_policy` in their environment; sizes in
    bytes."""
    import llvmlite
    import numba
    import numpy

    from mlxconv import processor, threads
    from mlxconv.dispatch import variants

    count, layer = threads.default_threads(), threads.layer()
    return {
        "mlxconv": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor.name(),
        "compiled_for": processor.target()[1],
        "vector_bytes": processor.vector_bytes(),
        "vector_registers": processor.registers(),
        "caches": processor.caches()._asdict(),
        "cores": processor.cores(),
        "threads": count,
        "threading_layer": layer,
        "omp_wait_policy": wait_policy,
        "warnings": [SPINNING] if spins(layer, wait_policy, count) else [],
        "variants": list(variants()),
        "kernel_cache": kernel_cache(),
        "machine": machine(),
    }


def machine() -> dict[str, Any] | None:
    """The figures of `mlxconv.machine()` if they are known; nothing is measured here."""
    from mlxconv import roofline

    known = roofline.measured()
    return None if known is None else asdict(known)


def spins(layer: str, wait_policy: str, threads: int) -> bool:
    """Whether idle threads keep their cores: those of OpenMP, unless told to be passive."""
    return layer == "omp" and threads > 1 and wait_policy.lower() != "passive"


def kernel_cache() -> dict[str, Any]:
    """Where this version keeps its compiled kernels, and how much is there."""
    from mlxconv import cache

    folder = cache.folder()
    if folder is None:
        return {"folder": None, "kernels": 0, "bytes": 0}
    try:
        sizes = [file.stat().st_size for file in folder.glob("*.kernel")]
    except OSError:  # removed or made unreadable meanwhile
        sizes = []
    return {"folder": str(folder), "kernels": len(sizes), "bytes": sum(sizes)}


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a table of lines."""
    f = facts
    caches = ", ".join(f"{k.partition('_')[0]} {_size(v)}" for k, v in f["caches"].items())
    bits = 8 * f["vector_bytes"]
    stored = f["kernel_cache"]
    place = stored["folder"] or "off (MLXCONV_CACHE_DIR is empty)"
    versions = ("python", "numpy", "numba", "llvmlite")
    lines = {
        "mlxconv": f["mlxconv"],
        "runs on": ", ".join(f"{name} {f[name]}" for name in versions),
        "system": f["system"],
        "processor": f"{f['processor']} (kernels are compiled for {f['compiled_for']})",
        "vectors": f"{bits} bits, {bits // 32} float32 each, {f['vector_registers']} registers",
        "caches": caches,
        "threads": f"{f['threads']} of {f['cores']} cores, layer {f['threading_layer']}",
        "waiting": f"OMP_WAIT_POLICY={f['omp_wait_policy'] or 'unset, which is active'} (these "
        "commands set it to passive unless you set it)",
        "variants": ", ".join(f["variants"]),
        "kernels": f"{place}: {stored['kernels']} kernels, {_size(stored['bytes'])}",
    }
    lines |= _peaks(f["machine"])
    rows = [*lines.items(), *(("warning", text) for text in f["warnings"])]
    return "\n".join(f"{name:<11}{text}" for name, text in rows)


def _peaks(known: dict[str, Any] | None) -> dict[str, str]:
    """What the machine can do at most on all threads, if it was measured."""
    if known is None:
        return {}
    gflops = (f"{name} {known[f'{name}_gflops'][1]:.0f}" for name in ("float32", "float64"))
    gbs = (f"{name} {known[f'{name}_copy_gbs'][1]:.0f}" for name in ("L2", "L3", "memory"))
    return {"peak": f"{', '.join(gflops)} GFLOP/s", "copies": f"{', '.join(gbs)} GB/s"}


def _size(n: int) -> str:
    return f"{n / (1 << 20):.3g} MB" if n >= 1 << 20 else f"{n / (1 << 10):.3g} KB"
