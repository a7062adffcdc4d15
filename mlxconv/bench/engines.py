"""The libraries that are measured: ours, and each peer in the layouts that suit it.

An engine's function gets one problem and returns what competes for it, by layout: a call on data
that lies as the library likes it, and how its result is read as (N, L, C).  It is called in a
process of its own, and imports the library there.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlxconv.bench.shapes import Shape


class Contender(NamedTuple):
    """One way to compute the problem: the call to time, and its result as (N, L, C)."""

    call: Callable[[], Any]
    as_nlc: Callable[[Any], np.ndarray]


class Task(NamedTuple):
    """A problem with its data, (N, L, C_in) and (C_out, K, C_in / groups)."""

    shape: Shape
    x: np.ndarray
    w: np.ndarray
    threads: int

    @property
    def x_ncl(self) -> np.ndarray:
        return np.ascontiguousarray(self.x.transpose(0, 2, 1))

    @property
    def w_ock(self) -> np.ndarray:
        return np.ascontiguousarray(self.w.transpose(0, 2, 1))


Contenders = dict[str, Contender]


def _nlc_of_ncl(y: Any) -> np.ndarray:
    return np.asarray(y).transpose(0, 2, 1)


def ours(task: Task) -> Contenders:
    """mlxconv.conv1d, a plain call on NumPy arrays."""
    import mlxconv

    stream, s = mlxconv.Stream(task.threads), task.shape
    where = (s.stride, s.padding, s.dilation, s.groups)
    conv = mlxconv.conv1d
    return {"nlc": Contender(lambda: conv(task.x, task.w, *where, stream=stream), np.asarray)}


def torch(task: Task) -> Contenders:
    """conv1d on (N, C, L), on a view of (N, L, C), and conv2d of height 1 in channels_last."""
    t = importlib.import_module("torch")
    t.set_num_threads(task.threads)
    t.set_grad_enabled(False)
    s, F = task.shape, t.nn.functional
    ncl, nlc = t.from_numpy(task.x_ncl), t.from_numpy(task.x).transpose(1, 2)
    w = t.from_numpy(task.w_ock)
    flat, w_flat = nlc.unsqueeze(2), w.unsqueeze(2).contiguous(memory_format=t.channels_last)
    one, two = (s.stride, s.padding, s.dilation), ((1, s.stride), (0, s.padding), (1, s.dilation))
    return {
        "ncl": Contender(lambda: F.conv1d(ncl, w, None, *one, s.groups), _nlc_of_ncl),
        "nlc": Contender(lambda: F.conv1d(nlc, w, None, *one, s.groups), _nlc_of_ncl),
        "channels_last": Contender(
            lambda: F.conv2d(flat, w_flat, None, *two, s.groups),
            lambda y: _nlc_of_ncl(y.squeeze(2)),
        ),
    }


def onnxruntime(task: Task) -> Contenders:
    """A graph of one Conv on (N, C, L), its weights a constant that the session packs ahead."""
    ort, onnx = importlib.import_module("onnxruntime"), importlib.import_module("onnx")
    make, s, x = onnx.helper, task.shape, task.x_ncl
    kind = make.np_dtype_to_tensor_dtype(x.dtype)
    conv = make.make_node(
        "Conv",
        ("x", "w"),
        ("y",),
        kernel_shape=(s.K,),
        strides=(s.stride,),
        pads=(s.padding,) * 2,
        dilations=(s.dilation,),
        group=s.groups,
    )
    graph = make.make_graph(
        (conv,),
        "conv",
        (make.make_tensor_value_info("x", kind, x.shape),),
        (make.make_tensor_value_info("y", kind, None),),
        (onnx.numpy_helper.from_array(task.w_ock, "w"),),
    )
    model = make.make_model(graph, opset_imports=(make.make_opsetid("", 17),), ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=("CPUExecutionProvider",)
    )
    return {"ncl": Contender(lambda: session.run(None, {"x": x})[0], _nlc_of_ncl)}


def openvino(task: Task) -> Contenders:
    """A compiled model of one convolution on (N, C, L), constant weights, all of it in float32."""
    ov = importlib.import_module("openvino")
    ops = importlib.import_module("openvino.opset13")
    s, x, w = task.shape, task.x_ncl, task.w_ock
    source = ops.parameter(x.shape, x.dtype.type)
    geometry = ((s.stride,), (s.padding,), (s.padding,), (s.dilation,))
    if s.groups == 1:
        y = ops.convolution(source, ops.constant(w), *geometry)
    else:
        by_group = w.reshape(s.groups, s.C_out // s.groups, *w.shape[1:])
        y = ops.group_convolution(source, ops.constant(by_group), *geometry)
    settings = {"INFERENCE_NUM_THREADS": task.threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = {8: "f64", 2: "f16"}.get(x.itemsize, "f32")
    compiled = ov.Core().compile_model(ov.Model((y,), (source,)), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x))

    def call() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return {"ncl": Contender(call, _nlc_of_ncl)}


def jax(task: Task) -> Contenders:
    """conv_general_dilated on (N, W, C), compiled by jit."""
    library = importlib.import_module("jax")
    if task.x.dtype == np.float64:
        library.config.update("jax_enable_x64", True)
    s = task.shape

    @library.jit  # type: ignore[untyped-decorator, unused-ignore]
    def conv(x: Any, w: Any) -> Any:
        return library.lax.conv_general_dilated(
            x,
            w,
            window_strides=(s.stride,),
            padding=((s.padding, s.padding),),
            rhs_dilation=(s.dilation,),
            dimension_numbers=("NWC", "OWI", "NWC"),
            feature_group_count=s.groups,
        )

    x, w = library.numpy.asarray(task.x), library.numpy.asarray(task.w)
    return {"nwc": Contender(lambda: conv(x, w).block_until_ready(), np.asarray)}


def mlx(task: Task) -> Contenders:
    """mlx.core.conv1d on its CPU device, evaluated."""
    mx, s = importlib.import_module("mlx.core"), task.shape
    mx.set_default_device(mx.cpu)
    kind = getattr(mx, task.x.dtype.name)
    x, w = mx.array(task.x, dtype=kind), mx.array(task.w, dtype=kind)
    mx.eval(x, w)

    def call() -> Any:
        y = mx.conv1d(x, w, s.stride, s.padding, s.dilation, s.groups)
        mx.eval(y)
        return y

    return {"nlc": Contender(call, np.array)}


class Engine(NamedTuple):
    """What prepares the contenders of a library, and the modules it needs."""

    prepare: Callable[[Task], Contenders]
    modules: tuple[str, ...]


OURS = "mlxconv"
ENGINES = {
    OURS: Engine(ours, ()),
    "torch": Engine(torch, ("torch",)),
    "onnxruntime": Engine(onnxruntime, ("onnxruntime", "onnx")),
    "openvino": Engine(openvino, ("openvino",)),
    "jax": Engine(jax, ("jax",)),
    "mlx": Engine(mlx, ("mlx",)),
}
PEERS = tuple(name for name in ENGINES if name != OURS)


def installed(name: str) -> bool:
    """Whether the modules an engine needs are there; none is imported."""
    return all(importlib.util.find_spec(module) is not None for module in ENGINES[name].modules)


def version(name: str) -> str:
    """The version of an engine's library, as its package says."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "?"
