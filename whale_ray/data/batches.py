"""Batches to train on: photographs that come together, and how each is varied, all on the training device.

Knows rows of pixels and integer labels; knows no loss and no encoder: pictures are floats from 0 to 1, normalised
by the encoder itself. All randomness of an epoch comes from (seed, number of the epoch), so that a training which
goes on later sees the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from whale_ray.data.pixels import Geometry, centre_crop
from whale_ray.data.sampling import UNKNOWN, group_places, shuffle_places

# What strength 1 of each augmentation means.
ROTATION_DEGREES, SCALE, SHEAR_DEGREES = 25.0, 0.25, 10.0
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.5, 0.6
ERASED_SHARE = 0.3
_AT_ONCE = 8
Item = TypeVar("Item")
_GREY = (0.299, 0.587, 0.114)


class Batches:
    """The batches of a training set.

    array: uint8 (N, H', W', 3). rows: which of them train. labels: int64, one a row, 0 to C - 1, or -1 for an unknown
    individual. images_per_individual: K of PxK sampling; None for plain shuffling. evenly, negatives_share: of PxK, see
    `group_places`. flip: `none`; `augment` mirrors half of the pictures; `new_individual` gives the mirrored ones
    labels of their own, C to 2 C - 1, and in PxK sampling mirrors whole groups of K. affine, colour, blur, erasing:
    strengths from 0 (off) to 1. on_batch: called before each batch.
    """

    def __init__(
        self,
        array: np.ndarray,
        geometry: Geometry,
        rows: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        images_per_individual: int | None,
        evenly: bool = False,
        negatives_share: float | None = None,
        flip: str = "none",
        affine: float = 0.0,
        colour: float = 0.0,
        blur: float = 0.0,
        erasing: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_batch = on_batch
        self._array, self._geometry, self._device = array, geometry, torch.device(device)
        self._rows, self._labels = rows, labels
        self._individuals = int(labels.max()) + 1
        self._batch_size, self._per_individual, self._seed = batch_size, images_per_individual, seed
        self._flip, self._evenly, self._negatives_share = flip, evenly, negatives_share
        self._strengths = {"affine": affine, "colour": colour, "blur": blur, "erasing": erasing}
        self.num_classes = self._individuals * (2 if flip == "new_individual" else 1)
        self.steps = math.ceil(len(rows) / batch_size)

    @property
    def class_counts(self) -> list[int]:
        """The photographs of each class; mirrored ones that are another individual count as those that they mirror."""
        counts = np.bincount(self._labels[self._labels != UNKNOWN], minlength=self._individuals)
        return [int(count) for count in np.tile(counts, self.num_classes // self._individuals)]

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures, float32 (B, 3, H, W) from 0 to 1, and labels, int64 (B,); `steps` times."""
        made = self._made(number)
        # a processor has no time to spare while it trains
        for batch in made if self._device.type == "cpu" else one_ahead(made):
            self._on_batch()
            yield batch

    def _made(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = np.random.default_rng([self._seed, number])
        generator = torch.Generator(self._device).manual_seed(int(numbers.integers(2**62)))
        for places in self._places(numbers):
            yield self._batch(places, self._whole_groups(places, numbers), generator)

    def _places(self, numbers: np.random.Generator) -> list[np.ndarray]:
        if self._per_individual is None:
            return shuffle_places(len(self._rows), steps=self.steps, numbers=numbers)
        return group_places(
            self._labels,
            steps=self.steps,
            batch_size=self._batch_size,
            size=self._per_individual,
            evenly=self._evenly,
            negatives_share=self._negatives_share,
            numbers=numbers,
        )

    def _whole_groups(self, places: np.ndarray, numbers: np.random.Generator) -> np.ndarray | None:
        """Which pictures to mirror where that makes another individual of them: a group of K stays together."""
        if self._flip != "new_individual" or self._per_individual is None:
            return None
        size = self._per_individual
        named = int((self._labels[places] != UNKNOWN).sum())
        mirrored = np.repeat(numbers.random(named // size) < 0.5, size)
        return np.concatenate([mirrored, numbers.random(len(places) - named) < 0.5])

    def _batch(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A batch, on a processor a few pictures at a time, so that they stay in its cache."""
        size = _AT_ONCE if self._device.type == "cpu" else len(places)
        pieces = [slice(start, start + size) for start in range(0, len(places), size)]
        parts = [
            self._varied(places[piece], None if mirrored is None else mirrored[piece], generator) for piece in pieces
        ]
        return torch.cat([pictures for pictures, _ in parts]), torch.cat([labels for _, labels in parts])

    def _varied(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        moved = self._strengths["affine"] > 0
        whole = _sent_rows(self._array, self._rows[places], self._device)
        pictures = whole if moved else centre_crop(whole, self._geometry)
        pictures = pictures.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255.0)
        labels = _sent(self._labels[places], self._device)
        draw = _Draw(len(pictures), generator)
        if moved:
            pictures = _affine(pictures, self._geometry, self._strengths["affine"], draw)
        if self._flip != "none":
            chosen = draw.uniform() < 0.5 if mirrored is None else _sent(mirrored, self._device)
            pictures, labels = self._flipped(pictures, labels, chosen)
        for name, vary in (("colour", _colour), ("blur", _blur), ("erasing", _erase)):
            if self._strengths[name] > 0:
                pictures = vary(pictures, self._strengths[name], draw)
        return pictures, labels

    def _flipped(self, pictures: Tensor, labels: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
        return pictures, self._renamed(labels, mirrored)

    def _renamed(self, labels: Tensor, mirrored: Tensor) -> Tensor:
        """The labels of pictures of which some are mirrored: those of other individuals, where the flip makes them."""
        if self._flip != "new_individual":
            return labels
        return torch.where(mirrored & (labels != UNKNOWN), labels + self._individuals, labels)


class FeatureBatches(Batches):
    """Batches of what a frozen encoder makes of the pictures, in place of these: float (B, C).

    array: the features of the plain photographs, (N, C). mirrored: those of the mirrored ones. Strengths must be 0.
    """

    def __init__(self, array: np.ndarray, mirrored: np.ndarray, *args: Any, **options: Any) -> None:
        super().__init__(array, *args, **options)
        self._mirrored = mirrored

    def _varied(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        rows = self._rows[places]
        features, labels = _sent_rows(self._array, rows, self._device), _sent(self._labels[places], self._device)
        if self._flip == "none":
            return features, labels
        chosen = _Draw(len(rows), generator).uniform() < 0.5 if mirrored is None else _sent(mirrored, self._device)
        others = _sent_rows(self._mirrored, rows, self._device)
        return torch.where(chosen[:, None], others, features), self._renamed(labels, chosen)


def _sent(values: np.ndarray, device: torch.device) -> Tensor:
    """The values on the device. A GPU takes them from pinned memory, when it comes to them: nobody waits for it."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _sent_rows(array: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """The rows of the array on the device, as `_sent`, copied once on this side."""
    if device.type == "cpu":
        return torch.from_numpy(array[rows])
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    pinned = torch.empty((len(rows), *array.shape[1:]), dtype=dtype, pin_memory=True)
    np.take(array, rows, axis=0, out=pinned.numpy(), mode="clip")
    return pinned.to(device, non_blocking=True)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made on a thread of its own while the one before is in use."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class _Draw:
    """Random numbers for a batch of B pictures."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count, self._generator = count, generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """B numbers from low to high."""
        numbers = torch.rand(self._count, generator=self._generator, device=self._generator.device)
        return low + (high - low) * numbers


def _affine(pictures: Tensor, geometry: Geometry, strength: float, draw: _Draw) -> Tensor:
    """Rotates, scales, shears and shifts each picture; what moves in comes from the border."""
    angle = torch.deg2rad(draw.uniform(-1, 1) * ROTATION_DEGREES * strength)
    shear = torch.tan(torch.deg2rad(draw.uniform(-1, 1) * SHEAR_DEGREES * strength))
    scale = torch.exp(draw.uniform(-1, 1) * math.log1p(SCALE * strength))
    height, width = geometry.height, geometry.width
    stored_height, stored_width = geometry.stored
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = geometry.margin * strength
    rows = [
        (cosine * width / stored_width, (shear * cosine - sine) * height / stored_width, draw.uniform(-shift, shift)),
        (sine * width / stored_height, (shear * sine + cosine) * height / stored_height, draw.uniform(-shift, shift)),
    ]
    x, y = _centres(width, pictures.device), _centres(height, pictures.device)[:, None]
    # affine_grid does the same by many products with 3 x 2 matrices: a quarter of a batch's time on a processor
    sides = [a[:, None, None] * x + b[:, None, None] * y + c[:, None, None] for a, b, c in rows]
    grid = torch.stack(sides, dim=3)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(size: int, device: torch.device) -> Tensor:
    """Where the centres of `size` pixels lie between -1 and 1, the outer edges."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _colour(pictures: Tensor, strength: float, draw: _Draw) -> Tensor:
    """Changes brightness, contrast and saturation of each picture."""
    brightness, contrast, saturation = (
        torch.exp(draw.uniform(-1, 1) * math.log1p(most * strength))[:, None, None]
        for most in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    weights = torch.stack([torch.full((), share, device=pictures.device) for share in _GREY])  # nothing to be sent
    to_grey = weights.expand(3, 3)
    matrix = brightness * contrast * torch.lerp(to_grey, torch.eye(3, device=pictures.device), saturation)
    mean = (pictures.mean(dim=(2, 3)) @ weights)[:, None, None]
    offset = (brightness * (1 - contrast) * mean).expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, pictures.flatten(2)).clamp_(0.0, 1.0).view_as(pictures)


def _blur(pictures: Tensor, strength: float, draw: _Draw) -> Tensor:
    """Mixes each picture with its 5 x 5 mean, half of them not at all."""
    weight = (draw.uniform(-1, 1) * strength).clamp_(min=0.0)[:, None, None, None]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return torch.lerp(pictures, _sum_of_five(_sum_of_five(padded, dim=2), dim=3).div_(25.0), weight)


def _sum_of_five(pictures: Tensor, *, dim: int) -> Tensor:
    """Each row or column with its two neighbours on both sides, 4 fewer than came: a tenth of avg_pool2d's time."""
    size = pictures.shape[dim] - 4
    total = pictures.narrow(dim, 0, size) + pictures.narrow(dim, 1, size)
    for start in (2, 3, 4):
        total += pictures.narrow(dim, start, size)
    return total


def _erase(pictures: Tensor, strength: float, draw: _Draw) -> Tensor:
    """Greys a rectangle of each picture, half of them not at all (random erasing, Zhong et al. 2020)."""
    height, width = pictures.shape[2:]
    area = draw.uniform(-1, 1).clamp_(min=0.0) * ERASED_SHARE * strength
    aspect = torch.exp(draw.uniform(-1, 1))
    tall, wide = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    top, left = draw.uniform() * (1 - tall), draw.uniform() * (1 - wide)
    y = (torch.arange(height, device=pictures.device) + 0.5) / height
    x = (torch.arange(width, device=pictures.device) + 0.5) / width
    inside_y = (y >= top[:, None]) & (y < (top + tall)[:, None])
    inside_x = (x >= left[:, None]) & (x < (left + wide)[:, None])
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return pictures.masked_fill(inside, 0.5)
