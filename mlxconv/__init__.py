"""mlxconv: the convolutions of MLX for NumPy arrays on any CPU."""

from typing import TYPE_CHECKING

from mlxconv.api import conv1d, conv2d, conv3d, conv_general
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
    from mlxconv.dispatch import variants
    from mlxconv.explanation import explain
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
    "conv2d",
    "conv3d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cpu",
    "explain",
    "machine",
    "race",
    "stream",
    "variants",
]

_LATER = {
    "explain": "mlxconv.explanation",
    "machine": "mlxconv.roofline",
    "race": "mlxconv.racing",
    "variants": "mlxconv.dispatch",
}


def __getattr__(name: str) -> object:
    """The names whose modules need Numba, which is not loaded before it is used."""
    if name not in _LATER:
        raise AttributeError(f"module 'mlxconv' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
