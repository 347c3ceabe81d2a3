"""Renders one photograph of a fluke at sea: viewpoint, light, water, foam and camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from whale_ray.data.synthetic.fluke import LEFT, TOP, Floats, Fluke, smooth_noise

_CELL = 32
_MIDDLE = 0.28
"""The y of a fluke, in half spans, that a camera is pointed at."""


@dataclass(frozen=True)
class Day:
    """Light and water of one day at sea."""

    water: Floats
    tint: Floats
    waves: float
    contrast: float
    glitter: float
    horizon: float
    exposure: float
    sun: tuple[float, float]
    haze: float
    grey: bool


@dataclass(frozen=True)
class Viewpoint:
    """Viewpoint of the camera: angles in radians, `span` as a share of the image width."""

    yaw: float
    roll: float
    squash: float
    span: float
    droop: tuple[float, float]
    curl: float
    offset: tuple[float, float]
    waterline: float


def draw_day(rng: np.random.Generator, difficulty: float) -> Day:
    """Return the light and water of a day.

    Args:
        rng: Random generator of the day.
        difficulty: 0 to 1.
    """
    calm = 1 - difficulty
    green, bright = rng.uniform(-6, 16), rng.uniform(70, 165) * difficulty + 120 * calm
    tone = np.array([bright * 0.88 - 6, bright + 0.4 * green, bright * 1.02 + 4 - green], np.float32)
    warm = rng.normal(0, 0.05) * difficulty
    return Day(
        water=tone,
        tint=np.array([1 + warm, 1, 1 - warm], np.float32),
        waves=float(rng.uniform(5, 16)),
        contrast=float(4 + difficulty * rng.uniform(6, 34)),
        glitter=float(difficulty * rng.choice([0, 0, 1]) * rng.uniform(0.4, 1)),
        horizon=float(rng.choice([-1, rng.uniform(-0.1, 0.3)])) if difficulty > 0 else -1,
        exposure=float(1 + difficulty * rng.uniform(-0.55, 0.25)),
        sun=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, -0.2))),
        haze=float(difficulty * rng.choice([0, 1]) * rng.uniform(0, 0.45)),
        grey=bool(rng.random() < 0.15 * difficulty),
    )


def draw_viewpoint(rng: np.random.Generator, difficulty: float) -> Viewpoint:
    """Return the viewpoint of an encounter.

    Args:
        rng: Random generator of the encounter.
        difficulty: 0 to 1.
    """
    return Viewpoint(
        yaw=float(difficulty * rng.normal(0, 0.5)),
        roll=float(difficulty * rng.normal(0, 0.16)),
        squash=float(1 - difficulty * rng.uniform(-0.15, 0.55)),
        span=float(0.84 - difficulty * rng.uniform(-0.04, 0.34)),
        droop=(0.0, 0.0),
        curl=float(difficulty * rng.normal(0, 0.12)),
        offset=(0.0, 0.0),
        waterline=float(0.95 - difficulty * rng.uniform(0, 0.3)),
    )


def vary_viewpoint(rng: np.random.Generator, view: Viewpoint, difficulty: float) -> Viewpoint:
    """Return the viewpoint of one photograph of an encounter, after animal and boat moved.

    Args:
        rng: Random generator of the photograph.
        view: Viewpoint of the encounter.
        difficulty: 0 to 1.
    """
    shift = rng.normal(0, 1, 2) * difficulty * (0.12, 0.13)
    droop = rng.normal(0, 0.16, 2) * difficulty + rng.normal(0, 0.12) * difficulty
    dive = max(0.0, rng.normal(0, 0.3)) * difficulty
    return Viewpoint(
        yaw=float(np.clip(view.yaw + difficulty * rng.normal(0, 0.25), -1, 1)),
        roll=float(view.roll + difficulty * rng.normal(0, 0.12)),
        squash=float(np.clip(view.squash + difficulty * rng.normal(0, 0.15), 0.4, 1.2)),
        span=float(np.clip(view.span * np.exp(difficulty * rng.normal(0, 0.18)), 0.38, 0.98)),
        droop=(float(droop[0]), float(droop[1])),
        curl=float(view.curl + difficulty * rng.normal(0, 0.08)),
        offset=(float(shift[0]), float(shift[1])),
        waterline=float(max(0.3, view.waterline - dive)),
    )


def photograph(
    rng: np.random.Generator, fluke: Fluke, *, day: Day, view: Viewpoint, size: tuple[int, int], difficulty: float
) -> Image.Image:
    """Return the RGB image of a fluke as the camera would save it.

    Args:
        rng: Random generator of the photograph.
        fluke: The individual.
        day: Light and water.
        view: Viewpoint.
        size: Height and width in pixels.
        difficulty: 0 to 1.
    """
    height, width = size
    flat = _turn(fluke, view, (width, height))
    pigment, cover, relief = np.moveaxis(np.asarray(flat, np.float32), -1, 0)
    surface = _surface_row(rng, view, (width, height))
    rows = np.arange(height, dtype=np.float32)[:, None]
    cover = cover / 255 * np.clip(surface - rows, 0, 1)
    sea = _sea(rng, day, (width, height))
    skin = _skin(rng, day, pigment, relief, difficulty)
    picture: Floats = sea + cover[..., None] * (skin - sea)
    foam = _foam(rng, view, surface, (width, height), difficulty)[..., None]
    picture += foam * (np.float32(150 + 80 * min(day.exposure, 1)) - picture)
    picture += day.haze * (day.water * 0.4 + 110 - picture)
    return _expose(rng, day, picture, difficulty)


def _turn(fluke: Fluke, view: Viewpoint, size: tuple[int, int]) -> Image.Image:
    """Return the planes of the fluke as seen from the viewpoint, drawn at twice the size against aliasing."""
    width, height = 2 * size[0], 2 * size[1]
    xs = np.append(np.arange(0, width, _CELL), width)
    ys = np.append(np.arange(0, height, _CELL), height)
    across, down = np.meshgrid(xs.astype(np.float64), ys.astype(np.float64))
    source = np.stack(_to_animal(across, down, view, (width, height)), axis=-1)
    source = (source - (LEFT, TOP)) * fluke.scale
    quads = np.concatenate([source[:-1, :-1], source[1:, :-1], source[1:, 1:], source[:-1, 1:]], axis=-1)
    mesh = [
        ((int(xs[i]), int(ys[j]), int(xs[i + 1]), int(ys[j + 1])), tuple(quads[j, i].tolist()))
        for j in range(len(ys) - 1)
        for i in range(len(xs) - 1)
    ]
    turned = fluke.picture.transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return turned.reduce(2)


def _to_animal(
    across: np.ndarray, down: np.ndarray, view: Viewpoint, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the animal's x and y at each pixel: the inverse of bending, perspective, roll and scale."""
    unit = view.span * size[0] / 2
    u = (across - size[0] * (0.5 + view.offset[0])) / unit
    v = (down - size[1] * (0.5 + view.offset[1])) / unit
    u, v = np.cos(view.roll) * u + np.sin(view.roll) * v, np.cos(view.roll) * v - np.sin(view.roll) * u
    depth = 0.35 * np.sin(view.yaw)
    x = u / np.maximum(np.cos(view.yaw) - depth * u, 0.2)
    y = v * (1 + depth * x) / view.squash
    bent = np.where(x < 0, view.droop[0], view.droop[1]) * np.abs(x) + view.curl * x**2
    return x, y + _MIDDLE - bent


def _surface_row(rng: np.random.Generator, view: Viewpoint, size: tuple[int, int]) -> Floats:
    """Return the row, per column, at which the water surface hides the animal."""
    unit = view.span * size[0] / 2
    level = size[1] * (0.5 + view.offset[1]) + (view.waterline - _MIDDLE) * view.squash * unit
    return np.asarray(level + 0.02 * size[1] * smooth_noise(rng, (size[0], 1), (9, 2))[0], np.float32)


def _sea(rng: np.random.Generator, day: Day, size: tuple[int, int]) -> Floats:
    """Return the water, shape (height, width, 3), waves smaller towards the horizon, with sky where visible."""
    width, height = size
    waves = np.zeros((height, width), np.float32)
    for octave, strength in ((1, 1.0), (2.3, 0.7), (5, 0.5)):
        cells = (day.waves * octave * 0.6, day.waves * octave * height / width * 2.4)
        waves += strength * smooth_noise(rng, size, cells)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    light = day.contrast * (waves * (0.35 + 0.65 * rows) - 0.8 * (rows - 0.5))
    light += 150 * day.glitter * np.clip(waves - 1.4, 0, 1)
    sea = day.water + light[..., None]
    if day.horizon > 0:
        sky = np.clip((day.horizon - rows) * height / 3, 0, 1)[..., None]
        sea += sky * (day.water * 0.35 + 130 + 20 * (day.horizon - rows[..., None]) - sea)
    return np.asarray(sea, np.float32)


def _skin(rng: np.random.Generator, day: Day, pigment: Floats, relief: Floats, difficulty: float) -> Floats:
    """Return the wet skin, shape (height, width, 3), in the light of the day."""
    fall_y, fall_x = np.gradient(relief)
    slope = np.clip((fall_x * day.sun[0] + fall_y * day.sun[1]) / 8, -1, 1)
    light = day.exposure * (1 - (0.15 + 0.3 * difficulty) * slope)
    size = (pigment.shape[1], pigment.shape[0])
    wet = 0.7 * difficulty * np.clip(smooth_noise(rng, size, (10, 16)) - 0.9, 0, 1) * rng.uniform(0, 1)
    skin = (light * (10 + pigment * 0.92))[..., None] * np.array([0.97, 1.0, 1.02], np.float32)
    skin += (1 - pigment / 255)[..., None] * (day.water * 0.12)
    return np.asarray((skin + wet[..., None] * (200 - skin)) * day.tint, np.float32)


def _foam(
    rng: np.random.Generator, view: Viewpoint, surface: Floats, size: tuple[int, int], difficulty: float
) -> Floats:
    """Return how much white water covers each pixel: a ring around the stock and spray."""
    width, height = size
    rows = np.arange(height, dtype=np.float32)[:, None]
    middle = (np.arange(width, dtype=np.float32) / width - 0.5 - view.offset[0]) / view.span
    rough = smooth_noise(rng, size, (width / 12, height / 7)) + 0.7 * smooth_noise(rng, size, (width / 4, height / 3))
    ring = np.exp(-np.abs(rows - surface) / (0.03 * height) - (middle / 0.25) ** 2)
    foam = np.clip(ring * (0.8 + 0.5 * rough), 0, 1) * (0.3 + 0.6 * difficulty)
    if rng.random() < 0.7 * difficulty:
        high = rng.uniform(0.1, 0.15 + 0.5 * difficulty) * height
        wide = rng.uniform(0.06, 0.1 + 0.2 * difficulty)
        thrown = np.exp(-np.clip(np.abs(rows - surface) / high, 0, 9) - ((middle - rng.normal(0, 0.3)) / wide) ** 2)
        foam = np.maximum(foam, np.clip(2.0 * thrown + 0.35 * rough - 0.55, 0, 0.92))
    return np.asarray(foam, np.float32)


def _expose(rng: np.random.Generator, day: Day, picture: Floats, difficulty: float) -> Image.Image:
    """Return the image as the camera saves it: exposure, noise, defocus and motion blur, low resolution, grey."""
    gamma = np.float32(np.exp(difficulty * rng.normal(0, 0.3)))
    gains = np.exp(difficulty * (rng.normal(0, 0.25) + rng.normal(0, 0.04, 3))).astype(np.float32)
    bright = 255 * gains * (np.clip(picture, 0, 255) / 255) ** gamma
    bright += difficulty * rng.uniform(0, 14) * rng.standard_normal((*picture.shape[:2], 1), np.float32)
    image = Image.fromarray(np.clip(bright, 0, 255).astype(np.uint8))
    width = image.width
    image = image.filter(ImageFilter.GaussianBlur(width / 256 * difficulty * rng.exponential(0.9)))
    if rng.random() < 0.3 * difficulty:
        image = image.filter(ImageFilter.BoxBlur((width / 256 * rng.uniform(0, 3), 0)))
    if rng.random() < 0.5 * difficulty:
        few = rng.uniform(0.35, 0.9)
        image = image.resize((round(width * few), round(image.height * few))).resize(image.size)
    return image.convert("L").convert("RGB") if day.grey else image
