"""Detector: finds the boxes of animals in photographs with an ONNX model of MegaDetector's output convention."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry, fit_image, visible_box
from whale_ray.errors import InputError
from whale_ray.inference.detection.yolo_output import animal_boxes

CONFIDENCE = 0.2
"""Smallest confidence, as the user guide of MegaDetector 5 recommends."""
PADDING = 114  # the grey with which YOLOv5 fills the shorter side
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
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
        self._session = _open_session(path, threads)
        (self._name, self._type), (height, width) = self._read_input()
        self.geometry = Geometry(height, width)
        grey = np.full((height, width, 3), PADDING, dtype=np.uint8)
        output = self._run(grey)
        if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] < 6:
            raise self._wrong(f"its output must have the shape (1, N, 5 + classes), but has {output.shape}")

    def _read_input(self) -> tuple[tuple[str, type], tuple[int, int]]:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOATS:
            types = ", ".join(one.type for one in inputs)
            raise self._wrong(f"it must have one input of float or float16, but has {types or 'none'}")
        shape = list(inputs[0].shape)
        is_batch = len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))
        if not is_batch or shape[1] != 3 or not all(isinstance(side, int) and side > 0 for side in shape[2:]):
            raise self._wrong(f"its input must have the shape (1, 3, height, width) of a fixed size, but has {shape}")
        return (inputs[0].name, _FLOATS[inputs[0].type]), (shape[2], shape[3])

    def _run(self, array: np.ndarray) -> np.ndarray:
        images: np.ndarray = (array.astype(np.float32) / 255).transpose(2, 0, 1)[None].astype(self._type)
        try:
            return np.asarray(self._session.run(None, {self._name: images})[0])
        except Exception as error:  # whatever ONNX Runtime raises
            raise self._wrong(f"it must run on a picture, but: {_first_line(error)}") from error

    def _wrong(self, fault: str) -> InputError:
        return InputError(f"{self.path} cannot be the detector: {fault}. {_REMEDY}")

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


def _open_session(path: Path, threads: int | None) -> Any:
    if not path.is_file():
        raise InputError(f"{path} cannot be the detector: it must be an ONNX file, but is not there. {_REMEDY}")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"a detector needs {error.name}, which is not installed. Type `pip install 'whale-ray[fast]'`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever ONNX Runtime raises
        raise InputError(
            f"{path} cannot be the detector: it must be an ONNX model, but: {_first_line(error)}. {_REMEDY}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
