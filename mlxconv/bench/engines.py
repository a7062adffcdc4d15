"""The libraries that are measured: ours, and each peer in the layouts that suit it.

An engine's function gets one problem and returns what competes for it, by layout: a call on data
that lies as the library likes it, and how its result is read as (N, ..., C).  It is called in a
process of its own, and imports the library there.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlxconv.bench.shapes import Shape


class Contender(NamedTuple):
    """One way to compute the problem: the call to time, and its result as (N, ..., C)."""

    call: Callable[[], Any]
    as_nlc: Callable[[Any], np.ndarray]


class Task(NamedTuple):
    """A problem with its data, (N, ..., C_in) and (C_out, ..., C_in / groups)."""

    shape: Shape
    x: np.ndarray
    w: np.ndarray
    threads: int
    gradient: str = ""  # by "input" or "weight", if it is that which is computed

    @property
    def x_ncl(self) -> np.ndarray:
        """Channels before positions, as most peers have it."""
        return np.ascontiguousarray(np.moveaxis(self.x, -1, 1))

    @property
    def w_ock(self) -> np.ndarray:
        """Channels before taps; those of the input first if the convolution is transposed."""
        w = np.moveaxis(self.w, -1, 1)
        return np.ascontiguousarray(np.swapaxes(w, 0, 1) if self.shape.transposed else w)


Contenders = dict[str, Contender]


def _nlc_of_ncl(y: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(y), 1, -1)


def ours(task: Task) -> Contenders:
    """mlxconv's function, a plain call on NumPy arrays."""
    import mlxconv

    stream = mlxconv.Stream(task.threads)
    return {"nlc": Contender(task.shape.call(task.x, task.w, stream=stream), np.asarray)}


def torch(task: Task) -> Contenders:
    """On (N, C, ...) and on channels last: of conv1d both a view, and conv2d of height 1."""
    t = importlib.import_module("torch")
    t.set_num_threads(task.threads)
    t.set_grad_enabled(False)
    s = task.shape
    ncl, w = t.from_numpy(task.x_ncl), t.from_numpy(task.w_ock)
    found = {"ncl": _of_torch(t, s, ncl, w)}
    if s.rank == 1:
        found["nlc"] = _of_torch(t, s, t.from_numpy(task.x).transpose(1, 2), w)
        s = s._replace(
            L=(1, *s.per_axis("L")),
            K=(1, *s.per_axis("K")),
            stride=(1, *s.per_axis("stride")),
            padding=(0, *s.per_axis("padding")),
            dilation=(1, *s.per_axis("dilation")),
        )
        ncl, w = ncl.unsqueeze(2), w.unsqueeze(2)
    last = t.channels_last if s.rank == 2 else t.channels_last_3d
    x_last, w_last = (a.contiguous(memory_format=last) for a in (ncl, w))
    flat = task.shape.rank == 1
    found["channels_last"] = _of_torch(t, s, x_last, w_last, flat)
    return found


def _of_torch(t: Any, s: Shape, x: Any, w: Any, flat: bool = False) -> Contender:
    """torch's function for `s`; `flat` results have a height of 1 too many."""
    function = getattr(t.nn.functional, s.function)
    where = [s.per_axis(name) for name in ("stride", "padding", "dilation")]
    if s.transposed:
        stride, padding, dilation = where
        rest: tuple[Any, ...] = (None, stride, padding, 0, s.groups, dilation)
    else:
        rest = (None, *where, s.groups)
    return Contender(
        lambda: function(x, w, *rest), lambda y: _nlc_of_ncl(y.squeeze(2) if flat else y)
    )


def onnxruntime(task: Task) -> Contenders:
    """A graph of one node on (N, C, ...), its weights a constant that the session packs ahead."""
    ort, onnx = importlib.import_module("onnxruntime"), importlib.import_module("onnx")
    make, s, x = onnx.helper, task.shape, task.x_ncl
    kind = make.np_dtype_to_tensor_dtype(x.dtype)
    conv = make.make_node(
        "ConvTranspose" if s.transposed else "Conv",
        ("x", "w"),
        ("y",),
        kernel_shape=s.per_axis("K"),
        strides=s.per_axis("stride"),
        pads=s.per_axis("padding") * 2,
        dilations=s.per_axis("dilation"),
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
    """A compiled model of one convolution on (N, C, ...), constant weights, all in one type."""
    ov = importlib.import_module("openvino")
    ops = importlib.import_module("openvino.opset13")
    s, x, w = task.shape, task.x_ncl, task.w_ock
    source = ops.parameter(x.shape, x.dtype.type)
    stride, padding, dilation = (s.per_axis(name) for name in ("stride", "padding", "dilation"))
    if s.transposed:
        y = ops.convolution_backprop_data(
            source, ops.constant(w), stride, None, padding, padding, dilation
        )
    elif s.groups == 1:
        y = ops.convolution(source, ops.constant(w), stride, padding, padding, dilation)
    else:
        by_group = ops.constant(w.reshape(s.groups, s.C_out // s.groups, *w.shape[1:]))
        y = ops.group_convolution(source, by_group, stride, padding, padding, dilation)
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
    """conv_general_dilated on (N, ..., C), compiled by jit."""
    library = importlib.import_module("jax")
    if task.x.dtype == np.float64:
        library.config.update("jax_enable_x64", True)
    s, p = task.shape, task.shape.problem()
    axes = "DHW"[-s.rank :]
    w = np.flip(task.w, tuple(range(1, s.rank + 1))) if s.transposed else task.w

    @library.jit  # type: ignore[untyped-decorator, unused-ignore]
    def conv(x: Any, w: Any) -> Any:
        return library.lax.conv_general_dilated(
            x,
            w,
            window_strides=p.stride,
            padding=tuple(zip(p.padding_lo, p.padding_hi, strict=True)),
            lhs_dilation=p.input_dilation,
            rhs_dilation=p.kernel_dilation,
            dimension_numbers=(f"N{axes}C", f"O{axes}I", f"N{axes}C"),
            feature_group_count=s.groups,
        )

    x, w = library.numpy.asarray(task.x), library.numpy.asarray(w)
    return {"nlc": Contender(lambda: conv(x, w).block_until_ready(), np.asarray)}


def mlx(task: Task) -> Contenders:
    """The function of mlx.core on its CPU device, evaluated."""
    mx, s = importlib.import_module("mlx.core"), task.shape
    mx.set_default_device(mx.cpu)
    kind = getattr(mx, task.x.dtype.name)
    x, w = mx.array(task.x, dtype=kind), mx.array(task.w, dtype=kind)
    mx.eval(x, w)
    function = getattr(mx, s.function)

    def call() -> Any:
        y = function(x, w, **s.parameters)
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
