"""patch_mlx: MLX's own convolutions on the CPU, computed by mlxconv."""

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

import mlxconv

TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_general", *TRANSPOSED)


def patch_mlx() -> "Patch":
    """Let ``mlx.core``'s convolutions on the CPU be computed by mlxconv.

    ``mx.conv1d/2d/3d``, ``mx.conv_general``, ``mx.conv_transpose1d/2d/3d`` and ``mx.convolve`` are
    replaced in ``mlx.core``, and with them what ``mlx.nn`` computes.  Calls on a GPU, of types that
    mlxconv does not take, and inside ``mx.compile`` and ``mx.vmap``, where arrays have no data
    yet, go to MLX as before.  Gradients (``mx.grad``, ``mx.vjp``) are mlxconv's too.

    Returns
    -------
    Patch
        Call its ``undo()``, or use it in a ``with`` statement, to get MLX's functions back.

    Raises
    ------
    ImportError
        If MLX is not installed.

    Notes
    -----
    A patched convolution is computed when it is called, not when its result is needed.  Inputs are
    read where they lie in memory if MLX has them there, and results are copied once into MLX's.

    Examples
    --------
    >>> with mlxconv.patch_mlx():  # doctest: +SKIP
    ...     y = mx.conv1d(x, w)
    """
    return Patch()


class Patch:
    """What `patch_mlx` did, to be undone."""

    def __init__(self) -> None:
        import mlx.core as mx

        self._module = mx
        self._originals = {name: getattr(mx, name) for name in (*CONVOLUTIONS, "convolve")}
        if any(hasattr(original, "mlx_original") for original in self._originals.values()):
            raise RuntimeError("MLX is patched already; undo that first")
        for name in CONVOLUTIONS:
            setattr(mx, name, _patched(mx, name, self._originals[name]))
        mx.convolve = _patched_convolve(mx, self._originals["convolve"])

    def undo(self) -> None:
        """Give MLX its own functions back; a second time does nothing."""
        for name, original in self._originals.items():
            setattr(self._module, name, original)
        self._originals = {}

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def _patched(mx: Any, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original` where mlxconv cannot compute, else mlxconv, with its gradients."""
    ours = getattr(mlxconv, name)
    by_input = getattr(mlxconv, f"{name}_input_grad")
    by_weight = getattr(mlxconv, f"{name}_weight_grad")

    @functools.wraps(original)
    def convolution(input: Any, weight: Any, /, *args: Any, **named: Any) -> Any:
        stream = named.pop("stream", None)
        if not (_is_on_cpu(mx, stream) and _is_float(mx, input) and _is_float(mx, weight)):
            return original(input, weight, *args, stream=stream, **named)

        @mx.custom_function  # type: ignore[untyped-decorator]
        def run(x: Any, w: Any) -> Any:
            if (data := _views(mx, x, w)) is None:
                return original(x, w, *args, stream=stream, **named)
            return _array(mx, ours(*data, *args, **named))

        @run.vjp  # type: ignore[untyped-decorator]
        def vjp(primals: Any, cotangent: Any, output: Any) -> Any:
            views = _views(mx, *primals, cotangent)
            if views is None:
                fn = functools.partial(_original, original, args, named, stream)
                return tuple(mx.vjp(fn, list(primals), [cotangent])[1])
            x, w, dy = views
            dx = by_input(dy, w, x.shape, *args, **named)
            dw = by_weight(x, dy, w.shape, *args, **named)
            return _array(mx, dx), _array(mx, dw)

        return run(input, weight)

    convolution.mlx_original = original  # type: ignore[attr-defined]
    return convolution


def _original(
    original: Callable[..., Any], args: Any, named: Any, stream: Any, x: Any, w: Any
) -> Any:
    return original(x, w, *args, stream=stream, **named)


def _patched_convolve(mx: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """mx.convolve, as MLX has it a conv_general of one channel, so that it has gradients."""

    @functools.wraps(original)
    def convolve(a: Any, v: Any, /, mode: str = "full", *, stream: Any = None) -> Any:
        sequences = all(_is_float(mx, s) and s.ndim == 1 and s.size for s in (a, v))
        if not (sequences and _is_on_cpu(mx, stream) and mode in ("full", "same", "valid")):
            return original(a, v, mode, stream=stream)
        if a.size < v.size:
            a, v = v, a
        taps = v.size
        ends = {
            "full": (taps - 1, taps - 1),
            "same": (taps // 2, (taps - 1) // 2),
            "valid": (0, 0),
        }
        lo, hi = ends[mode]
        x, w = a.reshape(1, -1, 1), v.reshape(1, -1, 1)
        y = mx.conv_general(x, w, padding=([lo], [hi]), flip=True, stream=stream)
        return y.reshape(-1)

    convolve.mlx_original = original  # type: ignore[attr-defined]
    return convolve


def _is_on_cpu(mx: Any, stream: Any) -> bool:
    device = mx.default_device() if stream is None else getattr(stream, "device", stream)
    return bool(device == mx.cpu or device == mx.Device(mx.cpu))


def _is_float(mx: Any, a: Any) -> bool:
    return isinstance(a, mx.array) and a.dtype in (mx.float16, mx.bfloat16, mx.float32, mx.float64)


def _views(mx: Any, *arrays: Any) -> tuple[np.ndarray, ...] | None:
    """NumPy's views of MLX arrays; None if they have no data, being traced."""
    try:
        return tuple(_view(mx, a) for a in arrays)
    except (ValueError, RuntimeError):
        return None


def _view(mx: Any, a: Any) -> np.ndarray:
    """NumPy's view of an MLX array; of bfloat16, which has no letter in buffers, by its bits."""
    if a.dtype != mx.bfloat16:
        return np.asarray(a)
    import ml_dtypes

    return np.asarray(a.view(mx.uint16)).view(ml_dtypes.bfloat16)


def _array(mx: Any, y: np.ndarray) -> Any:
    if y.dtype.name == "bfloat16":
        return mx.array(y.view(np.uint16)).view(mx.bfloat16)
    return mx.array(y, getattr(mx, y.dtype.name))  # float64 stays what it is
