"""Keypoint network: an ONNX model that finds keypoints and their descriptors, in ONNX Runtime.

Exports of DISK, ALIKED and SuperPoint for LightGlue have this form (github.com/fabio-sim/LightGlue-ONNX, v0.1 to v1):
one image in, keypoints, scores and descriptors out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from whale_ray.learning.onnx_image_model import OnnxImageModel

LEAST_SIZE, MOST_SIZE = 8, 256
"""Limits of the number of values of a descriptor; with more, squared distances of bytes are not exact in float32."""
SCALE = 255
"""Length of a unit descriptor in bytes: values are rounded to 128 + 255 v within 0 and 255."""
_MULTIPLE = 32  # of the sides of the input, which networks with pooling need
_GRAY = (0.299, 0.587, 0.114)
_REMEDY = "Export an extractor such as DISK or ALIKED without the matcher"


class KeypointNetwork:
    """An ONNX model of keypoints.

    The input is (1, 3, H, W) or (1, 1, H, W), RGB or gray from 0 to 1, of any or of a fixed size. The outputs are,
    in any order, keypoints (1, N, 2), x and y in pixels or from -1 to 1, scores (1, N), and descriptors (1, N, D).

    Args:
        path: The ONNX file.

    Attributes:
        size: Number D of values of a descriptor.

    Raises:
        InputError: If the file is no such model, or ONNX Runtime is missing.
    """

    def __init__(self, path: Path) -> None:
        self._model = OnnxImageModel(
            path, purpose="cannot find keypoints", user="learned keypoints need", remedy=_REMEDY, threads=1
        )  # one thread: photographs are searched in parallel
        self._check_input()
        self._channels, self._sides = self._model.shape[1], self._model.sides
        sides = self._sides or (96, 128)
        noise = np.random.default_rng(0).integers(0, 256, (*sides, 3)).astype(np.uint8)
        points, _, descriptors = self._run(noise)
        self._is_normalized = bool(len(points) and np.abs(points).max() <= 1.0)
        self.size = descriptors.shape[1]
        if not LEAST_SIZE <= self.size <= MOST_SIZE:
            raise self._model.fault(
                f"its descriptors must have {LEAST_SIZE} to {MOST_SIZE} values, but have {self.size}"
            )

    def find(self, picture: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the strongest keypoints of a picture.

        Args:
            picture: uint8, shape (H, W, 3).
            most: Largest number of keypoints.

        Returns:
            x and y as shares of width and height, float64, shape (K, 2), and descriptors, uint8, shape (K, D).

        Raises:
            InputError: If the model fails on the picture.
        """
        if (picture == picture[0, 0]).all():  # of one color: some exports fail where nothing is found
            return np.zeros((0, 2)), np.zeros((0, self.size), np.uint8)
        padded, sides = self._padded(picture)
        points, scores, descriptors = self._run(padded)
        if self._is_normalized:
            points = (points + 1.0) / 2.0 * (padded.shape[1] - 1, padded.shape[0] - 1)
        shares = points / (sides[1], sides[0])
        inside = np.flatnonzero(((shares >= 0) & (shares <= 1)).all(axis=1))
        kept = inside[np.argsort(-scores[inside], kind="stable")[:most]]
        return shares[kept], quantize_descriptors(descriptors[kept])

    def _padded(self, picture: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the picture in the corner of an input that the model takes, and its height and width there."""
        height, width = picture.shape[:2]
        canvas = self._sides or tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in (height, width))
        if self._sides:
            scale = min(canvas[0] / height, canvas[1] / width)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
        filling = [(0, canvas[0] - height), (0, canvas[1] - width), (0, 0)]
        return np.pad(picture, filling, mode="edge"), (height, width)

    def _run(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points (N, 2), scores (N,) and descriptors (N, D) of a picture of the input's size, float64."""
        values = picture.astype(np.float32) / 255
        values = values @ np.array(_GRAY, np.float32)[:, None] if self._channels == 1 else values
        outputs = self._model.run(values)
        points = [one for one in outputs if one.ndim == 3 and one.shape[2] == 2]
        scores = [one for one in outputs if one.ndim == 2]
        descriptors = [one for one in outputs if one.ndim == 3 and one.shape[2] != 2]
        found = [one[0][0].astype(np.float64) for one in (points, scores, descriptors) if len(one) == 1]
        if len(outputs) != 3 or len(found) != 3 or len({len(one) for one in found}) != 1:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise self._model.fault(
                f"its outputs must have the shapes (1, N, 2), (1, N) and (1, N, D), but have {shapes}"
            )
        return found[0], found[1], found[2]

    def _check_input(self) -> None:
        shape = self._model.shape
        if not self._model.takes_one_image:
            raise self._model.fault(f"its input must have the shape (1, 3 or 1, H, W), but has {shape}")
        if shape[1] not in (1, 3):
            raise self._model.fault(f"its input must have 3 channels (RGB) or 1 (gray), but has the shape {shape}")


def quantize_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Return descriptors as bytes: brought to unit length, 128 + 255 v, within 0 and 255; uint8, shape (K, D).

    Args:
        descriptors: Of any length, float64, shape (K, D).
    """
    units = _of_unit_length(descriptors)
    return np.asarray(np.clip(np.rint(SCALE * units) + 128, 0, 255).astype(np.uint8))


def unit_descriptors(stored: np.ndarray) -> np.ndarray:
    """Return the unit vectors of descriptors from `quantize_descriptors`, float64, shape (K, D)."""
    return _of_unit_length(stored.astype(np.float64) - 128)


def _of_unit_length(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
