"""The backend tests for Conv and ConvTranspose that come with onnx, through mlxconv.

ONNX is channels-first and has a bias; its expected outputs are of float32 and were computed
elsewhere, so they carry an error of their own, which the bound allows for.
"""

import importlib
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import mlxconv
from tests.helpers import accumulations, assert_within, magnitude

onnx = pytest.importorskip("onnx")
loader = pytest.importorskip("onnx.backend.test.loader")


class ConvCase(NamedTuple):
    """A graph that is one node: its attributes, its inputs and its output, channels first."""

    attributes: dict
    inputs: list
    output: np.ndarray


def generated_cases(op="Conv"):
    """The tests of single nodes.  Made by code: that of other nodes takes seconds, hence is left
    alone where the list can be had without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        importlib.import_module(f"onnx.backend.test.case.node.{op.lower()}")
        known = getattr(node, "_NodeTestCases", None) or node.collect_testcases(op)
    for case in known:
        if is_one(op, case.model):
            for inputs, outputs in case.data_sets:
                yield case.name, ConvCase(attributes_of(case.model), inputs, outputs[0])


def stored_cases(op="Conv"):
    """Models exported from PyTorch, with their weights among the inputs."""
    for kind in ("pytorch-converted", "pytorch-operator"):
        for case in loader.load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            if not is_one(op, model):
                continue
            constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
            given = [i.name for i in model.graph.input if i.name not in constants]
            for data in sorted(folder.glob("test_data_set_*")):
                arrays = {name: tensor(data / f"input_{i}.pb") for i, name in enumerate(given)}
                values = {**constants, **arrays}
                inputs = [values[name] for name in model.graph.node[0].input]
                yield (
                    case.name,
                    ConvCase(attributes_of(model), inputs, tensor(data / "output_0.pb")),
                )


def is_one(op, model):
    return [node.op_type for node in model.graph.node] == [op]


def attributes_of(model):
    attributes = model.graph.node[0].attribute
    return {a.name: onnx.helper.get_attribute_value(a) for a in attributes}


def tensor(path):
    return onnx.numpy_helper.to_array(onnx.load_tensor(path))


CASES = dict([*generated_cases(), *stored_cases()])
TRANSPOSED = dict([*generated_cases("ConvTranspose"), *stored_cases("ConvTranspose")])


def padding_of(attributes, L, K, stride, dilation):
    """(lo, hi) per axis, from `pads` or `auto_pad`."""
    rank = len(L)
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        pads = attributes.get("pads", [0] * 2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * rank
    assert auto in ("SAME_UPPER", "SAME_LOWER")
    pairs = []
    for n, k, s, d in zip(L, K, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return pairs


def calls(rank, stride, padding, dilation, groups):
    """(function, arguments) of each public function that can say this: conv1d, ... if there is
    one for this rank, and conv_general."""
    lo, hi = zip(*padding, strict=True)
    yield mlxconv.conv_general, (stride, (lo, hi), dilation, 1, groups)
    if rank == 1:
        yield mlxconv.conv1d, (stride[0], padding[0], dilation[0], groups)
    elif function := getattr(mlxconv, f"conv{rank}d", None):
        yield function, (stride, padding, dilation, groups)


@pytest.mark.parametrize("name", sorted(CASES))
def test_conv(name):
    attributes, inputs, output = CASES[name]
    x, w = (np.moveaxis(a, 1, -1) for a in inputs[:2])
    rank = x.ndim - 2
    ones = [1] * rank
    stride = tuple(attributes.get("strides", ones))
    dilation = tuple(attributes.get("dilations", ones))
    groups = attributes.get("group", 1)
    padding = padding_of(attributes, x.shape[1:-1], w.shape[1:-1], stride, dilation)
    lo, hi = zip(*padding, strict=True)
    bias = inputs[2].astype(np.float64) if len(inputs) > 2 else np.zeros(len(w))
    sums = magnitude(x, w, stride, lo, hi, dilation, 1, groups) + np.abs(bias)
    expected = np.moveaxis(output, 1, -1)
    for function, arguments in calls(rank, stride, padding, dilation, groups):
        y = function(x, w, *arguments)
        assert y.dtype == x.dtype
        assert_within(y + bias, expected, sums, accumulations(w) + 1, y.dtype, function.__name__)


def test_there_are_cases_of_every_kind():
    """Nothing above ran in vain: one, two and three axes, made and stored ones, all attributes."""
    ranks = [case.inputs[0].ndim - 2 for case in CASES.values()]
    assert ranks.count(1) >= 7 and ranks.count(2) >= 10 and ranks.count(3) >= 5
    assert "test_Conv1d_groups" in CASES and "test_basic_conv_with_padding" in CASES
    used = set().union(*(case.attributes for case in CASES.values()))
    assert used >= {"pads", "strides", "dilations", "group", "auto_pad"}


def transposed_padding(attributes, L, window, stride, extra):
    """Rows cut off at both ends per axis, from `pads`, `output_shape` or `auto_pad`."""
    rank, auto = len(L), attributes.get("auto_pad", b"NOTSET").decode()
    wanted = attributes.get("output_shape")
    if auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(L, stride, strict=True)]
    if wanted is None:
        pads = attributes.get("pads", [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    sizes = zip(L, window, stride, extra, wanted, strict=True)
    total = [s * (n - 1) + e + k - out for n, k, s, e, out in sizes]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


@pytest.mark.parametrize("name", sorted(TRANSPOSED))
def test_conv_transpose(name):
    attributes, inputs, output = TRANSPOSED[name]
    x, w = np.moveaxis(inputs[0], 1, -1), inputs[1]  # filters (C, O / groups, ...)
    rank, groups = x.ndim - 2, attributes.get("group", 1)
    C, O, K = x.shape[-1], w.shape[1] * groups, w.shape[2:]
    w = np.moveaxis(w.reshape(groups, C // groups, O // groups, *K), 1, -1).reshape(O, *K, -1)
    stride, dilation, extra = (
        tuple(attributes.get(key, [value] * rank))
        for key, value in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    window = [d * (k - 1) + 1 for d, k in zip(dilation, K, strict=True)]
    start, end = transposed_padding(attributes, x.shape[1:-1], window, stride, extra)
    lo = tuple(k - 1 - p for k, p in zip(window, start, strict=True))
    hi = tuple(k - 1 - p + e for k, p, e in zip(window, end, extra, strict=True))
    general = (1, (lo, hi), dilation, stride, groups, True)
    bias = inputs[2].astype(np.float64) if len(inputs) > 2 else np.zeros(O)
    sums = magnitude(x, w, 1, lo, hi, dilation, stride, groups, True) + np.abs(bias)
    results = [mlxconv.conv_general(x, w, *general)]
    if list(start) == list(end):
        function = getattr(mlxconv, f"conv_transpose{rank}d")
        call = (stride, tuple(start), dilation, extra)
        call = call if rank > 1 else tuple(v[0] for v in call)
        results.append(function(x, w, *call, groups))
    for y in results:
        assert y.dtype == x.dtype
        expected = np.moveaxis(output, 1, -1)
        assert_within(y + bias, expected, sums, accumulations(w) + 1, y.dtype, name)


def test_there_are_transposed_cases_of_every_kind():
    assert {case.inputs[0].ndim - 2 for case in TRANSPOSED.values()} == {1, 2, 3}
    used = set().union(*(case.attributes for case in TRANSPOSED.values()))
    assert used >= {"pads", "strides", "dilations", "group", "output_padding", "auto_pad"}
