"""Random convolutions as models have them: problems that nobody has tuned a kernel for.

Sizes are log-uniform within the ranges of real models, channels mostly multiples of 8, 16 or 32
and sometimes the odd numbers that data sets have; a seed and a number name a problem for ever.
"""

import math
import random
from collections.abc import Iterator, Sequence

from mlxconv.bench.shapes import Shape

LEAST_FLOP, MOST_FLOP = 1e5, 4e9
MOST_FLOP_OF = {"wide": 2e10}  # families that are larger
MOST_BYTES = 200 << 20  # of input, weight and output
ODD_CHANNELS = (1, 2, 3, 4, 6, 10, 12, 20, 25, 40, 50, 80, 100, 300)
TAPS = (2, 3, 3, 3, 4, 5, 5, 7, 9, 11, 15)
LONG_TAPS = (3, 4, 5, 7, 9, 15, 31, 31, 51, 64, 129)


def size(rng: random.Random, lo: float, hi: float) -> int:
    """Log-uniform between lo and hi."""
    return min(int(hi), max(int(lo), round(math.exp(rng.uniform(math.log(lo), math.log(hi))))))


def channels(rng: random.Random, lo: int, hi: int) -> int:
    """Three times in four a multiple of 8, 16 or 32, else one of the odd numbers of real data."""
    odd = [c for c in ODD_CHANNELS if lo <= c <= hi]
    if odd and rng.random() < 0.25:
        return rng.choice(odd)
    n = size(rng, lo, hi)
    step = rng.choice([s for s in (2, 8, 16, 16, 32, 64) if s <= n] or [1])
    return max(lo, n // step * step)


def padding(rng: random.Random, reach: int) -> int:
    """None, as much as keeps the length, or all of the window's reach: a causal model's."""
    return rng.choice((0, reach // 2, reach // 2, reach))


def dense(rng: random.Random) -> Shape:
    K = rng.choice(TAPS)
    return Shape(
        N=rng.choice((1, 1, size(rng, 1, 16))),
        L=size(rng, 30, 20000),
        C_in=channels(rng, 8, 1024),
        C_out=channels(rng, 8, 1024),
        K=K,
        padding=padding(rng, K - 1),
    )


def pointwise(rng: random.Random) -> Shape:
    return dense(rng)._replace(K=1, padding=0)


def wide(rng: random.Random) -> Shape:
    """Layers of transformers and of vocoders, whose filters fill the caches or do not fit them."""
    K = rng.choice((1, 1, 1, 3, 5, 9))
    return Shape(
        N=rng.choice((1, 1, size(rng, 1, 16))),
        L=size(rng, 50, 4000),
        C_in=size(rng, 512, 5120) // 64 * 64,
        C_out=size(rng, 256, 5120) // 64 * 64,
        K=K,
        padding=padding(rng, K - 1),
    )


def strided(rng: random.Random) -> Shape:
    stride = rng.choice((2, 2, 2, 3, 4, 5, 8))
    K = rng.choice((stride, stride + 1, 2 * stride, 3, 5, 7))
    return dense(rng)._replace(K=K, stride=stride, padding=padding(rng, K - 1))


def dilated(rng: random.Random) -> Shape:
    K, dilation = rng.choice((2, 3, 3, 5, 7, 11)), 2 ** rng.randint(1, 9)
    return dense(rng)._replace(K=K, dilation=dilation, padding=padding(rng, dilation * (K - 1)))


def grouped(rng: random.Random) -> Shape:
    groups, per = rng.choice((2, 3, 4, 8, 16, 32, 64)), size(rng, 2, 64)
    out = rng.choice((per, per, 2 * per, max(1, per // 2)))
    return dense(rng)._replace(C_in=groups * per, C_out=groups * out, groups=groups)


def depthwise(rng: random.Random) -> Shape:
    C, K = channels(rng, 8, 2048), rng.choice(LONG_TAPS)
    return Shape(
        N=rng.choice((1, 1, size(rng, 1, 16))),
        L=size(rng, 50, 20000),
        C_in=C,
        C_out=C * rng.choice((1, 1, 1, 2, 4)),
        K=K,
        stride=rng.choice((1, 1, 1, 2)),
        padding=padding(rng, K - 1),
        groups=C,
    )


def few_in(rng: random.Random) -> Shape:
    """Raw signals, spectra and one-hot sequences."""
    K = rng.choice((3, 5, 7, 8, 10, 15, 31, 64, 251, 400))
    return Shape(
        N=rng.choice((1, 1, size(rng, 1, 32))),
        L=size(rng, 500, 100_000),
        C_in=rng.randint(1, 4),
        C_out=channels(rng, 8, 512),
        K=K,
        stride=rng.choice((1, 1, 2, max(1, K // 2))),
        padding=padding(rng, K - 1),
    )


def few_out(rng: random.Random) -> Shape:
    """The last layer of a decoder, or a regression per position."""
    return dense(rng)._replace(C_out=rng.randint(1, 4), L=size(rng, 200, 100_000))


def short(rng: random.Random) -> Shape:
    """One to eight output positions: a step of a stream, or the end of a pyramid."""
    K = rng.choice(TAPS)
    return dense(rng)._replace(K=K, L=K - 1 + rng.randint(1, 8), padding=0)


def many_small(rng: random.Random) -> Shape:
    """Batches of windows."""
    K = rng.choice((2, 3, 5, 7))
    return Shape(
        N=size(rng, 16, 64),
        L=size(rng, 8, 200),
        C_in=channels(rng, 1, 64),
        C_out=channels(rng, 4, 128),
        K=K,
        padding=padding(rng, K - 1),
    )


def fir(rng: random.Random) -> Shape:
    """One signal, or a few, through one filter."""
    K = rng.choice((15, 31, 63, 64, 101, 129, 255, 513, 1025))
    return Shape(
        rng.choice((1, 1, 2, 8)), size(rng, 2000, 100_000), 1, 1, K, 1, padding(rng, K - 1)
    )


FAMILIES = {
    family.__name__: family
    for family in (
        dense,
        pointwise,
        strided,
        dilated,
        grouped,
        depthwise,
        few_in,
        few_out,
        short,
        many_small,
        fir,
        wide,
    )
}


def problems(seed: int, count: int, families: Sequence[str] = ()) -> dict[str, Shape]:
    """`count` problems by name, "dense_0", from each of the families in turn."""
    wanted = list(families or FAMILIES)
    drawn = {name: _endless(name, seed) for name in wanted}
    names = [(wanted[i % len(wanted)], i // len(wanted)) for i in range(count)]
    return {f"{name}_{i}": next(drawn[name]) for name, i in names}


def chosen_families(text: str) -> tuple[str, ...]:
    """The families that "dense,fir" names; all if the text is empty."""
    names = tuple(filter(None, text.split(",")))
    if unknown := [name for name in names if name not in FAMILIES]:
        raise SystemExit(f"no family is called {', '.join(unknown)}; see --help")
    return names


def family_of(name: str) -> str:
    """The family of the problem called `name`."""
    return name.rpartition("_")[0]


def _endless(family: str, seed: int) -> Iterator[Shape]:
    """Problems of one family; they do not depend on which others are drawn."""
    rng = random.Random(f"{family} {seed}")
    while True:
        shape = FAMILIES[family](rng)
        if _is_usual(shape, MOST_FLOP_OF.get(family, MOST_FLOP)):
            yield shape


def _is_usual(shape: Shape, most_flop: float) -> bool:
    """Whether it is a convolution, and neither too small nor too large to measure."""
    try:
        problem = shape.problem()
    except ValueError:  # the window is longer than the input
        return False
    return LEAST_FLOP <= problem.flop <= most_flop and shape.bytes_moved() <= MOST_BYTES
