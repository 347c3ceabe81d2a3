"""Detector: finds the boxes of animals in photographs with an ONNX model of MegaDetector's output convention."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry, fit_image, visible_box
from whale_ray.inference.detection.yolo_output import animal_boxes
from whale_ray.learning.onnx_image_model import OnnxImageModel

CONFIDENCE = 0.2
"""Smallest confidence, as the user guide of MegaDetector 5 recommends."""
PADDING = 114  # the grey with which YOLOv5 fills the shorter side
_REMEDY = "Export it as YOLOv5 does: `python export.py --weights md_v5a.pt --include onnx --imgsz 1280`"


class Detection(NamedTuple):
    """An animal in a photograph.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the upright photograph, with two decimals.
        confidence: From 0 to 1.
    """

    box: Box
    confidence: float


class Detector:
    """A YOLOv5 model in ONNX Runtime, such as MegaDetector 5.

    >>> Detector(Path("md_v5a.onnx")).detect(decode_image(Path("pod.jpg")))  # doctest: +SKIP

    The input is (1, 3, H, W), RGB from 0 to 1; the photograph is fitted into it and the rest filled with grey 114. The
    output is (1, N, 5 + classes): center and size in input pixels, the object's confidence, and class scores; class 0
    is the animal.

    Args:
        path: The ONNX file.
        confidence: Smallest confidence of a detection.
        threads: Threads of a forward pass; None for as many as ONNX Runtime takes.

    Raises:
        InputError: If the file is no such model, or ONNX Runtime is missing.
    """

    def __init__(self, path: Path, *, confidence: float = CONFIDENCE, threads: int | None = None) -> None:
        self.path, self.confidence = path, confidence
        self._model = OnnxImageModel(
            path, purpose="cannot be the detector", user="a detector needs", remedy=_REMEDY, threads=threads or 0
        )
        shape = self._model.shape
        if not self._model.takes_one_image or shape[1] != 3 or self._model.sides is None:
            raise self._model.fault(
                f"its input must have the shape (1, 3, height, width) of a fixed size, but has {shape}"
            )
        self.geometry = Geometry(*self._model.sides)
        output = self._run(np.full((*self._model.sides, 3), PADDING, dtype=np.uint8))
        if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] < 6:
            raise self._model.fault(f"its output must have the shape (1, N, 5 + classes), but has {output.shape}")

    def _run(self, array: np.ndarray) -> np.ndarray:
        return self._model.run(array.astype(np.float32) / 255)[0]

    def detect(self, image: Image.Image) -> list[Detection]:
        """Return the animals in an upright RGB image, the most confident first."""
        return self.detect_fitted(fit_image(image, self.geometry, fill=PADDING), image.size)

    def detect_fitted(self, array: np.ndarray, size: tuple[int, int]) -> list[Detection]:
        """Return the animals in an image that was fitted to `geometry` with grey `PADDING`.

        Args:
            array: The fitted image, uint8, shape (H, W, 3).
            size: Width and height of the upright image in pixels.
        """
        boxes, confidences = animal_boxes(self._run(array)[0], confidence=self.confidence)
        x0, y0, x1, y1 = visible_box(size, self.geometry)
        scale = np.array([(x1 - x0) / self.geometry.width, (y1 - y0) / self.geometry.height] * 2)
        boxes = np.clip(boxes * scale + np.array([x0, y0, x0, y0]), 0, np.array([*size, *size])).round(2)
        is_inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
        found = zip(boxes[is_inside].tolist(), confidences[is_inside].tolist(), strict=True)
        return [Detection((left, top, right, bottom), confidence) for (left, top, right, bottom), confidence in found]
