"""Draws the fluke of one individual: outline, pigment and scars, the same in every photograph.

Coordinates are those of the animal, in half spans: x from the left tip (-1) over the median notch (0) to the right tip
(+1), y from the trailing edge (about 0) down to the tail stock (above 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]

LEFT, TOP, WIDTH, HEIGHT = -1.12, -0.3, 2.24, 1.6
"""The part of the animal's plane that a fluke's picture covers, in half spans."""


@dataclass(frozen=True)
class Fluke:
    """The flat fluke of one individual.

    Attributes:
        picture: Planes pigment (0 black, 255 white), cover (255 on the animal) and relief (thickness), its corner at
            (LEFT, TOP).
        scale: Pixels per half span.
    """

    picture: Image.Image
    scale: int


def draw_fluke(rng: np.random.Generator, *, scale: int = 200) -> Fluke:
    """Return the fluke of one individual.

    Args:
        rng: Random generator of the individual.
        scale: Pixels per half span.
    """
    trailing, outline = _outline(rng)
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    mask = Image.new("L", (2 * width, 2 * height))
    ImageDraw.Draw(mask).polygon(_to_pixels(outline, 2 * scale), fill=255)
    cover = mask.reduce(2)
    pigment = _draw_scars(rng, _pigment(rng, trailing, (width, height)), scale)
    relief = cover.reduce(4).filter(ImageFilter.GaussianBlur(scale / 56)).resize(cover.size, Image.Resampling.BICUBIC)
    return Fluke(Image.merge("RGB", (pigment, cover, relief)), scale)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float]) -> Floats:
    """Return smooth noise of unit variance at its grid points, shape (height, width).

    Args:
        rng: Source of randomness.
        size: Width and height in pixels.
        cells: Number of grid points across and down.
    """
    across, down = max(2, round(cells[0])), max(2, round(cells[1]))
    grid = rng.standard_normal((down, across), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))


def _to_pixels(points: Floats, scale: int) -> list[tuple[float, float]]:
    pixels = (points - np.array([LEFT, TOP], np.float32)) * scale
    return [(float(x), float(y)) for x, y in pixels]


def _outline(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the trailing edge without serration, shape (n, 2), and the whole outline, shape (m, 2)."""
    reach = np.linspace(0, 1, 260, dtype=np.float32)
    base = _trailing_profile(rng, reach)
    halves = []
    for side in (-1, 1):
        edge = base + _serration(rng, reach)
        trailing = np.stack([side * reach, edge], axis=1)[: _tip(rng, len(reach))]
        halves.append(np.concatenate([trailing, _leading_edge(rng, side, trailing[-1])]))
    left, right = halves
    smooth = np.stack([np.concatenate([-reach[::-1], reach]), np.concatenate([base[::-1], base])], axis=1)
    return smooth, np.concatenate([left[::-1], right])


def _trailing_profile(rng: np.random.Generator, reach: Floats) -> Floats:
    """Return y of the trailing edge by distance from the middle: median notch, sag and raised tip."""
    depth, width, sharp = rng.uniform(0.07, 0.21), rng.uniform(0.06, 0.14), rng.uniform(0.7, 1.6)
    notch = depth * np.clip(1 - reach / width, 0, 1) ** sharp
    sag = rng.uniform(-0.03, 0.12) * np.sin(np.pi * reach ** rng.uniform(0.8, 1.5))
    return np.asarray(notch + sag + rng.uniform(-0.2, 0.06) * reach**2.6, np.float32)


def _serration(rng: np.random.Generator, reach: Floats) -> Floats:
    """Return the depth of the serration by distance from the middle: teeth and single notches."""
    teeth = np.zeros_like(reach)
    for count, height in ((14, 0.012), (40, 0.009), (90, 0.004)):
        knots = rng.standard_normal(count) * height * rng.uniform(0.4, 1.5)
        teeth += np.interp(reach, np.linspace(0, 1, count), knots).astype(np.float32)
    for _ in range(int(rng.integers(2, 8))):
        place, wide = rng.uniform(0.1, 0.93), rng.uniform(0.012, 0.05)
        deep = min(0.11, 0.03 * rng.lognormal(0, 0.6))
        teeth += deep * np.clip(1 - np.abs(reach - place) / wide, 0, 1) ** rng.uniform(0.6, 1.4)
    return np.asarray(teeth * np.clip(reach / 0.06, 0, 1) * np.clip((1 - reach) / 0.08, 0, 1), np.float32)


def _tip(rng: np.random.Generator, points: int) -> int:
    """Return how many points of the trailing edge remain: occasionally a tip is missing."""
    return round(points * rng.uniform(0.86, 0.95)) if rng.random() < 0.08 else points


def _leading_edge(rng: np.random.Generator, side: int, tip: Floats) -> Floats:
    """Return the curve from the tip down to the tail stock, shape (n, 2)."""
    knots = np.array(
        [
            [abs(tip[0]), tip[1]],
            [0.97 * abs(tip[0]), tip[1] + 0.19 + rng.uniform(-0.03, 0.05)],
            [0.62 + rng.uniform(-0.04, 0.04), 0.38 + rng.uniform(-0.04, 0.06)],
            [0.24, 0.52 + rng.uniform(-0.03, 0.05)],
            [0.115, 0.72],
        ]
    )
    t = np.linspace(0, 1, 40)[:, None]
    curve = sum(
        weight * (1 - t) ** (4 - k) * t**k * knot
        for k, (weight, knot) in enumerate(zip((1, 4, 6, 4, 1), knots, strict=True))
    )
    stock = [[0.115, 0.85], [0.16, 1.4]]
    return np.asarray(np.concatenate([curve, stock]) * [side, 1], np.float32)


def _pigment(rng: np.random.Generator, trailing: Floats, size: tuple[int, int]) -> Image.Image:
    """Return the pigment of the underside, from nearly all white to nearly all black."""
    width, height = size[0] // 2, size[1] // 2
    x = np.linspace(LEFT, LEFT + WIDTH, width, dtype=np.float32)
    y = np.linspace(TOP, TOP + HEIGHT, height, dtype=np.float32)[:, None]
    below = y - np.interp(x, trailing[:, 0], trailing[:, 1]).astype(np.float32)
    field = rng.uniform(-1.3, 1.3) + _patches(rng, (width, height))
    field += rng.uniform(0.2, 1.2) * (1 - 2.2 * np.abs(np.abs(x) - 0.5))
    field -= rng.uniform(0.4, 2.6) * np.exp(-((x / rng.uniform(0.07, 0.26)) ** 2))
    field -= rng.uniform(0.0, 2.6) * np.exp(-np.clip(below, 0, None) / rng.uniform(0.03, 0.1))
    field -= rng.uniform(0.5, 3.0) * np.clip(y - 0.5, 0, None) * 3
    field += rng.uniform(0.1, 0.5) * smooth_noise(rng, (width, height), (90, 45))
    white = 0.5 + 0.5 * np.tanh(rng.uniform(1.5, 4) * field)
    mottle = 1 + 0.07 * smooth_noise(rng, (width, height), (90, 60))
    shade = np.clip((rng.uniform(12, 34) + rng.uniform(170, 215) * white) * mottle, 0, 255)
    return Image.fromarray(shade.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _patches(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return the pigment patches of the individual, partly symmetric."""
    total = np.zeros((size[1], size[0]), np.float32)
    for cells, strength in (((6, 4), 0.8), ((12, 8), 0.7), ((28, 18), 0.4)):
        alike = smooth_noise(rng, size, cells)
        total += strength * (0.45 * (alike + alike[:, ::-1]) + 0.75 * smooth_noise(rng, size, cells))
    return total


def _draw_scars(rng: np.random.Generator, pigment: Image.Image, scale: int) -> Image.Image:
    """Return the pigment with rake marks, barnacle rings and spots in contrast to their ground."""
    draw = ImageDraw.Draw(pigment)
    for _ in range(int(rng.integers(0, 4))):
        _draw_rake(rng, draw, pigment, scale)
    for _ in range(int(rng.integers(2, 12))):
        x, y = _place(rng, scale)
        radius = rng.uniform(0.008, 0.035) * scale
        box = (x - radius, y - 0.8 * radius, x + radius, y + 0.8 * radius)
        ink = _ink(pigment, x, y)
        if rng.random() < 0.5:
            draw.ellipse(box, fill=ink)
        else:
            draw.ellipse(box, outline=ink, width=max(1, round(0.009 * scale)))
    return pigment


def _draw_rake(rng: np.random.Generator, draw: ImageDraw.ImageDraw, pigment: Image.Image, scale: int) -> None:
    """Draw a few parallel scratches."""
    x, y = _place(rng, scale)
    angle, length = rng.uniform(0, np.pi), rng.uniform(0.08, 0.4) * scale
    along = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    across = np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(0.025, 0.045) * scale
    ink, width = _ink(pigment, x, y), max(1, round(rng.uniform(0.006, 0.016) * scale))
    for line in range(int(rng.integers(1, 5))):
        centre = np.array([x, y]) + line * across + rng.normal(0, 0.01 * scale, 2)
        ends = np.concatenate([centre - along * rng.uniform(0.6, 1), centre + along * rng.uniform(0.6, 1)])
        draw.line([float(v) for v in ends], fill=ink, width=width)


def _place(rng: np.random.Generator, scale: int) -> tuple[float, float]:
    """Return a random point on a lobe, in pixels."""
    x = rng.uniform(0.08, 0.85)
    y = rng.uniform(0.06, 0.5 - 0.35 * x)
    return (float(rng.choice([-1, 1])) * x - LEFT) * scale, (y - TOP) * scale


def _ink(pigment: Image.Image, x: float, y: float) -> int:
    """Return the grey of a scar at a point: light on dark skin, dark on light skin."""
    ground = pigment.getpixel((int(x), int(y)))
    return 215 if isinstance(ground, int) and ground < 120 else 45
