"""Training batches: sampling, augmentation and transfer to the training device.

Images are floats from 0 to 1; the encoder normalises them. The randomness of an epoch depends on (seed, epoch) alone,
so that a resumed training sees the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from whale_ray.data.augmentations import AUGMENTATIONS, BatchRandom, apply_affine
from whale_ray.data.image_io import Geometry, center_crop
from whale_ray.data.samplers import UNKNOWN, pk_batches, shuffled_batches

_CPU_CHUNK = 8
Item = TypeVar("Item")


class Batches:
    """The batches of a training set.

    Args:
        array: Decoded images, uint8, shape (N, H', W', 3).
        geometry: Geometry of `array`.
        rows: Rows of `array` that train, shape (n,).
        labels: Class of each row, int64, 0 to C - 1, or -1 for an unknown individual.
        batch_size: Images per batch.
        images_per_individual: K of P x K sampling; None shuffles all rows.
        evenly: P x K sampling draws every individual equally often.
        negatives_share: Share of unknown individuals per batch; None keeps their share of the data.
        flip: `none`; `augment` mirrors half of the images; `new_individual` gives mirrored images separate labels,
            C to 2C - 1, and mirrors whole groups of K.
        affine: Strength of the affine augmentation, 0 (off) to 1.
        colour: Strength of the color jitter, 0 to 1.
        blur: Strength of the blur, 0 to 1.
        erasing: Strength of random erasing, 0 to 1.
        seed: Seed of all randomness.
        device: Device of the returned tensors.
        on_batch: Called before each batch.
        rank: Number of this worker, from 0. It loads the images rank, rank + workers, rank + 2 workers … of each batch.
        workers: Number of workers that train together. Their images together are the batches of a single worker.
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
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self._on_batch = on_batch
        self._rank, self._workers = rank, workers
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
        """Return the number of photographs of each class. A mirrored class counts as the class that it mirrors."""
        counts = np.bincount(self._labels[self._labels != UNKNOWN], minlength=self._individuals)
        return [int(count) for count in np.tile(counts, self.num_classes // self._individuals)]

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `steps` batches: images, float32, shape (B, 3, H, W), 0 to 1, and labels, int64, shape (B,).

        With several workers, the images are those of this worker and the labels those of the whole batch.
        """
        made = self._made(number)
        # a processor has no time to spare while it trains
        for batch in made if self._device.type == "cpu" else prefetch_one(made):
            self._on_batch()
            yield batch

    def _made(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = np.random.default_rng([self._seed, number])
        generator = torch.Generator(self._device).manual_seed(int(numbers.integers(2**62)))
        for places in self._places(numbers):
            yield self._batch(places, self._whole_groups(places, numbers), generator)

    def _places(self, numbers: np.random.Generator) -> list[np.ndarray]:
        if self._per_individual is None:
            return shuffled_batches(len(self._rows), steps=self.steps, numbers=numbers)
        return pk_batches(
            self._labels,
            steps=self.steps,
            batch_size=self._batch_size,
            size=self._per_individual,
            evenly=self._evenly,
            negatives_share=self._negatives_share,
            numbers=numbers,
        )

    def _whole_groups(self, places: np.ndarray, numbers: np.random.Generator) -> np.ndarray | None:
        """Return which images to mirror if mirroring makes another individual: a group of K stays together."""
        if self._flip != "new_individual" or self._per_individual is None:
            return None
        size = self._per_individual
        named = int((self._labels[places] != UNKNOWN).sum())
        mirrored = np.repeat(numbers.random(named // size) < 0.5, size)
        return np.concatenate([mirrored, numbers.random(len(places) - named) < 0.5])

    def _batch(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a batch. On a CPU it is made a few images at a time, so that they stay in its cache."""
        size = _CPU_CHUNK if self._device.type == "cpu" else len(places)
        pieces = [slice(start, start + size) for start in range(0, len(places), size)]
        parts = [
            self._varied(
                places[piece], None if mirrored is None else mirrored[piece], generator, self._own_images(piece.start)
            )
            for piece in pieces
        ]
        return torch.cat([pictures for pictures, _ in parts]), torch.cat([labels for _, labels in parts])

    def _own_images(self, start: int) -> slice:
        """Return the images of this worker in a piece that begins at the image `start` of its batch."""
        return slice((self._rank - start) % self._workers, None, self._workers)

    def _varied(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator, own: slice
    ) -> tuple[Tensor, Tensor]:
        moved = self._strengths["affine"] > 0
        whole = _rows_to_device(self._array, self._rows[places[own]], self._device)
        pictures = whole if moved else center_crop(whole, self._geometry)
        pictures = pictures.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255.0)
        labels = _to_device(self._labels[places], self._device)
        draw = BatchRandom(len(places), generator, own)
        if moved:
            pictures = apply_affine(pictures, self._geometry, self._strengths["affine"], draw)
        if self._flip != "none":
            chosen = draw.uniform_of_all() < 0.5 if mirrored is None else _to_device(mirrored, self._device)
            pictures = torch.where(chosen[own, None, None, None], pictures.flip(3), pictures)
            labels = self._renamed(labels, chosen)
        for name, vary in AUGMENTATIONS.items():
            if self._strengths[name] > 0:
                pictures = vary(pictures, self._strengths[name], draw)
        return pictures, labels

    def _renamed(self, labels: Tensor, mirrored: Tensor) -> Tensor:
        """Return the labels after mirroring: with `new_individual`, those of the mirrored class."""
        if self._flip != "new_individual":
            return labels
        return torch.where(mirrored & (labels != UNKNOWN), labels + self._individuals, labels)


class FeatureBatches(Batches):
    """Batches of frozen-encoder features instead of images: float, shape (B, C).

    Args:
        array: Features of the plain images, shape (N, C).
        mirrored: Features of the mirrored images, shape (N, C).
        *args: Further arguments of `Batches`.
        **options: Further arguments of `Batches`; all strengths must be 0.
    """

    def __init__(self, array: np.ndarray, mirrored: np.ndarray, *args: Any, **options: Any) -> None:
        super().__init__(array, *args, **options)
        self._mirrored = mirrored

    def _varied(
        self, places: np.ndarray, mirrored: np.ndarray | None, generator: torch.Generator, own: slice
    ) -> tuple[Tensor, Tensor]:
        rows = self._rows[places[own]]
        features, labels = (
            _rows_to_device(self._array, rows, self._device),
            _to_device(self._labels[places], self._device),
        )
        if self._flip == "none":
            return features, labels
        chosen = (
            BatchRandom(len(places), generator).uniform_of_all() < 0.5
            if mirrored is None
            else _to_device(mirrored, self._device)
        )
        others = _rows_to_device(self._mirrored, rows, self._device)
        return torch.where(chosen[own, None], others, features), self._renamed(labels, chosen)


def _to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Return the values on the device. A GPU copies from pinned memory without blocking the caller."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _rows_to_device(array: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """Return rows of the array on the device, copied once on the host."""
    if device.type == "cpu":
        return torch.from_numpy(array[rows])
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    pinned = torch.empty((len(rows), *array.shape[1:]), dtype=dtype, pin_memory=True)
    np.take(array, rows, axis=0, out=pinned.numpy(), mode="clip")  # with `raise`, NumPy would copy them once more
    return pinned.to(device, non_blocking=True)


def prefetch_one(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items, preparing the next one on a thread while the current one is in use."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
