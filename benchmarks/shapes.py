"""The named convolutions that speed is measured on, here and in `mlxconv bench`."""

from mlxconv.bench.shapes import Shape, named

__all__ = ["CONV1D", "OTHERS", "Shape"]

CONV1D = {name: shape for name, shape in named().items() if shape.function == "conv1d"}
OTHERS = {name: shape for name, shape in named().items() if name not in CONV1D}
