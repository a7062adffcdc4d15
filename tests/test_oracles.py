"""Living oracles: torch, MLX and JAX on random problems, and MLX's types and messages.

torch runs here, in float64.  MLX and JAX run in a process of their own, on files: MLX ends its
process on some inputs, and JAX minds being forked.  MLX is asked where it is right only.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

import mlxconv
from tests.helpers import KERNELS, accumulations, assert_within, magnitude, random_array
from tests.problems import DTYPES, random_cases

SEED = 20260401
TYPES = [(t, t) for t in DTYPES]
TYPES += [("float32", "float64"), ("float16", "bfloat16"), ("float64", "complex64")]


# ---------------------------------------------------------------- peers in a process of their own

# Run as: script folder.  Reads folder/calls.json, a list of [function, dtypes, parameters], and
# the arrays x0, w0, x1, ... of folder/arrays.npz; writes y0, ... and, to folder/said.json, the
# dtype of each result or the message of its error.
MLX = """
import json, sys
import numpy as np
import mlx.core as mx

folder = sys.argv[1]
arrays, results, said = np.load(folder + "/arrays.npz"), {}, []


def array(name, dtype):
    a = mx.array(arrays[name])
    return a.view(mx.bfloat16) if dtype == "bfloat16" else a


for i, (function, dtypes, named) in enumerate(json.load(open(folder + "/calls.json"))):
    print(i, function, dtypes, named, file=sys.stderr, flush=True)
    try:
        y = getattr(mx, function)(array(f"x{i}", dtypes[0]), array(f"w{i}", dtypes[1]), **named)
        mx.eval(y)
    except ValueError as error:
        said.append(str(error))
        continue
    said.append(str(y.dtype).removeprefix("mlx.core."))
    results[f"y{i}"] = np.array(y.astype(mx.float32))
np.savez(folder + "/results.npz", **results)
json.dump(said, open(folder + "/said.json", "w"))
"""

JAX = """
import json, sys
import numpy as np
import jax

jax.config.update("jax_enable_x64", True)
folder = sys.argv[1]
arrays, results = np.load(folder + "/arrays.npz"), {}
for i, (_, _, named) in enumerate(json.load(open(folder + "/calls.json"))):
    x, w = (np.moveaxis(arrays[f"{name}{i}"], -1, 1) for name in "xw")
    if named["flip"]:
        w = np.flip(w, tuple(range(2, w.ndim)))
    y = jax.lax.conv_general_dilated(
        x, w, named["stride"], list(zip(*named["padding"])), named["input_dilation"],
        named["kernel_dilation"], feature_group_count=named["groups"],
    )
    results[f"y{i}"] = np.moveaxis(np.asarray(y), 1, -1)
np.savez(folder + "/results.npz", **results)
json.dump(["" for _ in results], open(folder + "/said.json", "w"))
"""


def ask(script, folder, calls):
    """What `script` makes of [(function, x, w, named arguments)]: ([results], [what it said])."""
    arrays = {}
    for i, (_, x, w, _) in enumerate(calls):
        arrays |= {f"x{i}": as_stored(x), f"w{i}": as_stored(w)}
    np.savez(folder / "arrays.npz", **arrays)
    listed = [(function, (x.dtype.name, w.dtype.name), named) for function, x, w, named in calls]
    (folder / "calls.json").write_text(json.dumps(listed))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(folder)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"the peer ended with {done.returncode}: {done.stderr[-2000:]}"
    said, results = json.loads((folder / "said.json").read_text()), np.load(folder / "results.npz")
    return [results.get(f"y{i}") for i in range(len(calls))], said


def as_stored(a):
    return a.view(np.uint16) if a.dtype.name == "bfloat16" else a


def works(module):
    """Whether `module` is here and can be imported: it may be built for another processor."""
    if find_spec(module.partition(".")[0]) is None:
        return False
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def mlx():
    return MLX if works("mlx.core") else pytest.skip("mlx is not here, or does not load")


@pytest.fixture(scope="module")
def jax():
    return JAX if works("jax") else pytest.skip("jax is not here, or does not load")


def arguments(case):
    """The named arguments of conv_general, as JSON knows them."""
    return {
        "stride": case.stride,
        "padding": (case.padding_lo, case.padding_hi),
        "kernel_dilation": case.kernel_dilation,
        "input_dilation": case.input_dilation,
        "groups": case.groups,
        "flip": case.flip,
    }


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def data_of(case, seed, x_dtype, w_dtype):
    rng = np.random.default_rng((SEED, seed))
    x = random_array(rng, case.x_shape, dtype_of(x_dtype))
    return x, random_array(rng, case.w_shape, dtype_of(w_dtype))


def crops_a_dilated_input(case):
    """Where MLX crops before it dilates: JAX's rule is the right one."""
    return min(case.padding_lo + case.padding_hi) < 0 and max(case.input_dilation) > 1


def is_grouped_in_3d(case):
    return len(case.stride) == 3 and case.groups > 1


def mlx_is_right(case):
    return not crops_a_dilated_input(case) and not is_grouped_in_3d(case)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("types", TYPES, ids=" ".join)
def test_values_of_torch(types):
    """torch pads, dilates the input and flips by hand, and convolves in double precision."""
    pytest.importorskip("torch")
    for seed, case in enumerate(random_cases(50, SEED, ranks=(1, 2, 3))):
        x, w = data_of(case, seed, *types)
        sums = magnitude(x, w, *case.parameters)
        y, expected = case.run(x, w), in_torch(case, x, w)
        assert_within(y, expected, sums, accumulations(w), what=repr(case))


@pytest.mark.parametrize("variant", KERNELS)
def test_values_of_torch_from_every_variant(variant):
    pytest.importorskip("torch")
    ran = 0
    for seed, case in enumerate(random_cases(80, SEED, ranks=(1, 2, 3))):
        x, w = data_of(case, seed, "float32", "float32")
        try:
            y = case.run(x, w, variant=variant)
        except ValueError as refused:
            assert "cannot compute this problem" in str(refused)
            continue
        sums = magnitude(x, w, *case.parameters)
        assert_within(y, in_torch(case, x, w), sums, accumulations(w), what=repr(case))
        ran += 1
    assert ran > 0, "no problem for this variant among the random ones"


def in_torch(case, x, w):
    """The convolution in float64 or complex128."""
    import torch

    rank = len(case.stride)
    x, w = (torch.from_numpy(np.moveaxis(in_double(a), -1, 1).copy()) for a in (x, w))
    if x.is_complex() or w.is_complex():
        x, w = x.to(torch.complex128), w.to(torch.complex128)
    if case.flip:
        w = torch.flip(w, tuple(range(2, 2 + rank)))
    dilated = [1 + idil * (n - 1) for n, idil in zip(x.shape[2:], case.input_dilation, strict=True)]
    spread = torch.zeros((*x.shape[:2], *dilated), dtype=x.dtype)
    spread[(..., *(slice(None, None, idil) for idil in case.input_dilation))] = x
    ends = [n for lo_hi in zip(case.padding_lo, case.padding_hi, strict=True) for n in lo_hi[::-1]]
    padded = torch.nn.functional.pad(spread, ends[::-1])  # last axis first; negative ends crop
    convolve = getattr(torch.nn.functional, f"conv{rank}d")
    y = convolve(padded, w, None, case.stride, 0, case.kernel_dilation, case.groups)
    return np.moveaxis(y.numpy(), 1, -1)


def in_double(a):
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_of_mlx(mlx, tmp_path, dtype):
    cases = [c for c in random_cases(150, SEED + 1, ranks=(1, 2, 3)) if mlx_is_right(c)]
    calls = [
        ("conv_general", *data_of(case, seed, dtype, dtype), arguments(case))
        for seed, case in enumerate(cases)
    ]
    results, said = ask(mlx, tmp_path, calls)
    assert len(cases) > 80
    for case, (_, x, w, _), expected, dtype_said in zip(cases, calls, results, said, strict=True):
        y = case.run(x, w)
        assert y.dtype.name == dtype_said
        sums = magnitude(x, w, *case.parameters)
        expected = expected.astype(y.dtype)  # came as float32, without a loss
        assert_within(y, expected, sums, accumulations(w), what=repr(case))


def test_conv1d_of_mlx(mlx, tmp_path):
    """The same call, by the same names."""
    rng, calls = np.random.default_rng(SEED), []
    for _ in range(60):
        groups, L, K, stride, padding, dilation = rng.integers(1, [5, 60, 6, 4, 7, 4]).tolist()
        L += max(0, dilation * (K - 1) + 1 - L - 2 * padding)
        x = random_array(rng, (2, L, 3 * groups), np.float32)
        w = random_array(rng, (2 * groups, K, 3), np.float32)
        named = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        calls.append(("conv1d", x, w, named))
    results, _ = ask(mlx, tmp_path, calls)
    for (_, x, w, named), expected in zip(calls, results, strict=True):
        p = named["padding"]
        sums = magnitude(x, w, named["stride"], p, p, named["dilation"], 1, named["groups"])
        y = mlxconv.conv1d(x, w, **named)
        assert_within(y, expected, sums, accumulations(w), what=repr((x.shape, w.shape, named)))


def test_values_of_jax(jax, tmp_path):
    """In float64, where MLX is not right: cropped dilated inputs, groups in 3D."""
    cases = [c for c in random_cases(150, SEED + 2, ranks=(1, 2, 3)) if not mlx_is_right(c)][:30]
    assert sum(map(crops_a_dilated_input, cases)) > 10
    calls = [
        ("", *data_of(case, seed, "float64", "float64"), arguments(case))
        for seed, case in enumerate(cases)
    ]
    results, _ = ask(jax, tmp_path, calls)
    for case, (_, x, w, _), expected in zip(cases, calls, results, strict=True):
        sums = magnitude(x, w, *case.parameters)
        assert_within(case.run(x, w), expected, sums, accumulations(w), what=repr(case))


# ---------------------------------------------------------------- types and messages


def test_types_of_mlx(mlx, tmp_path):
    """What a pair of types gives; MLX has no true float64, and drops imaginary parts."""
    floats, others = ("float16", "bfloat16", "float32"), ("bool", "uint8", "int8", "int32", "int64")
    pairs = [(x, w) for x in floats for w in floats + others]
    ones = [(np.ones((1, 4, 2), dtype_of(x)), np.ones((3, 2, 2), dtype_of(w))) for x, w in pairs]
    _, said = ask(mlx, tmp_path, [("conv1d", x, w, {}) for x, w in ones])
    got = {pair: mlxconv.conv1d(*data).dtype.name for pair, data in zip(pairs, ones, strict=True)}
    assert got == dict(zip(pairs, said, strict=True))


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


# (function, input, weight, arguments): calls that both refuse, every ValueError MLX raises
REFUSED = {
    "an int32 input": ("conv1d", zeros(1, 5, 2, dtype=np.int32), zeros(3, 2, 2), {}),
    "a bool input": ("conv_general", zeros(1, 5, 2, dtype=bool), zeros(3, 2, 2), {}),
    "a weight of two axes": ("conv1d", zeros(1, 5, 2), zeros(3, 2), {}),
    "a weight of four axes": ("conv1d", zeros(1, 5, 2), zeros(3, 2, 2, 2), {}),
    "a weight of three axes in 2D": ("conv_general", zeros(1, 5, 5, 2), zeros(3, 2, 2), {}),
    "a weight of three axes in 3D": ("conv_general", zeros(1, 5, 5, 5, 2), zeros(3, 2, 2), {}),
    "channels by groups": ("conv1d", zeros(1, 5, 4), zeros(3, 2, 1), {"groups": 3}),
    "filters by groups": ("conv1d", zeros(1, 5, 4), zeros(3, 2, 2), {"groups": 2}),
    "channels": ("conv1d", zeros(1, 5, 3), zeros(3, 2, 2), {}),
    "channels in 2D": ("conv_general", zeros(1, 5, 5, 3), zeros(3, 2, 2, 2), {}),
    "channels of a group": ("conv1d", zeros(1, 5, 4), zeros(4, 2, 4), {"groups": 2}),
    "channels first": ("conv1d", zeros(1, 2, 5), zeros(3, 2, 2), {}),
    "no dilation": ("conv1d", zeros(1, 5, 2), zeros(3, 2, 2), {"dilation": 0}),
    "negative dilation": ("conv1d", zeros(1, 5, 2), zeros(3, 2, 2), {"dilation": -2}),
    "no dilation of an axis": (
        "conv_general",
        zeros(1, 5, 5, 2),
        zeros(3, 2, 2, 2),
        {"kernel_dilation": (1, 0)},
    ),
    "no input dilation": ("conv_general", zeros(1, 5, 2), zeros(3, 2, 2), {"input_dilation": 0}),
    "no stride": ("conv1d", zeros(1, 5, 2), zeros(3, 2, 2), {"stride": 0}),
    "negative strides": ("conv_general", zeros(1, 5, 5, 2), zeros(3, 2, 2, 2), {"stride": (1, -1)}),
    "a long window": ("conv1d", zeros(1, 5, 2), zeros(3, 6, 2), {}),
    "a long window, padded": ("conv1d", zeros(1, 5, 2), zeros(3, 10, 2), {"padding": 2}),
    "a long dilated window": ("conv1d", zeros(1, 5, 2), zeros(3, 3, 2), {"dilation": 3}),
    "a long window along one axis": (
        "conv_general",
        zeros(1, 9, 5, 2),
        zeros(3, 3, 7, 2),
        {"padding": ((0, 0), (0, 1))},
    ),
}


def test_messages_of_mlx(mlx, tmp_path):
    """Ours contain MLX's, word for word; hints may follow."""
    _, said = ask(mlx, tmp_path, list(REFUSED.values()))
    different = {}
    for (name, call), theirs in zip(REFUSED.items(), said, strict=True):
        function, x, w, named = call
        with pytest.raises(ValueError) as caught:
            getattr(mlxconv, function)(x, w, **named)
        ours = str(caught.value)
        if theirs.rstrip(".") not in ours or not theirs.startswith(("[conv]", "Given groups")):
            different[name] = (ours, theirs)
    assert different == {}
