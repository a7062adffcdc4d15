"""Compile-time loops and register tiles: what `kernel` makes of a function, and calls it."""

import dis
import inspect
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import typed_passes, untyped_passes
from numba.core.errors import TypingError

from mlxconv.simd.passes import UNUSED
from mlxconv.simd.static import kernel, registers, static_range
from mlxconv.simd.vector import f64x4
from mlxconv.simd.words import broadcast, fma, load, store, zero
from tests import helpers

needs_jit = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is rewritten")


# ---------------------------------------------------------------- kernels to try it on


def outer_product(M, N, called=kernel(no_cpython_wrapper=False)):
    """A register tile of scalars, the shape of every micro-kernel."""

    @called
    def tile(a, b, y):
        acc = registers(M, N, fill=0.0)
        row = registers(N)
        for s in range(a.shape[0]):
            for n in static_range(N):
                row[n] = b[s, n]
            for m in static_range(M):
                for n in static_range(N):
                    acc[m, n] = acc[m, n] + a[s, m] * row[n]
        for m in static_range(M):
            for n in static_range(N):
                y[m, n] = acc[m, n]

    return tile


def triangle(N, called=kernel(no_cpython_wrapper=False)):
    """Inner ranges that depend on the index of the outer one, and have a start and a step."""

    @called
    def triangle_of(y):
        for i in static_range(N):
            for j in static_range(i, N):
                for k in static_range(2 * i + 1, 3 * N - j, 2):
                    y[i, j] += 100 * i + 10 * j + k

    return triangle_of


def chosen(RANK, called=kernel(no_cpython_wrapper=False)):
    """Each branch types for arrays of one rank only."""

    @called
    def element(a):
        if RANK == 2:
            value = a[0, 0]
        else:
            value = a[0]
        return value

    return element


def sorted_out(MODE, called=kernel(no_cpython_wrapper=False)):
    """A static chain of elif, on an expression of a static index."""

    @called
    def sort_out(y):
        for i in static_range(6):
            if i + MODE < 2:
                y[i] = 1
            elif (i + MODE) % 2 and MODE:
                y[i] = 2
            else:
                if i > y[0]:  # no constant: stays a branch
                    y[i] = 3

    return sort_out


def chosen_among(RANK, called=kernel(no_cpython_wrapper=False)):
    """A condition that a constant settles, if it is false, and others where it is true."""

    @called
    def element(a, n):
        value = -1.0
        if n[0] > 0 and RANK == 2:
            value = a[n[0], n[0]]
        return value

    return element


def vector_sum(NV, vec, called=kernel(no_cpython_wrapper=False)):
    LANES = vec.lanes

    @called
    def vectors(a, y):
        acc = registers(NV, fill=zero(vec))
        for s in range(a.shape[0] // (NV * LANES)):
            for v in static_range(NV):
                x = load(vec, a, (s * NV + v) * LANES)
                acc[v] = fma(x, broadcast(vec, a, v), acc[v])
        for v in static_range(NV):
            store(acc[v], y, v * LANES)

    return vectors


def as_written(function):
    return function


EXAMPLES = {
    "outer product": (outer_product, (3, 2), lambda: (*grid(5, 3, 2), np.zeros((3, 2)))),
    "one by one": (outer_product, (1, 1), lambda: (*grid(4, 1, 1), np.zeros((1, 1)))),
    "triangle": (triangle, (4,), lambda: (np.zeros((4, 4)),)),
    "nothing to unroll": (triangle, (0,), lambda: (np.zeros((1, 1)),)),
    "modes": (sorted_out, (0,), lambda: (np.zeros(6),)),
    "another mode": (sorted_out, (1,), lambda: (np.zeros(6),)),
    "vectors": (vector_sum, (2, f64x4), lambda: (np.arange(32.0), np.zeros(8))),
}


def grid(S, M, N):
    rng = np.random.default_rng(0)
    return rng.integers(-9, 10, (S, M)).astype(float), rng.integers(-9, 10, (S, N)).astype(float)


# ---------------------------------------------------------------- meaning


@pytest.mark.parametrize("name", EXAMPLES)
def test_unrolled_and_as_written_agree(name):
    factory, parameters, make = EXAMPLES[name]
    compiled, plain = make(), make()
    factory(*parameters)(*compiled)
    factory(*parameters, called=as_written)(*plain)
    assert np.array_equal(compiled[-1], plain[-1])
    assert name == "nothing to unroll" or compiled[-1].any()


def test_as_written_is_ordinary_python():
    assert static_range is range
    assert registers(2, 3, fill=1.5).tolist() == [[1.5] * 3] * 2
    assert registers(2).tolist() == [None, None]


@needs_jit
def test_static_branches_are_pruned():
    """The branch not taken would not type; nothing is left to decide."""
    assert chosen(2)(np.full((1, 1), 7.0)) == 7
    assert chosen(1)(np.full(1, 8.0)) == 8
    for rank in (1, 2):
        code = dis.get_instructions(chosen(rank).py_func)
        assert not [i.opname for i in code if "JUMP" in i.opname]


@needs_jit
def test_false_terms_of_an_and_prune_it():
    """The body would not type for one axis; for two, the other term decides as ever."""
    n = np.array([1])
    assert chosen_among(1)(np.array([7.0, 8.0]), n) == -1
    code = dis.get_instructions(chosen_among(1).py_func)
    assert not [i.opname for i in code if "JUMP" in i.opname]
    square = np.array([[7.0, 8.0], [9.0, 10.0]])
    assert [chosen_among(2)(square, np.array([i])) for i in (0, 1)] == [-1, 10]
    for rank, a in ((1, square[0]), (2, square)):
        assert chosen_among(rank)(a, n) == chosen_among(rank, called=as_written)(a, n)


def channels_of(CHANNELS, called=kernel(no_cpython_wrapper=False)):
    """A number that may be known when the kernel is compiled."""

    @called
    def channels(n):
        return CHANNELS or n

    return channels


def is_given(CHANNELS, called=kernel(no_cpython_wrapper=False)):
    @called
    def given(n):
        result = 0
        if n > 0 or CHANNELS > 0:
            result = 1
        return result

    return given


@needs_jit
def test_static_terms_of_an_or_decide_it():
    code = dis.get_instructions(is_given(4).py_func)
    assert not [i.opname for i in code if "JUMP" in i.opname]
    for known, n in ((4, 0), (4, 7), (0, 0), (0, 7)):
        assert is_given(known)(n) == is_given(known, called=as_written)(n) == (known + n > 0)
    for known, expected in ((4, 4), (0, 7)):
        assert channels_of(known)(7) == channels_of(known, called=as_written)(7) == expected
        code = dis.get_instructions(channels_of(known).py_func)
        assert not [i.opname for i in code if "JUMP" in i.opname]


def odds_and_ends(N, called=kernel(no_cpython_wrapper=False)):
    """Indices that outlive their loop or hide another, tiles filled in a loop, negative indices."""

    @called
    def odd(a, y):
        i = 7
        for i in static_range(N):
            acc = registers(2, fill=a[i])
            y[i] = acc[-1] + acc[0]
            for j in static_range(2):
                for j in static_range(j + 1):  # noqa: B020
                    y[i] += 10 * j
        y[N] = i

    return odd


@needs_jit
def test_the_meaning_is_that_of_python():
    compiled, plain = np.zeros(4), np.zeros(4)
    odds_and_ends(3)(np.arange(1.0, 4.0), compiled)
    odds_and_ends(3, called=as_written)(np.arange(1.0, 4.0), plain)
    assert compiled.tolist() == plain.tolist() and plain[3] == 2


@needs_jit
@pytest.mark.parametrize("index", (2, -3))
def test_an_index_outside_the_tile_is_an_error(index):
    def kernel_of(index):
        @kernel
        def outside(a):
            acc = registers(2, fill=a[0])
            a[1] = acc[index]

        return outside

    with pytest.raises(IndexError, match=r"acc\[index\]: index .* of registers\(2,\)"):
        kernel_of(index)


@needs_jit
def test_no_compile_time_construct_is_left():
    """What Numba sees has registers by name, and neither tiles nor static loops; an index is an
    ordinary variable after its loop."""
    code = outer_product(3, 2).py_func.__code__
    tiles = {f"acc_{m}_{n}" for m in range(3) for n in range(2)} | {"row_0", "row_1"}
    assert set(code.co_varnames) == {"a", "b", "y", "s", "m", "n"} | tiles
    assert set(code.co_names) == {"range", "shape"}


@needs_jit
def test_bindings_are_baked_in():
    """A closure over another kernel would never be found in Numba's cache."""
    inner = outer_product(3, 2)

    def factory(M, inner):
        @kernel
        def outer(a, b, y):
            inner(a, b, y)
            y[0, 0] += M

        return outer

    outer = factory(5, inner)
    assert outer.py_func.__closure__ is None
    assert outer.py_func.__globals__["inner"] is inner
    assert 5 in outer.py_func.__code__.co_consts


@needs_jit
def test_defaults_and_overrides_of_options():
    assert outer_product(1, 1).targetoptions["nogil"]
    assert outer_product(1, 1).targetoptions["error_model"] == "numpy"
    quiet = outer_product(1, 1, called=kernel).targetoptions
    assert quiet["no_cpython_wrapper"] and quiet["no_cfunc_wrapper"]
    loud = outer_product(1, 1, called=kernel(nogil=False, no_cpython_wrapper=False)).targetoptions
    assert not loud["nogil"] and not loud["no_cpython_wrapper"]


# ---------------------------------------------------------------- what is compiled


@needs_jit
def test_constants_do_not_compile_a_kernel_again():
    @kernel
    def add(a, n):
        a[0] += n

    @kernel(no_cpython_wrapper=False)
    def add_all(a):
        add(a, 1)
        add(a, 2)
        add(a, a.size)

    a = np.zeros(4, np.int64)
    add_all(a)
    assert a[0] == 7 and len(add.overloads) == 1


@needs_jit
def test_passes_that_kernels_do_not_need_are_left_out():
    parts = [getattr(typed_passes, name, getattr(untyped_passes, name, None)) for name in UNUSED]
    assert None not in parts, "Numba has no such pass"
    product, a = outer_product(1, 1), np.ones((1, 1))
    product(a, a, a)
    (compiled,) = product.overloads.values()
    (ran,) = compiled.metadata["pipeline_times"].values()
    ran = {name.partition("_")[2] for name in ran}
    assert "nopython_type_inference" in ran and not ran & {part._name for part in parts}


# ---------------------------------------------------------------- names


@needs_jit
def test_a_name_carries_every_parameter():
    assert outer_product(3, 2).__name__ == "tile_M3_N2"
    assert chosen(2).__name__ == "element_RANK2"
    assert vector_sum(2, f64x4).__name__ == "vectors_LANES4_NV2_f64x4"


@needs_jit
def test_a_name_carries_the_kernels_it_calls():
    """Two that differ only in whom they call are two."""

    def factory(callee, called=kernel):
        @called
        def caller(a):
            callee(a)

        return caller

    names = [factory(callee).__name__ for callee in (chosen(2), chosen(1), sorted_out(True))]
    assert names == ["caller_element_RANK2", "caller_element_RANK1", "caller_sort_out_MODE1"]


# Prints [name and options, digest of the code and of what it refers to] of every kernel that the
# variants make for all types, alike and not, registers of all widths, and one problem of each kind.
KERNELS = """
import hashlib, itertools, json, os, types
import ml_dtypes
import numpy as np
from mlxconv import cache

made = []
cache.attach = lambda dispatcher, options: made.append((dispatcher, options)) or dispatcher

from mlxconv import processor
from mlxconv.dispatch import able, plan
from mlxconv.kernels import entry
entry.entry_point = lambda *ignored: print  # nothing is compiled
entry.c_function = lambda *ignored: 0
from mlxconv.parameters import Parameters
from mlxconv.problem import problem_of


def identity(value):
    if isinstance(value, types.CodeType):
        parts = [value.co_code.hex(), value.co_names, value.co_varnames, value.co_consts]
        return [identity(part) for part in parts]
    if isinstance(value, tuple | list):
        return [identity(part) for part in value]
    if hasattr(value, "py_func"):
        return "kernel " + value.__name__
    if isinstance(value, types.FunctionType | types.ModuleType | type):
        return value.__name__
    return f"{type(value).__name__} {value}"


names = ["float16", "float32", "float64", "complex64", "complex128"]
dtypes = [np.dtype(name) for name in names] + [np.dtype(ml_dtypes.bfloat16)]
pairs = [*zip(dtypes, dtypes), *zip(dtypes, dtypes[1:] + dtypes[:1])]
shapes = [((1, 40, 16), (16, 3, 16), 1), ((1, 40, 16), (32, 3, 1), 16), ((1, 40, 16), (8, 3, 4), 4)]
for width in ("16", "32", "64"):
    os.environ["MLXCONV_VECTOR_BYTES"] = width
    processor.vector_bytes.cache_clear()
    plan.cache_clear()
    for (x, w, groups), (x_dtype, w_dtype) in itertools.product(shapes, pairs):
        q = Parameters("conv1d", 1, 1, 1, 1, groups, False)
        problem = problem_of(q, x, x_dtype, w, w_dtype)
        for variant in able(problem):
            elements = plan(problem, variant).schedule.elements
            entry.serial(elements), entry.parallel(elements)
            if entry.runtime() is not None:
                entry.team(elements)

found = []
for dispatcher, options in made:
    function = dispatcher.py_func
    named = {n: function.__globals__.get(n) for n in function.__code__.co_names}
    content = identity([function.__code__, sorted((n, identity(v)) for n, v in named.items())])
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    key = f"{dispatcher.__module__}.{dispatcher.__name__} {sorted(options.items())}"
    found.append([key, digest])
print(json.dumps(sorted(found)))
"""


def python(script, *arguments, **environment):
    """What a new process that runs `script` prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],  # where the package is, if it is not installed
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_jit
def test_names_of_all_kernels_are_unique_and_deterministic():
    """The disk cache goes by name and options: one pair may not stand for two pieces of code."""
    found = json.loads(python(KERNELS, PYTHONHASHSEED="1"))
    assert len(found) > 50
    digests = {}
    for key, digest in found:
        digests.setdefault(key, set()).add(digest)
    assert {key: len(d) for key, d in digests.items() if len(d) > 1} == {}
    assert json.loads(python(KERNELS, PYTHONHASHSEED="2")) == found


# ---------------------------------------------------------------- where the code is


@needs_jit
def test_code_points_to_this_file():
    function = outer_product(3, 2).py_func
    first = outer_product.__code__.co_firstlineno
    source = inspect.getsource(outer_product).splitlines()
    assert function.__code__.co_filename == __file__
    lines = {source[line - first].strip() for *_, line in function.__code__.co_lines() if line}
    assert "acc[m, n] = acc[m, n] + a[s, m] * row[n]" in lines
    assert "for s in range(a.shape[0]):" in lines


@needs_jit
def test_errors_point_to_their_line():
    def factory(M):
        @kernel(no_cpython_wrapper=False)
        def wrong(y):
            for m in static_range(M):
                y[m] = 1

            y.no_such_thing

        return wrong

    line = factory.__code__.co_firstlineno + 6
    wrong = factory(3)
    with pytest.raises(TypingError, match="no_such_thing") as caught:
        wrong(np.zeros(3))
    assert f'File "{os.path.relpath(__file__)}", line {line}' in str(caught.value)
    with pytest.raises(AttributeError) as plain:
        wrong.py_func(np.zeros(3))
    assert traceback.extract_tb(plain.value.__traceback__)[-1].lineno == line


# ---------------------------------------------------------------- the package without a JIT

# Writes to argv[1] what every variant makes of small integer problems, each of float32 and of two
# other types.
CONVOLVE = """
import sys
import ml_dtypes
import numpy as np
import mlxconv
from mlxconv.dispatch import VARIANTS

problems = [
    ((2, 23, 5), (19, 3, 5), dict(padding=1)),
    ((1, 16, 3), (4, 2, 3), dict(stride=2, kernel_dilation=3, padding=([4], [0]))),
    ((1, 9, 6), (4, 3, 3), dict(groups=2, padding=2)),
    ((1, 17, 9), (18, 3, 1), dict(groups=9, padding=1)),
    ((1, 3, 1), (1, 3, 1), dict()),
    ((1, 40, 1), (2, 9, 1), dict(padding=3)),
    ((1, 40, 4), (5, 3, 4), dict(input_dilation=2, padding=2)),
]
pairs = [(t, t) for t in ("float64", "float16", "bfloat16", "complex64", "complex128")]
pairs += [("float16", "bfloat16"), ("float32", "complex64"), ("float64", "float32")]
results, rng = {}, np.random.default_rng(0)
for i, (x_shape, w_shape, named) in enumerate(problems):
    for x_type, w_type in (("float32", "float32"), pairs[i], pairs[i - 4]):
        data = []
        for shape, name in ((x_shape, x_type), (w_shape, w_type)):
            values = rng.integers(-2, 3, shape) * (1 + 1j * name.startswith("complex"))
            data.append(values.astype(getattr(ml_dtypes, name, name)))
        for variant in (row.name for row in VARIANTS if row.keeps_bits):
            try:
                y = mlxconv.conv_general(*data, **named, variant=variant)
            except ValueError as refused:
                assert "cannot compute this problem" in str(refused)
                continue
            bits = y.view(np.uint8)
            results[f"{i} {x_type} {w_type} {variant} {y.dtype}"] = bits
np.savez(sys.argv[1], **results)
"""


@needs_jit
def test_convolutions_without_jit_give_the_same_bits(tmp_path):
    for name, setting in (("compiled", "0"), ("plain", "1")):
        python(CONVOLVE, str(tmp_path / f"{name}.npz"), NUMBA_DISABLE_JIT=setting)
    compiled, plain = np.load(tmp_path / "compiled.npz"), np.load(tmp_path / "plain.npz")
    assert compiled.files == plain.files
    assert {key.split()[3] for key in plain.files} == set(helpers.KERNELS)
    different = [key for key in plain.files if not np.array_equal(compiled[key], plain[key])]
    assert different == []
