"""Embeddings of photographs seen whole, by the animal alone and by the background alone."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry, center_crop, fit_image, visible_box
from whale_ray.retrieval.shortcuts.animal_separation import Region, separate_animal
from whale_ray.retrieval.shortcuts.shortcut_scores import ANIMAL, BACKGROUND, PARTS, WHOLE

_SHOWN, _SHOWN_SIDE, _QUALITY = 3, 200, 75


class SeparatedInput(NamedTuple):
    """A photograph as the encoder's input, and its parts.

    Attributes:
        stored: The input with its border, uint8, shape (H', W', 3).
        parts: The input without border, whole and with one part of it, uint8, shape (H, W, 3), by name of the part.
        source: What told the animal from its background: `box`, `GrabCut` or `Otsu`.
    """

    stored: np.ndarray
    parts: Mapping[str, np.ndarray]
    source: str


def separate_photograph(
    photograph: Image.Image, geometry: Geometry, *, box: Box | None = None
) -> SeparatedInput | None:
    """Return a photograph whole, the animal alone and the background alone; None if they cannot be told apart.

    Args:
        photograph: Upright RGB image.
        geometry: Geometry of the encoder's input.
        box: Box of the animal in its pixels; None if unknown.
    """
    stored = fit_image(photograph, geometry, box=box)
    whole = center_crop(stored, geometry)
    seen = visible_box(photograph.size, geometry, box=box)
    everything = (0.0, 0.0, float(photograph.width), float(photograph.height))
    found = separate_animal(
        whole,
        content=_in_input(everything, seen, geometry),
        box=None if box is None else _in_input(box, seen, geometry),
    )
    if found is None:
        return None
    return SeparatedInput(stored, {WHOLE: whole, ANIMAL: found.animal, BACKGROUND: found.background}, found.source)


class SeparatedPhotographs:
    """Photographs whose animal and background can be told apart, embedded in three ways.

    Args:
        embed: Maps encoder inputs, uint8, shape (H', W', 3), to unit vectors (n, D).
        geometry: Geometry of the encoder's input.
    """

    def __init__(self, embed: Callable[[Sequence[np.ndarray]], np.ndarray], geometry: Geometry) -> None:
        self._embed, self._geometry = embed, geometry
        self._waiting: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self.images: list[str] = []
        self.sources: Counter[str] = Counter()
        self.pictures: list[dict[str, str]] = []
        """The first photographs, for people: the image's name, and a data URI of each part."""

    def add(self, image: str, found: SeparatedInput) -> None:
        """Add a photograph that `separate_photograph` has separated.

        Args:
            image: Name of the photograph.
            found: Its parts.
        """
        self.images.append(image)
        self.sources[found.source] += 1
        self._waiting += [_with_border(found.stored, found.parts[part], self._geometry) for part in PARTS]
        if len(self.pictures) < _SHOWN:
            shown = {part: _data_uri(picture) for part, picture in found.parts.items()}
            self.pictures.append({"image": image} | shown)

    def embed_added(self) -> None:
        """Embed the photographs that were added since the last call."""
        if self._waiting:
            vectors = self._embed(self._waiting)
            self._vectors.append(vectors.reshape(-1, len(PARTS), vectors.shape[1]))
            self._waiting = []

    def vectors(self) -> dict[str, np.ndarray]:
        """Return the unit vectors by part, each of shape (photographs, D)."""
        self.embed_added()
        vectors = np.concatenate(self._vectors)
        return {part: vectors[:, place] for place, part in enumerate(PARTS)}


def _in_input(box: Box, seen: Box, geometry: Geometry) -> Region:
    """Return a box of the photograph in pixels of the encoder's input, clipped to it."""
    across, down = geometry.width / (seen[2] - seen[0]), geometry.height / (seen[3] - seen[1])
    x0, x1 = (min(max(round((x - seen[0]) * across), 0), geometry.width) for x in (box[0], box[2]))
    y0, y1 = (min(max(round((y - seen[1]) * down), 0), geometry.height) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _with_border(stored: np.ndarray, picture: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return an input with its border whose center crop is `picture`."""
    changed = stored.copy()
    center_crop(changed, geometry)[...] = picture
    return changed


def _data_uri(picture: np.ndarray) -> str:
    image, buffer = Image.fromarray(np.ascontiguousarray(picture)), io.BytesIO()
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
