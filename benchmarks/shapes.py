"""The named convolutions that speed is measured on, here and in `mlxconv bench`."""

from mlxconv.bench.shapes import Shape, named

__all__ = ["CONV1D", "Shape"]

CONV1D = named()
