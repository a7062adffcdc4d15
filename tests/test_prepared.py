"""Conv1d, `out=`, and the memory of results that is used again."""

import pickle
import sys
import threading

import numpy as np
import pytest

import mlxconv
from mlxconv import recycling
from mlxconv.kernels.entry import addresses
from tests import helpers

RNG = np.random.default_rng(0)
X = helpers.random_array(RNG, (2, 90, 12), np.float32)
W = helpers.random_array(RNG, (21, 4, 12), np.float32)


@pytest.mark.parametrize("variant", (None, *helpers.KERNELS))
@pytest.mark.parametrize("dtype", ("float32", "float64", "float16", "complex64"))
def test_prepared_gives_the_bits_of_conv1d(variant, dtype):
    """The first call packs, the second does not; lengths change the blocks, not the filters."""
    groups = {"depthwise": 12, "grouped": 6}.get(variant, 1)
    filters = 12 if variant == "depthwise" else 24
    w = helpers.random_array(RNG, (filters, 4, 12 // groups), dtype)
    lengths = (7, 4) if variant == "dot" else (90, 50, 400, 9)
    try:
        conv = mlxconv.Conv1d(w, 1, 1, 1, groups, variant=variant)
        for L in lengths * 2:
            x = helpers.random_array(RNG, (2, L, 12), dtype)
            expected = mlxconv.conv1d(x, w, 1, 1, 1, groups, variant=variant)
            assert np.array_equal(conv(x), expected), L
    except ValueError as refused:  # complex numbers are pairs of channels
        assert variant == "depthwise" and dtype == "complex64", refused


@pytest.mark.parametrize("C_out", (1, 2, 5, 8, 16, 18, 33))
def test_layouts_of_packed_filters_do_not_mix(C_out):
    """Few filters are packed in phases, and how many depends on the length of the line."""
    w = helpers.integer_array(RNG, (C_out, 5, 3), np.float32)
    conv = mlxconv.Conv1d(w, padding=2)
    for L in (3, 8, 20, 40, 100, 1000, 20, 8):
        x = helpers.integer_array(RNG, (1, L, 3), np.float32)
        expected = helpers.reference(x, w, 1, 2, 2, dtype=np.int64)
        assert np.array_equal(conv(x), expected), L


def test_prepared_filters_are_its_own():
    w = W.copy()
    conv = mlxconv.Conv1d(w)
    expected = conv(X)
    w[:] = 0
    assert np.array_equal(conv(X), expected)
    with pytest.raises(ValueError, match="read-only"):
        conv.weight[0] = 1


def test_prepared_is_pickled():
    conv = mlxconv.Conv1d(W, stride=2, padding=(3, 1))
    expected = conv(X)
    copy = pickle.loads(pickle.dumps(conv))
    assert np.array_equal(copy(X), expected) and repr(copy) == repr(conv)
    assert "stride=2" in repr(conv) and "(21, 4, 12)" in repr(conv)


def test_prepared_in_threads():
    conv, wrong = mlxconv.Conv1d(W, padding=1), []
    inputs = [helpers.random_array(RNG, (1, L, 12), np.float32) for L in (20, 60, 200, 500)]
    expected = [mlxconv.conv1d(x, W, padding=1) for x in inputs]

    def work(i):
        for _ in range(50):
            if not np.array_equal(conv(inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i % 4,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (dict(weight=np.ones((3, 4))), ValueError, "Weight"),
        (dict(weight=W, groups=5), ValueError, "groups"),
        (dict(weight=W, stride=0), ValueError, "Stride"),
        (dict(weight=W, stride=1.0), TypeError, "stride takes an int"),
        (dict(weight=W, padding="around"), ValueError, "padding"),
    ],
)
def test_errors_do_not_wait_for_the_first_call(arguments, error, says):
    with pytest.raises(error, match=f"(?i){says}"):
        mlxconv.Conv1d(**arguments)


def test_errors_of_an_input():
    with pytest.raises(ValueError, match="channels"):
        mlxconv.Conv1d(W)(np.ones((1, 50, 5), np.float32))


@pytest.mark.parametrize("dtype", ("float32", "float16", "complex64"))
def test_out(dtype):
    x, w = X.astype(dtype), W.astype(dtype)
    expected = mlxconv.conv1d(x, w)
    out = np.full(expected.shape, np.nan, dtype)
    assert mlxconv.conv1d(x, w, out=out) is out and np.array_equal(out, expected)
    out[...] = np.nan
    assert mlxconv.Conv1d(w)(x, out=out) is out and np.array_equal(out, expected)
    assert mlxconv.conv_general(x, w, out=out) is out


SHAPE = (2, 87, 21)
MEMORY = np.zeros(10_000, np.float32)


@pytest.mark.parametrize(
    ("out", "error", "says"),
    [
        ([1.0], TypeError, "out takes a NumPy array, got list"),
        (np.empty((2, 87, 20), np.float32), ValueError, "out has shape"),
        (np.empty(SHAPE, np.float64), ValueError, "type float64, but the result"),
        (np.empty(SHAPE, ">f4"), ValueError, "out"),
        (np.empty((2, 87, 42), np.float32)[..., ::2], ValueError, "C-contiguous"),
        (np.broadcast_to(np.float32(0), SHAPE), ValueError, "read-only"),
        (MEMORY[: 2 * 87 * 21].reshape(SHAPE), ValueError, "out overlaps with input"),
    ],
)
def test_out_that_does_not_fit(out, error, says):
    x = MEMORY[2000 : 2000 + X.size].reshape(X.shape)
    with pytest.raises(error, match=says):
        mlxconv.conv1d(x, W, out=out)
    assert not MEMORY.any()


def large():
    """A result whose memory is worth keeping."""
    return recycling.array((1 << 18, 2), np.dtype(np.float32))


def test_memory_is_used_again_when_nobody_holds_it():
    recycling.forget()
    y = large()
    place = y.ctypes.data
    view = y[5:, ::-1].T
    del y
    assert large().ctypes.data != place, "a view still looks at it"
    recycling.forget()
    del view
    assert large().ctypes.data == place
    assert large()[:4].flags.writeable


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("shift", (0, 4, 5, 200, 1023))
def test_where_results_lie_in_a_page(transposed, shift):
    """Before their input, at the start of a cache line, lest its loads wait for their stores."""
    x = np.ones(160 * 128 + 1024, np.float32)[shift : shift + 160 * 128].reshape(1, 160, 128)
    w = np.ones((128, 3, 1), np.float32)
    call = mlxconv.conv_transpose1d if transposed else mlxconv.conv1d
    for _ in range(3):
        y = call(x, w, 1 + transposed, groups=128)
        before = (x.ctypes.data - y.ctypes.data) % recycling.PAGE_BYTES
        assert y.nbytes >= recycling.LEAST_BYTES and y.ctypes.data % 64 == 0
        assert 0 <= before - recycling.BEFORE_BYTES < 64


def test_addresses():
    """Also of arrays that are not contiguous."""
    x = np.zeros((4, 5, 6), np.complex64)
    for a in (x, x[1:], x[:, 2::2], x[::-1], x[0, 0, 3:], np.zeros(0)):
        assert addresses()(a) == a.ctypes.data


def test_the_memory_kept_is_limited():
    recycling.forget()
    sizes = [1 << power for power in range(13, 26)]
    results = [recycling.array((size + 100,), np.dtype("u1")) for size in sizes for _ in range(10)]
    del results
    assert 0 < recycling.idle_bytes() <= 100 << 20


def test_no_python_runs_when_a_result_dies():
    """An interrupt that is pending then belongs to the program."""
    ran = []
    y = large()
    sys.setprofile(lambda frame, event, _: ran.append((event, frame.f_code.co_name)))
    del y
    sys.setprofile(None)
    assert not [name for event, name in ran if event == "call"]
    assert recycling.idle_bytes()


def test_memory_of_a_result_is_never_shared():
    """Results of several threads, each checked after the others have come and gone."""
    w, wrong = np.ones((64, 1, 8), np.float32), []

    def work(value):
        for _ in range(20):
            y = mlxconv.conv1d(np.full((1, 5000, 8), value, np.float32), w)
            mlxconv.conv1d(np.zeros((1, 5000, 8), np.float32), w)
            if not (y == 8 * value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
