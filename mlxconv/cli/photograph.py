"""`mlxconv demo --photograph`: a bank of filters over a photograph, in one call of conv2d.

The photograph is the official portrait of Commodore Grace M. Hopper, 20 January 1984, by the United
States Navy, hence in the public domain; matplotlib brings it along.  Each of the filters has
15 x 15 taps on three colours:

    blur      a Gaussian, for red, for green and for blue
    lines     a wave across a Gaussian (D. Gabor, 1946), at 0, 45, 90 and 135 degrees, on luminance
    spots     a Gaussian minus a wider one, on luminance
"""

import io
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxconv.api import conv2d
from mlxconv.cli.errors import BadInput, Failed
from mlxconv.cli.output import whole_file
from mlxconv.stream import Stream

TAPS, WAVELENGTH, WIDTH = 15, 7.0, 2.5  # pixels
ANGLES = (0, 45, 90, 135)  # degrees, of the lines that a filter answers to
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue: ITU-R BT.709
NAMES = ("red", "green", "blue", *(f"lines at {angle} degrees" for angle in ANGLES), "spots")
CREDIT = "Photograph: Commodore Grace M. Hopper, United States Navy, 1984; public domain"
TRIES = 20


class Filtered(NamedTuple):
    """The photograph and what the filters made of it, (H, W, 8)."""

    photograph: np.ndarray
    y: np.ndarray
    seconds: float


def run(path: Path, stream: Stream) -> None:
    """Filter, check, say what was done, and draw it."""
    found = filtered(load(), stream)
    print(story(found))
    draw(path, found)
    print(f"\nPicture: {path}")


def load() -> np.ndarray:
    """The photograph, (600, 512, 3), from 0 to 1."""
    from matplotlib import cbook, image

    try:
        sample: Any = cbook.get_sample_data("grace_hopper.jpg")
        with sample as file:
            return image.imread(file, format="jpg").astype(np.float32) / 255
    except (OSError, ImportError) as error:
        raise BadInput(f"this matplotlib comes without the photograph: {error}") from error


def filter_bank() -> np.ndarray:
    """The filters, (8, 15, 15, 3)."""
    at = np.arange(TAPS) - TAPS // 2
    v, u = np.meshgrid(at, at, indexing="ij")
    blur, wide = _gaussian(u, v, WIDTH), _gaussian(u, v, 1.6 * WIDTH)
    colours = [blur[..., None] * np.eye(3)[c] for c in range(3)]
    gray = [*(_lines(u, v, np.deg2rad(angle)) for angle in ANGLES), blur - wide]
    return np.stack([*colours, *(f[..., None] * np.array(LUMINANCE) for f in gray)])


def _gaussian(u: np.ndarray, v: np.ndarray, width: float) -> np.ndarray:
    """Taps whose sum is 1."""
    bell = np.exp(-(u**2 + v**2) / (2 * width**2))
    return np.asarray(bell / bell.sum())


def _lines(u: np.ndarray, v: np.ndarray, angle: float) -> np.ndarray:
    """Taps whose sum is 0, and that of their magnitudes 1."""
    across = u * np.sin(angle) + v * np.cos(angle)
    bell, wave = _gaussian(u, v, WIDTH), np.cos(2 * np.pi * across / WAVELENGTH)
    taps = bell * (wave - (bell * wave).sum())
    return np.asarray(taps / np.abs(taps).sum())


def filtered(photograph: np.ndarray, stream: Stream) -> Filtered:
    """The outputs of all filters, and the best time of TRIES calls; checked, see `_check`."""
    x, w = photograph[None], filter_bank().astype(np.float32)
    best = np.inf
    for _ in range(TRIES):
        start = time.perf_counter()
        y = conv2d(x, w, padding=TAPS // 2, stream=stream)
        best = min(best, time.perf_counter() - start)
    _check(x, w, y)
    return Filtered(photograph, y[0], best)


def _check(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> None:
    """A sum of K products in float32 is off by at most about K u of the sum of their magnitudes."""
    from mlxconv.query import query
    from mlxconv.sampling import largest_error

    error, terms = largest_error(query(x, w, padding=TAPS // 2).problem, x, w, y), w[0].size
    if error > terms:
        raise Failed("an output is further from an exact sum than rounding explains")


def story(found: Filtered) -> str:
    """What was done, and how long it took."""
    H, W, filters = found.y.shape
    flop = 2 * H * W * filters * 3 * TAPS**2
    strongest = {name: float(np.abs(found.y[..., i]).max()) for i, name in enumerate(NAMES)}
    answers = "\n".join(f"           {name:22} {strongest[name]:.3f}" for name in NAMES[3:])
    return f"""\
{CREDIT}

  image    {H} x {W} pixels of 3 colours
  filters  {filters} of {TAPS} x {TAPS} taps, in one call of conv2d
  check    passed: a thousand outputs within what rounding in float32 explains of exact sums
  time     {found.seconds * 1e3:.1f} ms ({flop / found.seconds / 1e9:.0f} GFLOP/s), best of {TRIES}
  answers  the strongest, of a photograph from 0 to 1
{answers}"""


def draw(path: Path, found: Filtered) -> None:
    """Photograph, blur, the four directions, the spots, and which direction is where."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 4)
    lines, spots = np.abs(found.y[..., 3:7]), found.y[..., 7]
    top = {"vmin": 0, "vmax": float(np.quantile(lines, 0.995)), "cmap": "gray"}
    far = float(np.quantile(np.abs(spots), 0.995))
    images: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("photograph", found.photograph, {}),
        ("blur", np.clip(found.y[..., :3], 0, 1), {}),
        ("spots: bright and dark", spots, {"vmin": -far, "vmax": far, "cmap": "RdBu_r"}),
        ("directions", _directions(lines / top["vmax"]), {}),
        *((NAMES[3 + i], lines[..., i], top) for i in range(4)),
    ]
    for panel, (title, image, how) in zip(panels.flat, images, strict=True):
        panel.imshow(image, **how)
        panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
        panel.set_axis_off()
    figure.supxlabel(CREDIT, x=0.995, ha="right", fontsize=7.5, color="#8a97a3")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    with whole_file(path, content.tell()) as file:
        file.write(content.getbuffer())


def _directions(lines: np.ndarray) -> np.ndarray:
    """The direction that answers most as hue, how much as brightness."""
    from matplotlib.colors import hsv_to_rgb

    hue, value = lines.argmax(-1) / len(ANGLES), np.clip(lines.max(-1), 0, 1)
    return np.asarray(hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], -1)))
