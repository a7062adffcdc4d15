"""mlxconv: the convolutions of MLX for NumPy arrays on any CPU."""

from typing import TYPE_CHECKING

from mlxconv.api import conv1d, conv2d, conv3d, conv_general
from mlxconv.convolving import convolve
from mlxconv.forks import no_fork
from mlxconv.prepared import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from mlxconv.stream import Device, Stream, cpu, stream
from mlxconv.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d

if TYPE_CHECKING:
    from mlxconv.derivatives import (
        conv1d_input_grad,
        conv1d_weight_grad,
        conv2d_input_grad,
        conv2d_weight_grad,
        conv3d_input_grad,
        conv3d_weight_grad,
        conv_transpose1d_input_grad,
        conv_transpose1d_weight_grad,
        conv_transpose2d_input_grad,
        conv_transpose2d_weight_grad,
        conv_transpose3d_input_grad,
        conv_transpose3d_weight_grad,
        jvp,
        vjp,
    )
    from mlxconv.dispatch import variants
    from mlxconv.explanation import explain
    from mlxconv.gradients import conv_general_input_grad, conv_general_weight_grad
    from mlxconv.patching import patch_mlx
    from mlxconv.racing import race
    from mlxconv.roofline import machine

__version__ = "0.1.0"

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Device",
    "Stream",
    "conv1d",
    "conv1d_input_grad",
    "conv1d_weight_grad",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv3d",
    "conv3d_input_grad",
    "conv3d_weight_grad",
    "conv_general",
    "conv_general_input_grad",
    "conv_general_weight_grad",
    "conv_transpose1d",
    "conv_transpose1d_input_grad",
    "conv_transpose1d_weight_grad",
    "conv_transpose2d",
    "conv_transpose2d_input_grad",
    "conv_transpose2d_weight_grad",
    "conv_transpose3d",
    "conv_transpose3d_input_grad",
    "conv_transpose3d_weight_grad",
    "convolve",
    "cpu",
    "explain",
    "jvp",
    "machine",
    "patch_mlx",
    "race",
    "stream",
    "variants",
    "vjp",
]

_LATER = {
    **dict.fromkeys(
        (
            "conv1d_input_grad",
            "conv1d_weight_grad",
            "conv2d_input_grad",
            "conv2d_weight_grad",
            "conv3d_input_grad",
            "conv3d_weight_grad",
            "conv_transpose1d_input_grad",
            "conv_transpose1d_weight_grad",
            "conv_transpose2d_input_grad",
            "conv_transpose2d_weight_grad",
            "conv_transpose3d_input_grad",
            "conv_transpose3d_weight_grad",
            "jvp",
            "vjp",
        ),
        "mlxconv.derivatives",
    ),
    "conv_general_input_grad": "mlxconv.gradients",
    "conv_general_weight_grad": "mlxconv.gradients",
    "explain": "mlxconv.explanation",
    "machine": "mlxconv.roofline",
    "patch_mlx": "mlxconv.patching",
    "race": "mlxconv.racing",
    "variants": "mlxconv.dispatch",
}


def __getattr__(name: str) -> object:
    """The names that few programs use, some of which need Numba: loaded when they are."""
    if name not in _LATER:
        raise AttributeError(f"module 'mlxconv' has no attribute {name!r}")
    import importlib

    with no_fork:
        return getattr(importlib.import_module(_LATER[name]), name)
