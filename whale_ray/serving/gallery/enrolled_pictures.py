"""Enrolled pictures and their identity: a photograph, or an animal's box in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np

from whale_ray.data.decoding.image_formats import EXTENSIONS, recognize_format
from whale_ray.data.formats.animal_rows import animal_name, box_text
from whale_ray.data.image_io import Box
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits
from whale_ray.retrieval.local.feature_bytes import pack_features
from whale_ray.retrieval.local.local_features import VERSION, LocalFeatures


class PackedKeypoints(NamedTuple):
    """Local features of a picture as they are stored.

    Attributes:
        kind: `sift` or `orb`.
        version: Version of the features.
        features: Bytes of `pack_features`.
    """

    kind: str
    version: int
    features: bytes


@dataclass(frozen=True)
class EnrolledPicture:
    """A picture to enrol.

    Attributes:
        digest: `picture_digest` of `data` and `box`.
        name: Its name from now on.
        data: The image file.
        thumbnail: JPEG thumbnail.
        vector: Its embedding.
        box: Box of the animal; None for the whole photograph.
        traits: Its viewpoint and species.
        keypoints: Its local features; None for a bundle without.
    """

    digest: str
    name: str
    data: bytes
    thumbnail: bytes
    vector: np.ndarray
    box: Box | None = None
    traits: AnimalTraits = UNKNOWN_TRAITS
    keypoints: PackedKeypoints | None = None


@dataclass(frozen=True)
class Entry:
    """A picture in the current gallery."""

    digest: str
    image: str
    individual: str
    box: Box | None = None
    traits: AnimalTraits = UNKNOWN_TRAITS

    @property
    def file(self) -> str:
        """File name of the photograph."""
        return self.image if self.box is None else self.image.partition("#")[0]


@dataclass(frozen=True)
class StoreState:
    """The enrolled pictures and the hidden ones of the bundle at one version."""

    version: int
    entries: tuple[Entry, ...]
    hidden_images: frozenset[str]
    hidden_individuals: frozenset[str]

    def is_hidden(self, image: str, individual: str, picture: str) -> bool:
        """Return whether an image of a bundle is hidden.

        Args:
            image: Name of the image in the bundle.
            individual: Its individual.
            picture: Its name as an enrolled picture, which is hidden if the picture was forgotten.
        """
        return individual in self.hidden_individuals or not self.hidden_images.isdisjoint((image, picture))


@dataclass(frozen=True)
class Version:
    """A change of the gallery (`enrol`, `forget` or `restore`) and its number of pictures."""

    number: int
    at: datetime
    kind: str
    pictures: int


def pack_keypoints(features: LocalFeatures, kind: str) -> PackedKeypoints:
    """Return the local features of a picture as they are stored.

    Args:
        features: The features.
        kind: `sift` or `orb`.
    """
    return PackedKeypoints(kind, VERSION, pack_features(features, kind))


def picture_digest(data: bytes, box: Box | None = None) -> str:
    """Return the identity of a picture, a SHA-256 in hex: of the file, or of the file's and the box.

    Args:
        data: The image file.
        box: Box of the animal; None for the whole photograph.
    """
    digest = hashlib.sha256(data).hexdigest()
    return digest if box is None else hashlib.sha256(f"{digest}#{box_text(box)}".encode()).hexdigest()


def round_box(box: Box) -> Box:
    """Return a box with six significant digits a side, as databases and data sets hold it."""
    x0, y0, x1, y1 = (float(f"{side:.6g}") for side in box)
    return x0, y0, x1, y1


def picture_name(data: bytes, box: Box | None = None) -> str:
    """Return the name of an enrolled picture: that of its file, followed by the box as in a data set.

    Args:
        data: The image file.
        box: Box of the animal; None for the whole photograph.
    """
    extension = EXTENSIONS[recognize_format(data) or "JPEG"]
    file = f"enrolled-{picture_digest(data)[:32]}.{extension}"
    return file if box is None else animal_name(file, box)
