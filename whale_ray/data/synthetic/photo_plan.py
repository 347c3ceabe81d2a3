"""Plan of a synthetic data set: who is photographed, how often, on which encounter and day.

Class balance follows the Kaggle competition humpback-whale-identification. Many animals share a day (light, water), so
that the background tells nothing about the individual beyond its encounter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "new_whale"
UNKNOWN_SHARE, UNKNOWN_TEST_SHARE, SINGLETON_SHARE = 0.381, 0.28, 0.414
"""As in the competition: 9,664 of 25,361 images are of unknown animals, 2,073 of 5,004 animals have one image."""


@dataclass(frozen=True)
class Photo:
    """One photograph to draw; `label` is UNKNOWN if its animal (a number) has no name."""

    number: int
    image: str
    part: str
    label: str
    animal: int
    encounter: int
    day: int


def plan_photos(*, individuals: int, images: int, seed: int) -> list[Photo]:
    """Return the photographs of a data set, grouped by animal.

    Args:
        individuals: Number of named individuals.
        images: Number of photographs in part "train"; a fifth as many more are in part "test".
        seed: Seed of the plan.
    """
    rng = np.random.default_rng([seed, 0])
    names = [f"w_{name:07x}" for name in rng.choice(16**7, individuals, replace=False)]
    counts = images_per_individual(individuals, images - round(images * UNKNOWN_SHARE))
    rng.shuffle(counts)
    tested = max(1, images // 5)
    unknown = round(tested * UNKNOWN_TEST_SHARE)
    drawn = rng.choice(individuals, tested - unknown, p=counts / counts.sum())
    again = np.bincount(drawn, minlength=individuals)
    met = [("train", animal, size) for animal in range(individuals) for size in _encounters(rng, counts[animal])]
    met += [("test", animal, size) for animal in range(individuals) for size in _encounters(rng, again[animal])]
    for part, count in (("train", images - counts.sum()), ("test", unknown)):
        sizes = _encounters(rng, count)
        met += [(part, individuals + len(met) + extra, size) for extra, size in enumerate(sizes)]
    return _name_photos(rng, met, names, days=max(3, images // 40))


def images_per_individual(individuals: int, images: int) -> NDArray[np.int64]:
    """Return the number of images of each individual, ascending.

    Four in ten individuals have one image. The others have two plus a Lomax tail of shape 3, fitted to the
    competition's train.csv.

    Args:
        individuals: Number of individuals.
        images: Total number of images.
    """
    single = min(round(SINGLETON_SHARE * individuals), individuals - 1)
    rest = individuals - single
    counts = np.repeat(np.array([1, 2], np.int64), [single, rest])
    left = images - int(counts.sum())
    tail = (1 - (np.arange(rest) + 0.5) / rest) ** (-1 / 3) - 1
    low, high = 0.0, (left + 1) / tail[-1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.floor(middle * tail).sum() <= left else (low, middle)
    extra = np.floor(low * tail).astype(np.int64)
    counts[single:] += extra
    counts[-1] += left - extra.sum()
    return counts


def _encounters(rng: np.random.Generator, images: int) -> list[int]:
    """Return how many photographs each encounter of one animal has; the first has enough for two encounters."""
    left, sizes = int(images), list[int]()
    while left > 0:
        sizes.append(min(left, 1 + int(np.searchsorted((0.6, 0.85), rng.random()))) if sizes else 1)
        left -= sizes[-1]
    return sizes


def _name_photos(
    rng: np.random.Generator, met: list[tuple[str, int, int]], names: list[str], *, days: int
) -> list[Photo]:
    """Return the photographs of encounters (part, animal, photographs) with meaningless file names."""
    hashes = iter(rng.choice(16**9, sum(size for *_, size in met), replace=False))
    codes, when = rng.permutation(len(met)), rng.integers(0, days, len(met))
    photos = [
        (
            f"{next(hashes):09x}.jpg",
            part,
            names[animal] if animal < len(names) else UNKNOWN,
            animal,
            int(code),
            int(day),
        )
        for (part, animal, size), code, day in zip(met, codes, when, strict=True)
        for _ in range(size)
    ]
    return [Photo(number, *row) for number, row in enumerate(sorted(photos, key=lambda row: (row[3], row[0])))]
