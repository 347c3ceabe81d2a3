"""Thumbnails: small JPEGs of images, and the files that hold those of a whole cache."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

THUMBNAIL_SIDE = 160
_BYTES, _ENDS = "thumbnails.npy", "thumbnail_ends.npy"


def shrink_to_jpeg(image: Image.Image, *, side: int = THUMBNAIL_SIDE, quality: int = 85) -> bytes:
    """Return an image as JPEG, shrunk in place to fit into a square.

    Args:
        image: RGB image; it has the size of the result afterwards.
        side: Side of the square in pixels; a smaller image keeps its size.
        quality: JPEG quality, 1 to 95.
    """
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class StoredThumbnails:
    """Thumbnails by row, in a memory map.

    Args:
        folder: Folder that `write_thumbnails` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._bytes = np.load(folder / _BYTES, mmap_mode="r", allow_pickle=False)
        self._ends = np.load(folder / _ENDS, allow_pickle=False)

    def __getitem__(self, row: int) -> bytes:
        """Return the JPEG of a row; empty if its image could not be decoded."""
        start = self._ends[row - 1] if row else 0
        return bytes(self._bytes[start : self._ends[row]])


def write_thumbnails(folder: Path, thumbnails: Sequence[bytes]) -> None:
    """Write thumbnails into a folder.

    Args:
        folder: The folder.
        thumbnails: JPEG of each row; empty for an image without one.
    """
    np.save(folder / _BYTES, np.frombuffer(b"".join(thumbnails), np.uint8), allow_pickle=False)
    np.save(folder / _ENDS, np.cumsum([len(one) for one in thumbnails], dtype=np.int64), allow_pickle=False)


def read_thumbnails(folder: Path) -> StoredThumbnails | None:
    """Return the thumbnails in a folder; None if an earlier version wrote it, without thumbnails."""
    return StoredThumbnails(folder) if (folder / _ENDS).exists() else None
