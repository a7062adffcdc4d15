"""Convolution by FFT (overlap-save), for filters of thousands of taps; only taken when asked for.

Computes    y[n, l, o] = sum over taps k of x[n, l - padding + k*dilation, o // multiplier]
            * w[o, k] as products of spectra: blocks of `size` input rows overlap by window - 1
            rows, and of the block's circular convolution the first window - 1 outputs, which have
            wrapped around, are dropped

                input    [ window - 1 |     step      ]
                                      [ window - 1 |     step      ]
                output                [     step      ][     step  ...

For         problems with one input channel per group, one spatial axis and no stride.
Order       numpy.fft's, in double precision: an error is relative to the norms of a block and of a
            filter, not to each output, and one infinity would spread over a block.  So kernels that
            keep both promises are preferred to it, unless the caller asks.
Bound       log2(size) passes over size * 8 or 16 bytes per block; one thread.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from mlxconv.plan import Packed, Planned

if TYPE_CHECKING:
    from mlxconv.problem import Problem

REACH = 8  # windows in a block: 7/8 of its outputs are kept, where a larger one leaves the caches
LEAST = 8192  # rows in a block, where there are so many: NumPy's overhead is 1/4 of its transform
CHUNK = 1 << 19  # points of all filters that are transformed at a time, 8 MB


def refuses(p: "Problem") -> str:
    """Why this variant cannot compute `p`; empty if it can."""
    if p.groups != p.C:
        return f"each filter sums over {p.C // p.groups} channels, not one"
    if len(p.L) > 1:
        return f"it has {len(p.L)} spatial axes, not one"
    if max(p.stride) > 1:
        return f"with a stride of {max(p.stride)}, most of what is transformed would be dropped"
    return ""


class FourierPlan(Planned):
    """A problem, and the blocks in which it is transformed; runs as `Plan` does."""

    variant = "fft"

    def __init__(self, problem: "Problem", refused: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(problem)
        self.real = problem  # as computed: complex numbers are complex
        self.refused = refused
        (self._window,), (length,) = problem.window, problem.padded_L
        self.size = max(2, 1 << (min(max(REACH * self._window, LEAST), length) - 1).bit_length())
        self.step = self.size - self._window + 1
        is_complex = self.dtype.kind == "c"
        self._wide = np.dtype(np.complex128 if is_complex else np.float64)
        self._forward = np.fft.fft if is_complex else np.fft.rfft
        self._back = np.fft.ifft if is_complex else np.fft.irfft

    @property
    def blocks(self) -> int:
        """Transforms of each channel's input."""
        return self.problem.N * -(-self.problem.output_L[0] // self.step)

    @property
    def error(self) -> float:
        """The largest error, in units of the norm of a block times that of a filter."""
        return 1e-15 * math.log2(self.size)

    def run(
        self,
        x: np.ndarray,
        w: np.ndarray,
        workers: int | None,
        out: np.ndarray | None = None,
        packed: Packed | None = None,
    ) -> np.ndarray:
        """As `Plan.run`, on one thread."""
        _check_finite("input", x)
        _check_finite("weight", w)
        y = self.output(out, x, w)
        w = w.reshape(self.problem.weight_shape)  # those of several phases, one behind the other
        at_once, filters = max(1, CHUNK // self.size), self.problem.O
        with np.errstate(over="ignore"):  # float16 ends at 65504, and so do sums in kernels
            for first in range(0, filters, at_once):
                chosen = slice(first, min(first + at_once, filters))
                spectra = self._spectra(w[chosen, :, 0])
                for n in range(self.problem.N):
                    self._filter(x[n], spectra, y[n], chosen)
        return y

    def _spectra(self, w: np.ndarray) -> np.ndarray:
        """Those of the filters: dilated, and turned round unless they are to be flipped."""
        taps = np.zeros((len(w), self._window), self._wide)
        taps[:, :: self.problem.kernel_dilation[0]] = w
        turned = taps if self.problem.flip else taps[:, ::-1]
        spectra: np.ndarray = self._forward(turned, self.size)
        return spectra

    def _filter(self, x: np.ndarray, spectra: np.ndarray, y: np.ndarray, chosen: slice) -> None:
        """One image by the filters `chosen`, block by block."""
        multiplier = self.problem.O // self.problem.groups
        met = np.arange(chosen.start, chosen.stop) // multiplier  # the channel of each filter
        channels = slice(met[0], met[-1] + 1)
        for start in range(0, len(y), self.step):  # outputs [start, start + step)
            first = start - self.problem.padding_lo[0]
            i0 = min(max(0, first), len(x))
            i1 = max(i0, min(len(x), first + self.size))
            block = np.zeros((channels.stop - channels.start, self.size), self._wide)
            block[:, i0 - first : i1 - first] = x[i0:i1, channels].T
            product = self._forward(block)[met - met[0]] * spectra
            kept = min(self.step, len(y) - start)
            last = self._window - 1 + kept
            outputs = self._back(product, self.size)[:, self._window - 1 : last]
            y[start : start + kept, chosen] = outputs.T


def _check_finite(name: str, a: np.ndarray) -> None:
    finite = np.isfinite(a)
    if not finite.all():
        where = tuple(int(i) for i in np.unravel_index(np.argmin(finite), a.shape))
        raise ValueError(
            f"variant 'fft' takes finite numbers, since any other would spread over a whole block; "
            f"{name} has {a[where]} at {where}.  The kernels take them: leave `variant` out"
        )
