"""Local features of one photograph: keypoints with compact descriptors (RootSIFT, ORB or those of a network)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, crop_to_box
from whale_ray.errors import InputError
from whale_ray.retrieval.local.learned.keypoint_network import SCALE
from whale_ray.retrieval.local.learned.network_registry import network_of

LOCAL_KINDS = ("sift", "orb")
LOCAL_SIDE = 384
"""Pixels of the longer side of the picture in which keypoints are searched."""
MOST_KEYPOINTS = 500
"""Largest number of keypoints per photograph."""
VERSION = 2
"""Version of the features: features of another version are computed again."""
_LEAST_SIDE = 8  # pixels of the shorter side; OpenCV refuses to shrink narrower pictures
_LENGTH = 512  # of a RootSIFT vector: its numbers fit into uint8, and float32 holds all squared distances exactly
_DIMENSIONS = {"sift": 128, "orb": 256}
_LEARNED = re.compile(r"onnx(\d{1,3})-[0-9a-f]{8}")


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints of one photograph and their descriptors.

    Attributes:
        points: x and y of each keypoint as shares of the picture's width and height, float32, shape (K, 2), 0 to 1.
        descriptors: uint8, shape (K, D). `sift`: RootSIFT of length 512, D = 128 (Arandjelović and Zisserman, "Three
            things everyone should know to improve object retrieval", CVPR 2012). Of a network: as
            `learned.keypoint_network.quantize_descriptors` writes them. `orb`: the bits as 0 and 1, D = 256,
            whose squared Euclidean distance is the Hamming distance.
    """

    points: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


def descriptor_size(kind: str) -> int:
    """Return the number D of values of one descriptor.

    Raises:
        InputError: If the kind is unknown.
    """
    if (learned := _LEARNED.fullmatch(kind)) is not None:
        return int(learned[1])
    if kind not in _DIMENSIONS:
        raise InputError(
            f"local features are one of {', '.join(LOCAL_KINDS)} or of a network, but got {kind!r}. Choose one of these"
        )
    return _DIMENSIONS[kind]


def is_local_kind(kind: str) -> bool:
    """Return whether a name is `sift`, `orb` or the kind of a network."""
    return kind in _DIMENSIONS or _LEARNED.fullmatch(kind) is not None


def squared_length(kind: str) -> int:
    """Return the squared distance that counts as 1 in scores: of unit vectors, or of all bits for `orb`."""
    if kind == "orb":
        return descriptor_size(kind)
    return _LENGTH**2 if kind == "sift" else SCALE**2


def no_features(kind: str) -> LocalFeatures:
    """Return the features of a photograph without keypoints."""
    return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, descriptor_size(kind)), np.uint8))


def local_picture(image: Image.Image, *, box: Box | None = None, side: int = LOCAL_SIDE) -> np.ndarray:
    """Return the picture in which keypoints are searched, uint8, shape (H, W, 3), with its aspect ratio.

    Args:
        image: The upright RGB photograph.
        box: x0, y0, x1, y1 of the animal in pixels; None for the whole photograph.
        side: Length of the longer side in pixels; smaller pictures are enlarged.

    Raises:
        DataError: If less than one pixel of the box lies inside the image.
    """
    crop = crop_to_box(image, box)
    scale = side / max(crop.size)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    return np.array(crop.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.uint8)


def extract_features(picture: np.ndarray, kind: str, *, most: int = MOST_KEYPOINTS) -> LocalFeatures:
    """Return the strongest keypoints of a picture; none in a picture of one color or of less than 8 pixels' width.

    Args:
        picture: The result of `local_picture`, uint8, shape (H, W, 3).
        kind: `sift`, `orb` or the kind of a registered network.
        most: Largest number of keypoints.

    Raises:
        InputError: If the kind is unknown, or its network is not registered.
    """
    if min(picture.shape[:2]) < _LEAST_SIDE:
        return no_features(kind)
    descriptor_size(kind)  # refuses an unknown kind
    points, descriptors = _find(picture, kind, most) if kind in LOCAL_KINDS else network_of(kind).find(picture, most)
    # Rounded as they are stored: features read from a file equal those just extracted.
    points = np.clip(points, 0.0, 1.0).astype(np.float16).astype(np.float32)
    return LocalFeatures(points, descriptors)


def _find(picture: np.ndarray, kind: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (K, 2), as shares of width and height, and descriptors (K, D) by OpenCV."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    detector = cv2.SIFT_create(nfeatures=most) if kind == "sift" else cv2.ORB_create(nfeatures=most)
    keypoints, found = detector.detectAndCompute(grey, None)
    if found is None or not len(keypoints):
        return np.zeros((0, 2)), np.zeros((0, descriptor_size(kind)), np.uint8)
    # OpenCV keeps more than `most` where responses are equal, in no order.
    strongest = np.argsort([-keypoint.response for keypoint in keypoints], kind="stable")[:most]
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32)[strongest] / grey.shape[::-1]
    return points, _root_sift(found[strongest]) if kind == "sift" else np.unpackbits(found[strongest], axis=1)


def _root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Return RootSIFT vectors of length 512, rounded to uint8."""
    precise = descriptors.astype(np.float64)
    shares = precise / np.maximum(precise.sum(axis=1, keepdims=True), 1e-12)
    rounded: np.ndarray = np.clip(np.rint(np.sqrt(shares) * _LENGTH), 0, 255).astype(np.uint8)
    return rounded
