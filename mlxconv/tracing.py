"""Arrays that remember the convolutions they came from: what `vjp` and `jvp` follow back."""

import itertools
from typing import Any

import numpy as np

from mlxconv.parameters import Parameters

_count = itertools.count()


class Traced:
    """An array inside the function that `vjp` or `jvp` was given.

    Convolutions of this package take it; NumPy refuses it, since what NumPy did to it would be
    missing from the derivative."""

    __array_ufunc__ = None

    def __init__(self, value: np.ndarray, origin: "Origin | None" = None) -> None:
        self.value = value
        self.origin = origin
        self.order = next(_count)  # later than what it was made of

    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    ndim = property(lambda self: self.value.ndim)

    def __array__(self, *args: Any, **named: Any) -> Any:
        raise TypeError("inside vjp and jvp, only mlxconv's own convolutions may use an array")


class Origin:
    """The convolution that an array is the result of; operands are Traced, or constants."""

    def __init__(self, parameters: Parameters, input: Any, weight: Any, stream: Any) -> None:
        self.parameters = parameters
        self.operands = (input, weight)
        self.stream = stream

    @property
    def values(self) -> tuple[Any, Any]:
        x, w = (a.value if isinstance(a, Traced) else a for a in self.operands)
        return x, w
