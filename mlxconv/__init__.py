"""mlxconv: the convolutions of MLX for NumPy arrays on any CPU."""

from mlxconv.api import conv1d, conv_general
from mlxconv.stream import Device, Stream, cpu, stream

__version__ = "0.1.0"

__all__ = ["Device", "Stream", "conv1d", "conv_general", "cpu", "stream"]
