"""The machine code of every register tile: whole registers, all multiply-adds, nothing spilled.

A tile that needs one register more than there are runs at half the speed and gives the same
results, so only its assembly tells.  Kernels are compiled for a processor, and never run, in a
process of its own, without the cache: code loaded from disk cannot be inspected.  What is read is
all the machine code that LLVM makes: it changes its own code while it does, and what it makes of
that once more, as inspect_asm() has it do, is another.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from mlxconv import processor
from mlxconv.dispatch import VARIANTS

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="reads x86 assembly"
)

_AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+lzcnt,+bmi,+bmi2,+movbe,+f16c"
_AVX2 += ",+avx,+avx2,+fma"
_AVX512 = f"{_AVX2},+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd"

# machine -> (environment that makes Numba compile for it, its widest register); this one stands for
# its kind.  For Zen LLVM unrolls loops that it leaves as they are for others, and may spill there.
MACHINES = {
    "haswell": ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": _AVX2}, "ymm"),
    "znver5": ({"NUMBA_CPU_NAME": "znver5", "NUMBA_CPU_FEATURES": _AVX512}, "zmm"),
    "native": ({}, {16: "xmm", 32: "ymm", 64: "zmm"}[processor.vector_bytes()]),
}
MACHINES.pop({16: "", 32: "haswell", 64: "znver5"}[processor.vector_bytes()], None)
# Prints {"kind MRxNV": assembly} of all tiles that a variant has for a type, those over groups of
# every kind: filters and channels of a group, taps that positions are apart, those of a block and
# of the last block; in float32 also those that write past the caches, and that ask ahead.
COMPILE = """
import inspect
import json
import sys
from numba.core.codegen import JITCodeLibrary
from mlxconv import processor
from mlxconv.dispatch import VARIANTS
from mlxconv.kernels import dot_tiling
from mlxconv.kernels.elements import Elements
from mlxconv.kernels.grouped import TAPS, of_several_channels
from mlxconv.kernels.loops import tile_call
from mlxconv.simd.vector import vec_of

VARIANT, DTYPE = sys.argv[1:]
found = {}
machine_code = []

def read(library):
    machine_code[:] = [library.codegen._tm.emit_assembly(library._final_module)]

JITCodeLibrary._finalize_specific = read  # instead of machine code to run

def compile(name, kind, MR, NV, **options):
    tile = micro_kernel(*kind, MR, NV, vec, **options)
    tile.compile(tile_call(Elements(DTYPE, DTYPE)).argument_types)
    (found[f"{name}{MR}x{NV}"],) = machine_code

(kernel,) = (row.kernel for row in VARIANTS if row.name == VARIANT)
tiles = dot_tiling.tiles if VARIANT == "dot" else kernel.tiles
micro_kernel, shapes = kernel.micro_kernel, [tile.shape for tile in tiles()]
vec, most = vec_of(DTYPE, processor.vector_bytes()), TAPS[processor.registers()]
takes, over_groups = inspect.signature(micro_kernel).parameters, VARIANT == "grouped"
ways = {"": {}}
if DTYPE == "float32":  # no two flags of a way exclude each other
    flags = {
        "streams ": dict(STREAMS=1, GROUPS_AHEAD=1),
        "ahead ": dict(TILES_AHEAD=1, ASKS=1, BESIDE=1),
        "pieces ": dict(PIECES_AHEAD=4),
        "pieces by two ": dict(PIECES_AHEAD=2),
    }
    given = {way: {f: n for f, n in some.items() if f in takes} for way, some in flags.items()}
    ways |= {way: options for way, options in given.items() if options}
half = vec.lanes // 2
groups = ((1, 1), (2, 2), (half, 1), (half, 0), (vec.lanes, 0))
blocks = ((1, most, most - 1), (2, most, 0))
kinds = [(*group, *block) for group in groups for block in blocks]
for kind in (kinds if DTYPE == "float32" else kinds[:1]) if over_groups else [()]:
    chosen = shapes
    if over_groups:
        many = of_several_channels(most).shape if kind[2] == 1 else shapes[0]
        chosen = shapes[0], shapes[-1] if kind[1] == 1 else many
    for MR, NV in sorted({*chosen}):
        for way, options in (ways if kind[:2] in ((), (1, 1)) else {"": {}}).items():
            compile(f"{kind} {way}", kind, MR, NV, **options)
if VARIANT == "dot":
    MR, TAPS = dot_tiling.SLIDING[processor.registers()]
    for STRIDE in (1, 2):
        compile(f"slides by {STRIDE} ", (), MR, 1, STRIDE=STRIDE, TAPS=TAPS)
    ragged = dot_tiling.tiles(True)
    for tile in ragged:
        compile("ragged ", (), *tile.shape, RAGGED=1)
    if ragged:
        TAPS = dot_tiling.RAGGED_TAPS
        compile("slides ragged ", (), MR, 1, STRIDE=1, TAPS=TAPS, RAGGED=1)
print(json.dumps(found))
"""

FMA = re.compile(r"vfn?m(?:add|sub)\d+p[sd]\s")  # packed; those of scalars end in ss and sd
JUMP = re.compile(r"j\w+\s+(\.\w+)$")
FRAME_POINTER = re.compile(r"movq\s+%rsp, %rbp")


class Loop(NamedTuple):
    lines: list[str]
    stack: re.Pattern  # what an address on the stack looks like in this function

    @property
    def multiply_adds(self):
        """The kind of register each packed multiply-add writes, its last operand."""
        return [line.rpartition("%")[2][:3] for line in self.lines if FMA.match(line)]

    @property
    def spills(self):
        """Lines in which a vector meets the stack."""
        return [
            line for line in self.lines if re.search("%[xyz]mm", line) and self.stack.search(line)
        ]


def innermost_loops(assembly):
    """What lies between a label and a later jump back to it, if it contains no other loop."""
    lines = [line.partition("#")[0].strip() for line in assembly.splitlines()]
    registers = "[sb]" if any(map(FRAME_POINTER.match, lines)) else "s"  # else rbp is one of many
    stack = re.compile(rf"\(%r{registers}p[,)]")
    label_at = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    jumps = [(i, match[1]) for i, line in enumerate(lines) if (match := JUMP.match(line))]
    spans = {(label_at[to], i) for i, to in jumps if label_at.get(to, i) < i}
    inner = [s for s in spans if not any(s != t and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [Loop(lines[start : end + 1], stack) for start, end in sorted(inner)]


def hot_loop(assembly):
    """The innermost loop with the most multiply-adds."""
    return max(innermost_loops(assembly), key=lambda loop: len(loop.multiply_adds))


def assemblies(name, variant, dtype):
    """{"kind MRxNV": assembly} of the tiles of `variant`, compiled for the machine `name`."""
    environment = {**os.environ, **MACHINES[name][0], "MLXCONV_CACHE_DIR": ""}
    for variable in ("NUMBA_DISABLE_JIT", "MLXCONV_VECTOR_BYTES"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, variant, dtype],
        env=environment,
        cwd=Path(__file__).parents[2],  # where the package is, if it is not installed
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# depthwise tiles are those of grouped, for one filter and channel
WITH_TILES = ["dot", *(row.name for row in VARIANTS if hasattr(row.kernel, "tiles"))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", WITH_TILES)
@pytest.mark.parametrize("name", MACHINES)
def test_the_hot_loop_of_every_tile(name, variant, dtype):
    """MR*NV multiply-adds, or a multiple where LLVM unrolls, on whole registers and on no stack,
    but for rows of x that several channels are taken from, or that serve several positions: to load
    them again takes as long."""
    tiles = assemblies(name, variant, dtype)
    assert tiles
    for tile, assembly in tiles.items():
        MR, NV = map(int, tile.split()[-1].split("x"))
        loop = hot_loop(assembly)
        count = len(loop.multiply_adds)
        assert count >= MR * NV and count % (MR * NV) == 0, f"{tile}: {count} multiply-adds"
        assert set(loop.multiply_adds) == {MACHINES[name][1]}, tile
        allowed = 0
        if variant == "grouped" and not tile.startswith("(1, 1, "):
            _, CHANNELS, STRIDE = map(int, re.findall(r"\d+", tile.partition("(")[2])[:3])
            few = CHANNELS == 1 and STRIDE == 1
            allowed = count // 10 if few else STRIDE * count // 3
        elif "slides by 2" in tile:
            allowed = count // 4
        assert len(loop.spills) <= allowed, f"{tile} spills:\n" + "\n".join(loop.spills)
        past_caches = len(re.findall(r"vmovnt.*%[xyz]mm", assembly))
        assert past_caches == (MR * NV if "streams" in tile else 0), tile


SPILLING = """
tile:
	pushq	%rbp
	{prologue}
.LBB0_1:
	vmovups	%ymm9, 64(%rsp)
.LBB0_2:
	vfmadd231ps	(%rbp,%rcx,4), %ymm13, %ymm11   # the operand may be memory
	vfnmadd213ps	%zmm1, %zmm2, %zmm3
	vfmadd231ss	%xmm1, %xmm2, %xmm3
	movq	8(%rsp), %rax
	vmovups	%ymm15, 48(%rsp)
	jne	.LBB0_2
	jmp	.LBB0_1
.LBB0_3:
	vfmadd231ps	%ymm13, %ymm12, %ymm11
	jne	.LBB0_3
"""


def test_the_reader_of_assembly():
    """It sees inner loops only, packed multiply-adds only, and vectors on the stack."""
    assembly = SPILLING.format(prologue="subq\t$88, %rsp")
    assert len(innermost_loops(assembly)) == 2
    loop = hot_loop(assembly)
    assert loop.multiply_adds == ["ymm", "zmm"]
    assert loop.spills == ["vmovups\t%ymm15, 48(%rsp)"]
    with_frame = hot_loop(SPILLING.format(prologue="movq\t%rsp, %rbp"))
    assert len(with_frame.spills) == 2, "here rbp points to the stack, and is no common register"
