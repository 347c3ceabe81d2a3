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
from torch import Tensor

from whale_ray.data.pixel_cache import Geometry, centre_crop
from whale_ray.data.samplers import UNKNOWN, group_places, shuffle_places
from whale_ray.data.transforms import VARIATIONS, Draw, move

_AT_ONCE = 8
Item = TypeVar("Item")


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
        draw = Draw(len(pictures), generator)
        if moved:
            pictures = move(pictures, self._geometry, self._strengths["affine"], draw)
        if self._flip != "none":
            chosen = draw.uniform() < 0.5 if mirrored is None else _sent(mirrored, self._device)
            pictures, labels = self._flipped(pictures, labels, chosen)
        for name, vary in VARIATIONS.items():
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
        chosen = Draw(len(rows), generator).uniform() < 0.5 if mirrored is None else _sent(mirrored, self._device)
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
    np.take(array, rows, axis=0, out=pinned.numpy(), mode="clip")  # with `raise`, NumPy would copy them once more
    return pinned.to(device, non_blocking=True)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made on a thread of its own while the one before is in use."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
