"""Every SIMD word: the LLVM it becomes against the line of NumPy it means, bit for bit."""

import inspect
import itertools
from fractions import Fraction

import numba
import numpy as np
import pytest
from numba import prange, types
from numba.core.errors import TypingError

from mlxconv import processor
from mlxconv.arrays import aligned_empty
from mlxconv.simd import shuffles, words
from mlxconv.simd.shuffles import (
    add_halves,
    broadcast_each,
    even_parts,
    odd_parts,
    sum_lanes,
    zip_high,
    zip_low,
)
from mlxconv.simd.static import kernel, static_range
from mlxconv.simd.vector import VECTORS
from mlxconv.simd.words import (
    broadcast,
    fetch_add,
    fma,
    load,
    load_n,
    prefetch,
    prefetch_at,
    starts_line,
    store,
    store_n,
    stream,
    zero,
)
from tests.guard import fate, freeze, guarded, needs_guard_pages

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is lowered without a JIT")

WORDS = {
    name
    for module in (words, shuffles)
    for name, value in vars(module).items()
    if inspect.isfunction(value)
    and value.__module__ == module.__name__
    and not name.startswith("_")
    and name not in ("fetch_add", "prefetch_at")  # they have no vectors; tested at the end
}
OFFSETS = (0, 1, 3, 5)  # in elements, none but the first aligned to a vector


# A probe writes what a word makes of a[i], ..., with a count of n where it takes one, to y[j].
# The names differ, since a kernel's name is its identity.


def _zero(vec):
    def zero_probe(a, i, n, y, j):
        store(zero(vec), y, j)

    return zero_probe


def _load(vec):
    def load_probe(a, i, n, y, j):
        store(load(vec, a, i), y, j)

    return load_probe


def _load_n(vec):
    def load_n_probe(a, i, n, y, j):
        store(load_n(vec, a, i, n), y, j)

    return load_n_probe


def _broadcast(vec):
    def broadcast_probe(a, i, n, y, j):
        store(broadcast(vec, a, i), y, j)

    return broadcast_probe


def _broadcast_each(vec):
    HALF = vec.lanes // 2

    def broadcast_each_probe(a, i, n, y, j):
        store(broadcast_each(vec, a, i, n, HALF, 0, 1), y, j)

    return broadcast_each_probe


def _fma(vec):
    LANES = vec.lanes

    def fma_probe(a, i, n, y, j):
        x, w, c = load(vec, a, i), load(vec, a, i + LANES), load(vec, a, i + 2 * LANES)
        store(fma(x, w, c), y, j)

    return fma_probe


def _store(vec):
    def store_probe(a, i, n, y, j):
        store(broadcast(vec, a, i), y, j)

    return store_probe


def _prefetch(vec):
    def prefetch_probe(a, i, n, y, j):
        prefetch(vec, a, i)
        prefetch(vec, y, j)
        prefetch(vec, y, j + 4096)  # a hint, wherever that is
        store(load(vec, a, i), y, j)

    return prefetch_probe


def _stream(vec):
    def stream_probe(a, i, n, y, j):
        if starts_line(vec, y, j):  # any line may be streamed to, and any vector stored
            stream(load(vec, a, i), y, j)
        else:
            store(load(vec, a, i), y, j)

    return stream_probe


def _starts_line(vec):
    def starts_line_probe(a, i, n, y, j):
        if starts_line(vec, a, i):
            y[j] = a[i]

    return starts_line_probe


def _store_n(vec):
    def store_n_probe(a, i, n, y, j):
        store_n(load(vec, a, i), y, j, n)

    return store_n_probe


def _of_two(word):
    def probe_of(vec):
        LANES = vec.lanes

        def two_probe(a, i, n, y, j):
            store(word(load(vec, a, i), load(vec, a, i + LANES)), y, j)

        return two_probe

    return probe_of


def _add_halves(vec):
    LANES, WHOLE = vec.lanes, vec.lanes.bit_length() - 1

    def add_halves_probe(a, i, n, y, j):
        v = add_halves(load(vec, a, i), load(vec, a, i + LANES), 1)
        for k in static_range(1, WHOLE):
            v = add_halves(v, v, 1 << k)
        store(v, y, j)

    return add_halves_probe


def _sum_lanes(vec):
    def sum_lanes_probe(a, i, n, y, j):
        y[j] = sum_lanes(load(vec, a, i))

    return sum_lanes_probe


PROBES = {
    "zip_low": _of_two(zip_low),
    "zip_high": _of_two(zip_high),
    "even_parts": _of_two(even_parts),
    "odd_parts": _of_two(odd_parts),
    "add_halves": _add_halves,
    "sum_lanes": _sum_lanes,
    "zero": _zero,
    "load": _load,
    "load_n": _load_n,
    "broadcast": _broadcast,
    "broadcast_each": _broadcast_each,
    "fma": _fma,
    "store": _store,
    "store_n": _store_n,
    "prefetch": _prefetch,
    "starts_line": _starts_line,
    "stream": _stream,
}
COUNTED = ("load_n", "store_n")
OF_PARTS = {"even_parts", "odd_parts"}
OF_TWO = {"zip_low", "zip_high", *OF_PARTS}
vectors = pytest.mark.parametrize("vec", VECTORS.values(), ids=str)


@pytest.fixture(scope="module")
def compiled():
    """(word, vec) -> its probe, compiled once; `py_func` of it is the meaning."""
    made = {}

    def make(word, vec):
        if word in OF_PARTS and vec.lanes * vec.dtype.itemsize == shuffles.PART_BYTES:
            pytest.skip("it has one part")
        if (word, vec) not in made:
            made[word, vec] = kernel(PROBES[word](vec), no_cpython_wrapper=False)
        return made[word, vec]

    return make


def bits(a):
    return a.view(np.dtype(f"u{a.dtype.itemsize}"))


def bit_patterns(rng, dtype, size):
    """Random bits as floats: all exponents, subnormals, infinities, quiet and signalling NaN."""
    patterns = rng.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, np.finfo(dtype).smallest_subnormal])
    patterns[rng.choice(size, size // 4, replace=False)] = rng.choice(special, size // 4)
    signalling = bits(np.array([np.inf], dtype)) | 1
    patterns[rng.choice(size, 2, replace=False)] = signalling.view(dtype)
    return patterns


def aligned(a):
    """A copy that starts at a cache line."""
    copy = aligned_empty(a.size, a.dtype)
    copy[:] = a
    return copy


def test_every_word_has_a_probe():
    assert PROBES.keys() == WORDS


@vectors
@pytest.mark.parametrize("word", sorted(WORDS - {"fma", "add_halves", "sum_lanes"}))
def test_lowering_equals_meaning(compiled, word, vec):
    """All of y is compared, so that a store may not touch its neighbours either."""
    probe = compiled(word, vec)
    a = aligned(bit_patterns(np.random.default_rng(1), vec.dtype, 4 * vec.lanes + max(OFFSETS)))
    before = bit_patterns(np.random.default_rng(2), vec.dtype, 3 * vec.lanes)
    counts = range(vec.lanes + 1) if word in COUNTED else (vec.lanes,)
    for i, j, n in itertools.product(OFFSETS, (0, 1, vec.lanes, 2 * vec.lanes), counts):
        got, expected = aligned(before), before.copy()
        probe(a, i, n, got, j)
        probe.py_func(a, i, n, expected, j)
        assert np.array_equal(bits(got), bits(expected)), f"i={i} j={j} n={n}"


@vectors
def test_sum_lanes_adds_halves(compiled, vec):
    """The order of additions is part of the meaning: bits of results depend on it."""
    probe, rng = compiled("sum_lanes", vec), np.random.default_rng(1)
    for _ in range(50):
        a = rng.standard_normal(vec.lanes).astype(vec.dtype) * 2 ** rng.integers(0, 20, vec.lanes)
        a = a.astype(vec.dtype)
        got, expected = np.zeros(1, vec.dtype), np.zeros(1, vec.dtype)
        probe(a, 0, vec.lanes, got, 0)
        probe.py_func(a, 0, vec.lanes, expected, 0)
        assert bits(got) == bits(expected)
    a[vec.lanes - 1] = np.nan
    probe(a, 0, vec.lanes, got, 0)
    assert np.isnan(got[0])


@vectors
def test_add_halves_sums_two_vectors_in_the_order_of_sum_lanes(compiled, vec):
    probe, one, rng = (
        compiled("add_halves", vec),
        compiled("sum_lanes", vec),
        np.random.default_rng(1),
    )
    for _ in range(50):
        a = (rng.standard_normal(2 * vec.lanes) * 2.0 ** rng.integers(0, 20)).astype(vec.dtype)
        got, expected, sums = np.zeros((3, vec.lanes), vec.dtype)
        probe(a, 0, 0, got, 0)
        probe.py_func(a, 0, 0, expected, 0)
        assert np.array_equal(bits(got), bits(expected))
        for i in range(2):
            one(a, i * vec.lanes, 0, sums, i)
        assert np.array_equal(got, np.resize(sums[:2], vec.lanes))


@vectors
@pytest.mark.parametrize("word", COUNTED)
def test_a_count_beyond_the_lanes_means_all(compiled, word, vec):
    probe = compiled(word, vec)
    a = bit_patterns(np.random.default_rng(3), vec.dtype, vec.lanes)
    y = np.zeros(vec.lanes, vec.dtype)
    probe(a, 0, vec.lanes + 7, y, 0)
    assert np.array_equal(bits(y), bits(a))


# ---------------------------------------------------------------- fma, rounded


def multiply_add(a, b, c):
    """a * b + c, rounded once."""
    exact_terms = np.isfinite(a) and np.isfinite(b)
    if not exact_terms or not np.isfinite(c):
        return c if exact_terms else a * b + c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return a * b + c if a == 0 or b == 0 else type(c)(0)  # IEEE's rules on signs of zero
    return rounded(exact, type(c))


def rounded(exact, dtype):
    """The number of `dtype` nearest to the fraction `exact`, which is not 0; ties to even."""
    info = np.finfo(dtype)
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, int(info.minexp)) - int(info.nmant))
    nearest = round(size / quantum) * quantum
    value = float(nearest) if nearest <= Fraction(float(info.max)) else np.inf
    return dtype(value if exact > 0 else -value)


def awkward_terms(dtype):
    """Triples (a, b, c): every mixture of awkward numbers, then cancelling and random ones."""
    info, rng = np.finfo(dtype), np.random.default_rng(4)
    awkward = [0.0, 1.0, 1 + info.eps, 1 - info.epsneg, 3.0, info.max, info.tiny]
    awkward += [info.smallest_subnormal, 7 * info.smallest_subnormal, info.tiny * (1 - info.eps)]
    awkward += [np.inf, np.nan]
    signed = [sign * dtype.type(v) for v in awkward for sign in (dtype.type(1), dtype.type(-1))]
    mixtures = np.array(list(itertools.product(signed, repeat=3)), dtype)
    a, b = rng.standard_normal((2, 500)).astype(dtype)
    cancelling = np.stack([a, b, -(a * b)], axis=1)
    scattered = np.ldexp(rng.standard_normal((500, 3)), rng.integers(-30, 30, (500, 3)))
    return np.concatenate([mixtures, cancelling, scattered.astype(dtype)])


def has_fma():
    triple, _, features = processor.target()
    return "fma" in features or triple.startswith(("aarch64", "arm64"))


@vectors
@np.errstate(all="ignore")
def test_fma_rounds_once_where_the_processor_can(compiled, vec):
    """Against exact fractions; without the instruction, against its meaning, which rounds twice."""
    probe = compiled("fma", vec)
    terms = awkward_terms(vec.dtype)
    terms = np.concatenate([terms, np.zeros((-len(terms) % vec.lanes, 3), vec.dtype)])
    got = np.empty(len(terms), vec.dtype)
    for j in range(0, len(terms), vec.lanes):
        a = np.ascontiguousarray(terms[j : j + vec.lanes].T).reshape(-1)
        probe(a, 0, 0, got, j)
    rule = multiply_add if has_fma() else lambda a, b, c: a * b + c
    expected = np.array([rule(*triple) for triple in terms], vec.dtype)
    same = (bits(got) == bits(expected)) | (np.isnan(got) & np.isnan(expected))
    wrong = [(terms[i].tolist(), got[i], expected[i]) for i in np.flatnonzero(~same)[:5]]
    assert same.all(), f"((a, b, c), got, expected): {wrong}"


@vectors
def test_fma_equals_its_meaning_where_that_is_exact(compiled, vec):
    probe = compiled("fma", vec)
    a = np.random.default_rng(5).integers(-99, 100, 3 * vec.lanes).astype(vec.dtype)
    got, expected = np.zeros((2, vec.lanes), vec.dtype)
    probe(a, 0, 0, got, 0)
    probe.py_func(a, 0, 0, expected, 0)
    assert np.array_equal(got, expected)


# ---------------------------------------------------------------- memory


@needs_guard_pages
def test_guard_pages_notice():
    """The harness itself: what reads or writes out of bounds dies, and what stays inside lives."""
    crashes = ("SIGSEGV", "SIGBUS")
    a = guarded(np.arange(8.0), "end")
    beyond = np.lib.stride_tricks.as_strided(a, (9,))
    before = np.lib.stride_tricks.as_strided(guarded(a, "start"), (2,), (-8,))
    assert fate(lambda: beyond[:8].sum()) == "ok"
    assert fate(lambda: beyond[8] + 1) in crashes
    assert fate(lambda: before[1] + 1) in crashes
    freeze(a)
    assert fate(lambda: a.sum()) == "ok"
    assert fate(lambda: a.fill(0)) in crashes
    assert fate(lambda: 1 // 0) == "raised"


@needs_guard_pages
@vectors
@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("word", sorted(WORDS - {"zero"}))
def test_no_memory_but_the_lanes_is_touched(compiled, word, vec, side):
    """Reads flush against a page without access, then writes."""
    probe = compiled(word, vec)
    several = {"broadcast": 1, "store": 1, "broadcast_each": vec.lanes + 1, "fma": 3 * vec.lanes}
    elements = several.get(word, vec.lanes)
    elements *= 2 if word in {*OF_TWO, "add_halves"} else 1
    reads = [n if word == "load_n" else elements for n in range(vec.lanes + 1)]
    written = 1 if word == "sum_lanes" else vec.lanes
    writes = [n if word == "store_n" else written for n in range(vec.lanes + 1)]
    probe(np.ones(elements, vec.dtype), 0, vec.lanes, np.empty(vec.lanes, vec.dtype), 0)

    def act():
        for n in range(vec.lanes + 1) if word in COUNTED else (vec.lanes,):
            a = guarded(np.ones(reads[n], vec.dtype), side)
            y = guarded(np.zeros(writes[n], vec.dtype), side)
            freeze(a)
            probe(a, 0, n, y, 0)

    assert fate(act) == "ok"


# ---------------------------------------------------------------- typing

READING, WRITING = (
    ("load", "load_n", "broadcast", "broadcast_each", "starts_line", "prefetch"),
    ("store", "store_n", "stream"),
)
READ_ONLY = aligned(np.zeros(64))  # starts_line sees that
READ_ONLY.flags.writeable = False

# what is wrong with an array of float64 words -> such an array, and what the message must say
UNFIT = {
    "dtype": (np.zeros(64, np.float32), "needs a flat C-contiguous float64 array"),
    "integers": (np.zeros(64, np.int64), "needs a flat C-contiguous float64 array"),
    "ndim": (np.zeros((8, 8)), "needs a flat C-contiguous float64 array"),
    "layout": (np.zeros(128)[::2], "needs a flat C-contiguous float64 array"),
    "no array": (1.0, "needs a flat C-contiguous float64 array"),
}
PLACES = [(word, name) for word in READING for name in "ai"]
PLACES += [(word, name) for word in WRITING for name in "yj"]
PLACES += [(word, "n") for word in (*COUNTED, "broadcast_each")]
OF_REGISTERS = {"zero", "fma", "repeat", "add_halves", "sum_lanes", *OF_TWO}


def refusal(word, vec, **arguments):
    """What Numba says when the word's probe is compiled for these arguments."""
    good = {"a": np.zeros(64, vec.dtype), "i": 0, "n": 1, "y": np.zeros(64, vec.dtype), "j": 0}
    probe = kernel(PROBES[word](vec), no_cpython_wrapper=False)
    with pytest.raises(TypingError) as caught:
        probe.compile(tuple(map(numba.typeof, {**good, **arguments}.values())))
    return str(caught.value)


def test_places_are_those_of_all_memory_words():
    """A word that appears in none of the tests below is one nobody has tried to misuse."""
    assert {word for word, _ in PLACES} == WORDS - OF_REGISTERS


@pytest.mark.parametrize("why", UNFIT)
@pytest.mark.parametrize("word, array", [place for place in PLACES if place[1] in "ay"])
def test_unfit_arrays_are_typing_errors(word, array, why):
    value, message = UNFIT[why]
    said = refusal(word, VECTORS["f64x4"], **{array: value})
    assert f"f64x4 {message}, got {numba.typeof(value)}" in said


@vectors
def test_each_vector_reads_its_own_elements_only(vec):
    other = {"float32": "float64", "float64": "float32"}[vec.dtype.name]
    said = refusal("load", vec, a=np.zeros(64, other))
    assert f"{vec} needs a flat C-contiguous {vec.dtype} array" in said


@pytest.mark.parametrize("word", WRITING)
def test_a_store_to_a_read_only_array_is_a_typing_error(word):
    assert "cannot store f64x4 to the read-only" in refusal(word, VECTORS["f64x4"], y=READ_ONLY)


@pytest.mark.parametrize("word", READING)
def test_read_only_arrays_can_be_read(word):
    probe = kernel(PROBES[word](VECTORS["f64x4"]), no_cpython_wrapper=False)
    y = np.ones(4)
    probe(READ_ONLY, 0, 60, y, 0)
    assert np.array_equal(y, [0, 1, 1, 1] if word == "starts_line" else READ_ONLY[:4])


@pytest.mark.parametrize("value", [1.0, np.float32(1), 1j], ids=repr)
@pytest.mark.parametrize("word, integer", [place for place in PLACES if place[1] in "ijn"])
def test_offsets_and_counts_are_integers(word, integer, value):
    said = refusal(word, VECTORS["f64x4"], **{integer: value})
    assert f"an offset or count of lanes is an integer, got {numba.typeof(value)}" in said


@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int32, np.uint32, np.uint64])
def test_any_integer_is_an_offset_and_a_count(integer):
    """Unsigned ones are not sign-extended: 200 as a uint8 is 200."""
    a, y = np.arange(256.0), np.zeros(4)
    i = integer(100 if integer is np.int8 else 200)
    kernel(PROBES["load_n"](VECTORS["f64x4"]), no_cpython_wrapper=False)(a, i, integer(3), y, 0)
    assert y.tolist() == [int(i), int(i) + 1, int(i) + 2, 0]


def _mixed_fma(vec, other):
    def mixed_probe(a):
        fma(load(vec, a, 0), load(other, a, 0), zero(vec))

    return mixed_probe


def _of_no_vector(word):
    def no_vector_probe(a):
        word(3, a, 0)

    return no_vector_probe


def test_fma_takes_three_vectors_of_one_type():
    probe = kernel(_mixed_fma(VECTORS["f64x4"], VECTORS["f64x2"]))
    with pytest.raises(TypingError, match="fma") as caught:
        probe.compile((numba.typeof(np.zeros(8)),))
    assert "f64x4" in str(caught.value) and "f64x2" in str(caught.value)


@pytest.mark.parametrize("word", [load, broadcast])
def test_words_take_a_vector_type(word):
    with pytest.raises(TypingError, match="expected a vector type"):
        kernel(_of_no_vector(word)).compile((numba.typeof(np.zeros(8)),))


# ---------------------------------------------------------------- fetch_add


def taken(takers, count, called=kernel):
    """Takes numbers from a counter, on as many threads as there are; marks each in y."""
    step = 3

    @called
    def take(counter, y):
        for _ in prange(takers):
            at = fetch_add(counter, 1, step)
            while at < count:
                y[at] += 1
                at = fetch_add(counter, 1, step)

    return take


def test_fetch_add_gives_every_number_once():
    counter, y = np.array([100, 0, 100]), np.zeros(30_000, np.int64)
    taken(4, y.size, kernel(no_cpython_wrapper=False, parallel=True))(counter, y)
    assert y.reshape(-1, 3).sum(0).tolist() == [10_000, 0, 0] and y.max() == 1
    assert counter.tolist() == [100, 30_000 + 4 * 3, 100]


def test_fetch_add_means_what_it_says():
    counter, y = np.array([100, 0, 100]), np.zeros(300, np.int64)
    taken(4, y.size, lambda function: function)(counter, y)
    assert y.reshape(-1, 3).sum(0).tolist() == [100, 0, 0] and y.max() == 1


@pytest.mark.parametrize("bad", (np.zeros(2), np.zeros(2, np.int32), np.zeros((2, 2), np.int64)))
def test_fetch_add_counts_in_int64(bad):
    with pytest.raises(TypingError, match="a counter is an element of a flat int64 array"):
        taken(1, 1, kernel(no_cpython_wrapper=False))(bad, np.zeros(3, np.int64))


# ---------------------------------------------------------------- prefetch_at


def asking(called=kernel):
    @called
    def ask(address, y):
        prefetch_at(address)
        prefetch_at(address + 4096)
        y[0] += 1

    return ask


@needs_guard_pages
@pytest.mark.parametrize("address", (0, -1, 1 << 62, "of an array", "of pages without access"))
def test_any_address_may_be_asked_for(address):
    a, y = guarded(np.zeros(16), "end"), np.zeros(1)
    places = {"of an array": a.ctypes.data, "of pages without access": a.ctypes.data + a.nbytes}
    ask = asking(kernel(no_cpython_wrapper=False))

    def act():
        ask(places.get(address, address), y)
        assert y[0] == 1

    ask(a.ctypes.data, np.zeros(1))
    assert fate(act) == "ok"


def test_an_address_is_an_integer():
    with pytest.raises(TypingError, match="an address is an integer, got float64"):
        asking(kernel(no_cpython_wrapper=False))(1.0, np.zeros(1))


def test_to_ask_means_nothing_without_jit():
    y = np.zeros(1)
    asking(lambda function: function)(0, y)
    assert y[0] == 1


# ---------------------------------------------------------------- parts of a vector


def repeating(vec, size, lane, constant):
    """A kernel that repeats elements any number apart, and a constant one: from the first on, and
    by turns."""
    LANES, turns = vec.lanes, lane + 1

    def repeating_probe(a, step, y):
        store(broadcast_each(vec, a, lane, step, size, 0, 1), y, 0)
        store(broadcast_each(vec, a, lane, constant, size, 0, 1), y, LANES)
        store(broadcast_each(vec, a, 0, step, size, lane, turns), y, 2 * LANES)
        store(broadcast_each(vec, a, 0, constant, size, lane, turns), y, 3 * LANES)

    return repeating_probe


@needs_guard_pages
@vectors
def test_parts_of_every_size(vec):
    """Lanes that are left over belong to the last part; nothing is read behind it."""
    LANES = vec.lanes
    few = ((1, 1), (1, 2), (2, 3), (3, 2), (4, 5), (5, 1), (7, 7), (8, 3), (16, 2))
    for size, step in (*few, (1, 3), (1, 4), (2, 6), (3, 12)):  # in three or four vectors
        first = np.minimum(np.arange(LANES) // size, LANES // size - 1)
        for lane in {0, size - 1} if size <= LANES else ():
            probe = kernel(repeating(vec, size, lane, step), no_cpython_wrapper=False)
            extent = int(first[-1]) * step + lane + 1
            a, got = guarded(np.arange(extent, dtype=vec.dtype)), np.zeros(4 * LANES, vec.dtype)
            assert fate(lambda p=probe, a=a, n=step, y=got: p(a, n, y)) == "ok", (size, lane, step)
            probe(a, step, got)
            assert np.array_equal(got, np.tile(first * step + lane, 4)), (size, lane, step)


def test_sizes_of_parts_are_constants_of_a_vector():
    vec, arrays = VECTORS["f64x4"], (types.Array(types.float64, 1, "C"),)
    with pytest.raises(TypingError, match="f64x4 has no parts of 5 lanes"):
        kernel(repeating(vec, 5, 0, 1)).compile((*arrays, types.intp, *arrays))

    def variable_probe(a, size, y):
        store(broadcast_each(vec, a, 0, 1, size, 0, 1), y, 0)

    with pytest.raises(TypingError):
        kernel(variable_probe).compile((*arrays, types.intp, *arrays))
