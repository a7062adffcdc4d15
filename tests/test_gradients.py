"""Gradients: against finite differences in exact integers, torch's autograd and MLX's vjp."""

import numpy as np
import pytest
from hypothesis import given, settings

import mlxconv
from mlxconv import gradients, weight_gradient
from mlxconv.kernels import outer, outer_grouped
from tests.helpers import integer_array, random_array
from tests.problems import cases


def forget():
    """How gradients by the filters are computed, so that it is decided anew."""
    gradients._known_by_weight.cache_clear()
    weight_gradient.sums_of.cache_clear()


def inner(a, b):
    return int((a.astype(np.int64) * b.astype(np.int64)).sum())


@settings(deadline=None)
@given(cases(ranks=(1, 2, 3)))
def test_adjoint(case):
    """A convolution is linear in x and in w, so <y, dy> = <x, dx> = <w, dw>, for any dy; with
    integers to the last bit."""
    rng = np.random.default_rng(0)
    x, w = case.data(rng, "float64")
    y = case.run(x, w)
    dy = integer_array(rng, y.shape, "float64")
    steps = (case.stride, (case.padding_lo, case.padding_hi), *case[5:])
    dx = mlxconv.conv_general_input_grad(dy, w, x.shape, *steps)
    dw = mlxconv.conv_general_weight_grad(x, dy, w.shape, *steps)
    assert dx.shape == x.shape and dw.shape == w.shape
    assert inner(y, dy) == inner(x, dx) == inner(w, dw)
    for a, da, run in ((x, dx, lambda a: case.run(a, w)), (w, dw, lambda a: case.run(x, a))):
        for i in rng.integers(0, max(1, a.size), min(3, a.size)):  # ... and for any x and w
            step = np.zeros_like(a)
            step.flat[i] = 1
            assert inner(run(step), dy) == da.flat[i]


@pytest.mark.parametrize("dtype", ("f4", "f8"))
@pytest.mark.parametrize("filters", (4, 6, 64))
@pytest.mark.parametrize(
    ("stride", "dilation"),
    (((2, 2), (2, 1)), ((2, 2), (2, 11)), ((1, 2), (1, 1)), ((3, 2), (3, 3))),
)
def test_filters_of_groups_are_read_where_they_lie(stride, dilation, filters, dtype):
    """Phases along one axis that take all of its taps, along the other every second."""
    rng = np.random.default_rng(2)
    x = integer_array(rng, (2, 8, 60, 64), dtype)
    w = integer_array(rng, (filters, 2, 3, 32), dtype)
    y = mlxconv.conv_general(x, w, stride, 11, dilation, groups=2)
    dy = integer_array(rng, y.shape, dtype)
    dx = mlxconv.conv_general_input_grad(dy, w, x.shape, stride, 11, dilation, groups=2)
    assert inner(y.astype("f8"), dy) == inner(x.astype("f8"), dx)


def test_pieces_do_not_change_sums(monkeypatch):
    rng = np.random.default_rng(1)
    x, w = integer_array(rng, (3, 50, 9, 4), "f4"), integer_array(rng, (40, 3, 2, 2), "f4")
    y = mlxconv.conv_general(x, w, 2, 1, groups=2)
    dy = integer_array(rng, y.shape, "f4")
    whole = mlxconv.conv_general_weight_grad(x, dy, w.shape, 2, 1, groups=2)
    for positions, jobs, pieces in ((1, 5, 5), (7, 100, 26), (64, 1, 1), (5000, 64, 1)):
        monkeypatch.setattr(outer, "POSITIONS", positions)
        monkeypatch.setattr(outer, "WORTH_A_PIECE", 4 * positions)
        monkeypatch.setattr(outer, "JOBS", jobs)
        forget()
        again = mlxconv.conv_general_weight_grad(x, dy, w.shape, 2, 1, groups=2)
        p = mlxconv.explain(x, w, 2, 1, groups=2).problem
        assert weight_gradient.sums_of(p, "outer").pieces >= min(pieces, 2)
        assert np.array_equal(again, whole)
    forget()


DEPTHWISE = [  # extents, channels, filters of each, taps, parameters
    ((9,), 8, 1, (3,), {"padding": 1}),
    ((40,), 20, 1, (4,), {"padding": 3}),
    ((700,), 24, 1, (7,), {"padding": 3, "kernel_dilation": 2}),
    ((14, 14), 96, 1, (3, 3), {"padding": 1}),
    ((14, 15), 100, 1, (3, 5), {"stride": 2, "padding": (1, 2)}),
    ((7, 7), 5, 1, (3, 3), {"padding": 1}),
    ((8, 9), 6, 3, (3, 2), {"padding": (2, 0)}),
    ((8, 19), 8, 2, (3, 2), {"stride": (1, 2), "kernel_dilation": (2, 1)}),
    ((5, 5), 128, 1, (7, 7), {"padding": 3}),
    ((30, 6), 64, 1, (3, 3), {"padding": (9, 1), "kernel_dilation": (9, 1)}),
    ((4, 6, 9), 16, 1, (3, 3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("L", "C", "multiplier", "K", "parameters"), DEPTHWISE)
def test_depthwise_sums(L, C, multiplier, K, parameters, monkeypatch):
    """Exact, and the same from the kernel of all groups, however the work is shared out."""
    rng = np.random.default_rng(8)
    for dtype, N in (("f4", 3), ("f8", 1), ("f2", 2)):
        x, shape = integer_array(rng, (N, *L, C), dtype, 2), (C * multiplier, *K, 1)
        y = mlxconv.conv_general(x, np.zeros(shape, dtype), groups=C, **parameters)
        dy = integer_array(rng, y.shape, dtype, 2)

        def sums(x=x, dy=dy, shape=shape):
            forget()
            return mlxconv.conv_general_weight_grad(x, dy, shape, groups=C, **parameters)

        results = [sums()]
        with monkeypatch.context() as m:
            for jobs, strip, positions, channels in ((1, 1, 5, 8), (9, 1 << 14, 100, 16)):
                m.setattr(outer_grouped, "JOBS", jobs)
                m.setattr(outer, "STRIP_BYTES", strip)
                m.setattr(outer_grouped, "POSITIONS", positions)
                m.setattr(outer_grouped, "CHANNELS", channels)
                m.setattr(outer_grouped, "JOB_FLOP", 1)
                results.append(sums())
            m.setattr(outer_grouped, "schedule", outer.schedule)
            results.append(sums())
        forget()
        for other in results[1:]:
            assert np.array_equal(results[0], other)


@pytest.mark.parametrize(
    ("C", "O", "groups"),
    ((16, 16, 4), (12, 24, 4), (24, 8, 8), (40, 5, 5), (30, 18, 6), (4, 20, 4)),
)
@pytest.mark.parametrize("bad", (0, np.inf))
def test_narrow_groups(C, O, groups, bad, monkeypatch):
    """Over groups and group by group: exact, and infinities go where they went."""
    rng = np.random.default_rng(10)
    for L, K, parameters in (((50,), (3,), {}), ((9, 14), (3, 2), {"stride": 2, "padding": 1})):
        x, shape = integer_array(rng, (2, *L, C), "f4"), (O, *K, C // groups)
        y = mlxconv.conv_general(x, np.zeros(shape, "f4"), groups=groups, **parameters)
        dy = integer_array(rng, y.shape, "f4")
        dy.flat[0] += bad
        results = []
        for over_groups in (True, False):
            with monkeypatch.context() as m:
                if not over_groups:
                    m.setitem(weight_gradient.KERNELS, "outer_grouped", outer)
                forget()
                sums = mlxconv.conv_general_weight_grad(x, dy, shape, groups=groups, **parameters)
            results.append(sums)
        forget()
        for other in results[1:]:
            assert np.array_equal(results[0], other, equal_nan=True)
        assert np.isfinite(results[0]).all() == (bad == 0)


@pytest.mark.parametrize("shape", ((20, 3, 24), (16, 3, 2, 33), (12, 2, 1, 3, 16)))
@pytest.mark.parametrize(("stride", "groups"), ((1, 1), (2, 1), (1, 2), (2, 4)))
def test_filters_are_packed_as_they_lie(shape, stride, groups, monkeypatch):
    """Filters and channels change places without a copy: in one launch, and part by part."""
    rng, rank = np.random.default_rng(9), len(shape) - 2
    x = integer_array(rng, (2, *(9,) * rank, shape[-1] * groups), "f4")
    w, q = integer_array(rng, shape, "f4"), {"stride": stride, "padding": 1, "groups": groups}
    dy = integer_array(rng, mlxconv.conv_general(x, w, **q).shape, "f4")
    at_once = mlxconv.conv_general_input_grad(dy, w, x.shape, **q)
    apart = np.repeat(dy, 2, axis=-1)[..., ::2]  # not contiguous, so that parts are launched apart
    copied = mlxconv.conv_general_input_grad(apart, w, x.shape, **q)
    monkeypatch.setattr(mlxconv.plan, "TURNED_BYTES", 0)
    monkeypatch.setattr(mlxconv.plan, "FILTERS_BYTES", 0)
    read = mlxconv.conv_general_input_grad(apart, w, x.shape, **q)
    assert np.array_equal(read, copied) and np.array_equal(read, at_once)


@pytest.mark.parametrize("groups", (1, 2, 4))
@pytest.mark.parametrize(("stride", "input_dilation"), ((1, 1), (2, 1), (1, 2), (2, 3)))
def test_infinite_gradients_meet_no_zero_that_is_none_of_the_data(groups, stride, input_dilation):
    rng = np.random.default_rng(2)
    x, w = integer_array(rng, (2, 9, 4), "f4"), integer_array(rng, (4, 3, 4 // groups), "f4")
    q = {"stride": stride, "padding": 2, "input_dilation": input_dilation, "groups": groups}
    y = mlxconv.conv_general(x, w, **q)
    dy = integer_array(rng, y.shape, "f4")
    dy[0, 0, 1], dy[1, -1, 2] = np.inf, -np.inf
    found = mlxconv.conv_general_weight_grad(x, dy, w.shape, **q)
    expected = np.zeros(w.shape, np.float64)
    for n, l, o, k in np.ndindex(2, y.shape[1], 4, 3):
        row, rest = divmod(l * stride - 2 + k, input_dilation)
        if rest == 0 and 0 <= row < 9:
            c0 = o // (4 // groups) * (4 // groups)
            with np.errstate(invalid="ignore"):
                expected[o, k] += np.float64(dy[n, l, o]) * x[n, row, c0 : c0 + 4 // groups]
    assert np.array_equal(found, expected, equal_nan=True) and np.isinf(found).any()


THIN = [
    ("conv1d", (2, 1, 2, 2)),
    ("conv2d", ((2, 1), (0, 1), 1, 1)),
    ("conv3d", (1, 1, 1, 2)),
    ("conv_transpose1d", (3, 1, 2, 2, 2)),
    ("conv_transpose2d", (2, 1, 1, (1, 0), 1)),
    ("conv_transpose3d", (2, 0, 1, 0, 4)),
]


def problem(name, call, dtype=np.float64):
    rng = np.random.default_rng(5)
    rank, groups = int(name[-2]), call[-1]
    x = random_array(rng, (2, *(7,) * rank, 8), dtype)
    w = random_array(rng, (12, *(3,) * rank, 8 // groups), dtype)
    y = getattr(mlxconv, name)(x, w, *call)
    return x, w, random_array(rng, y.shape, dtype)


@pytest.mark.parametrize("name, call", THIN)
def test_thin_forms_and_vjp(name, call):
    x, w, dy = problem(name, call)
    fn = getattr(mlxconv, name)
    dx = getattr(mlxconv, f"{name}_input_grad")(dy, w, x.shape, *call)
    dw = getattr(mlxconv, f"{name}_weight_grad")(x, dy, w.shape, *call)
    (y,), (vx, vw) = mlxconv.vjp(lambda x, w: fn(x, w, *call), [x, w], [dy])
    assert np.array_equal(y, fn(x, w, *call))
    assert np.array_equal(vx, dx) and np.array_equal(vw, dw)
    rng = np.random.default_rng(6)
    tx, tw = random_array(rng, x.shape, "f8"), random_array(rng, w.shape, "f8")
    _, (ty,) = mlxconv.jvp(lambda x, w: fn(x, w, *call), [x, w], [tx, tw])
    assert np.isclose((ty * dy).sum(), (dx * tx).sum() + (dw * tw).sum(), rtol=1e-10)
    epsilon = 1e-6
    ahead, behind = (fn(x + e * tx, w + e * tw, *call) for e in (epsilon, -epsilon))
    assert np.allclose(ty, (ahead - behind) / (2 * epsilon), atol=1e-6)


@pytest.mark.parametrize("name, call", THIN)
def test_against_torch(name, call):
    torch = pytest.importorskip("torch")
    x, w, dy = problem(name, call)
    rank, groups = int(name[-2]), call[-1]
    tx = torch.from_numpy(x).requires_grad_()
    tw = torch.from_numpy(w).requires_grad_()
    first, filters = tx.movedim(-1, 1), tw.movedim(-1, 1)
    if "transpose" in name:
        stride, padding, dilation, extra, _ = call
        filters = filters.reshape(groups, w.shape[0] // groups, *filters.shape[1:])
        filters = filters.transpose(1, 2).reshape(8, w.shape[0] // groups, *w.shape[1:-1])
        run = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        y = run(first, filters, None, stride, padding, extra, groups, dilation)
    else:
        run = getattr(torch.nn.functional, f"conv{rank}d")
        y = run(first, filters, None, *call)
    y.backward(torch.from_numpy(dy).movedim(-1, 1))
    _, (dx, dw) = mlxconv.vjp(lambda x, w: getattr(mlxconv, name)(x, w, *call), [x, w], [dy])
    assert np.allclose(dx, tx.grad.numpy(), rtol=1e-11, atol=1e-11)
    assert np.allclose(dw, tw.grad.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name, call", [THIN[0], THIN[1]])
def test_against_mlx(name, call):
    mx = pytest.importorskip("mlx.core")
    if call[-1] > 1:
        call = (*call[:-1], 1)
    x, w, dy = problem(name, call, np.float32)
    call_mx = tuple(tuple(v) if isinstance(v, tuple) else v for v in call)
    given = [mx.array(a) for a in (x, w, dy)]
    with mx.stream(mx.cpu):
        _, expected = mx.vjp(lambda x, w: getattr(mx, name)(x, w, *call_mx), given[:2], given[2:])
        expected = [np.array(a) for a in expected]
    _, found = mlxconv.vjp(lambda x, w: getattr(mlxconv, name)(x, w, *call), [x, w], [dy])
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32 and np.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_two_convolutions_and_a_weight_used_twice():
    rng = np.random.default_rng(7)
    x, w = (random_array(rng, s, "f8") for s in ((1, 20, 4), (4, 3, 4)))
    _, (dx, dw) = mlxconv.vjp(
        lambda x, w: mlxconv.conv1d(mlxconv.conv1d(x, w, 2), w), [x, w], [np.ones((1, 7, 4))]
    )
    h = mlxconv.conv1d(x, w, 2)
    dh = mlxconv.conv1d_input_grad(np.ones((1, 7, 4)), w, h.shape)
    assert np.allclose(dx, mlxconv.conv1d_input_grad(dh, w, x.shape, 2))
    expected = mlxconv.conv1d_weight_grad(h, np.ones((1, 7, 4)), w.shape)
    assert np.allclose(dw, expected + mlxconv.conv1d_weight_grad(x, dh, w.shape, 2))


def test_constants_have_no_gradient_and_unused_arguments_zero():
    x, w = np.ones((1, 5, 2)), np.ones((3, 2, 2))
    _, (dx, du) = mlxconv.vjp(lambda x, u: mlxconv.conv1d(x, w), [x, w], [np.ones((1, 4, 3))])
    assert dx.any() and du.shape == w.shape and not du.any()


@pytest.mark.parametrize("dtype", ("float16", "float32"))
def test_gradients_have_the_types_of_the_primals(dtype):
    x, w, dy = (np.ones(s, dtype) for s in ((2, 300, 8), (8, 3, 8), (2, 298, 8)))
    _, grads = mlxconv.vjp(mlxconv.conv1d, [x, w], [dy])
    assert [g.dtype for g in grads] == [dtype, dtype]
    assert (grads[1] == 596).all()  # sums of half types are rounded once


def test_errors():
    x, w, dy = np.ones((1, 5, 2)), np.ones((3, 2, 2)), np.ones((1, 4, 3))
    with pytest.raises(ValueError, match=r"cotangent has shape \(1, 4, 2\)"):
        mlxconv.conv1d_input_grad(dy[..., :2], w, x.shape)
    with pytest.raises(TypeError, match="input_shape takes a tuple of ints"):
        mlxconv.conv1d_input_grad(dy, w, 5)
    with pytest.raises(TypeError, match="complex"):
        mlxconv.conv1d_weight_grad(x + 0j, dy, w.shape)
    with pytest.raises(TypeError):
        mlxconv.vjp(lambda x: mlxconv.conv1d(x * 2, w), [x], [dy])
    with pytest.raises(TypeError, match="only mlxconv's own"):
        mlxconv.vjp(lambda x: mlxconv.conv1d(np.tanh(np.asarray(x)), w), [x], [dy])
    with pytest.raises(TypeError, match="fn returned ndarray"):
        mlxconv.vjp(lambda x: dy, [x], [dy])
    with pytest.raises(ValueError, match="1 results, but there are 2"):
        mlxconv.vjp(lambda x: mlxconv.conv1d(x, w), [x], [dy, dy])
    with pytest.raises(ValueError, match="a cotangent has shape"):
        mlxconv.vjp(lambda x: mlxconv.conv1d(x, w), [x], [dy[:, 1:]])
    with pytest.raises(ValueError, match="a tangent has shape"):
        mlxconv.jvp(lambda x: mlxconv.conv1d(x, w), [x], [dy])


def test_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(8)
    x, w = random_array(rng, (4, 2000, 32), "f4"), random_array(rng, (48, 5, 32), "f4")
    dy = random_array(rng, (4, 1996, 48), "f4")
    one, two = (
        mlxconv.conv1d_weight_grad(x, dy, w.shape, stream=mlxconv.Stream(threads=n)) for n in (1, 2)
    )
    assert one.tobytes() == two.tobytes()
