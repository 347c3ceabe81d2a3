"""Twins: copies of one picture, possibly re-encoded or resized, found by perceptual hashes and confirmed by pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from whale_ray.data.components import components_by_pairs
from whale_ray.data.pixel_cache import DecodedImages

HASH_DISTANCE = 6  # bits of 64 in which the perceptual hashes of twins may differ
PIXEL_DISTANCE = 5.0  # grey levels of 255 by which twins may differ on average, at 16 x 16
_ROWS_PER_CHUNK = 2048  # photographs compared at once with all others


def find_twins(pixels: DecodedImages, usable: np.ndarray, files: np.ndarray) -> pd.Series:
    """Return the twin group of each row, named after its first row; "" for rows without a twin.

    Two animals in one photograph are no twins, even if their boxes overlap.

    Args:
        pixels: Decoded images of N rows.
        usable: True for rows whose image can be used, bool, shape (N,).
        files: Number of the image file of each row, int, shape (N,).
    """
    small = pixels.small.astype(np.float32)
    near = np.array(list(_pairs_by_hash(pixels.health["phash"], usable)), dtype=np.int64).reshape(-1, 2)
    near = near[files[near[:, 0]] != files[near[:, 1]]]
    differences = [np.abs(small[one] - small[other]).mean() for one, other in near]
    first = components_by_pairs(len(usable), near[np.array(differences, dtype=np.float32) <= PIXEL_DISTANCE])
    counts = np.bincount(first, minlength=len(first))
    return pd.Series([f"twin{row}" if counts[row] > 1 else "" for row in first], index=pixels.health.index)


def _pairs_by_hash(hashes: pd.Series, usable: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with near perceptual hashes, in chunks so that no N x N matrix is held."""
    rows = np.flatnonzero(usable)
    codes = np.array([int(hashes.iloc[row], 16) for row in rows], dtype=np.uint64)
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        chunk = codes[start : start + _ROWS_PER_CHUNK]
        near = np.bitwise_count(chunk[:, None] ^ codes[None, start:]) <= HASH_DISTANCE
        for one, other in np.argwhere(near):
            if one < other:
                yield int(rows[start + one]), int(rows[start + other])
