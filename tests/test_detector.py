"""Detector of animals: YOLOv5's output convention, the letterbox and its inverse, and files that are no detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_detectors import write_detector
from PIL import Image

from whale_ray.errors import InputError
from whale_ray.inference.detection.detector import PADDING, Detector
from whale_ray.inference.detection.yolo_output import animal_boxes


def rows(*found: tuple[float, ...]) -> np.ndarray:
    return np.array(found, dtype=np.float32).reshape(-1, 8)


def test_animals_above_the_confidence_are_sorted_by_it() -> None:
    output = rows(
        (20, 20, 10, 10, 0.5, 0.9, 0.1, 0.0),
        (60, 60, 10, 20, 0.9, 0.9, 0.1, 0.0),
        (90, 90, 10, 10, 0.9, 0.1, 0.9, 0.0),  # a person
        (40, 90, 10, 10, 0.3, 0.5, 0.1, 0.0),  # 0.15
        (np.nan, 9, 9, 9, 0.9, 0.9, 0.1, 0.0),
        (9, 9, 0, 9, 0.9, 0.9, 0.1, 0.0),
    )
    boxes, confidences = animal_boxes(output, confidence=0.2)
    assert boxes.tolist() == [[55, 50, 65, 70], [15, 15, 25, 25]]
    assert confidences == pytest.approx([0.81, 0.45])
    assert len(animal_boxes(output, confidence=0.1)[0]) == 3
    empty, none = animal_boxes(rows(), confidence=0.2)
    assert (empty.shape, none.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(("shift", "count"), [(3.7, 1), (3.9, 2), (20, 2)])
def test_of_overlapping_boxes_the_most_confident_stays(shift: float, count: int) -> None:
    """Squares of side 10 that are `shift` apart share (10 - shift) / (10 + shift)."""
    output = rows((50, 50, 10, 10, 0.9, 0.9, 0, 0), (50 + shift, 50, 10, 10, 0.8, 0.9, 0, 0))
    boxes, _ = animal_boxes(output, confidence=0.2, max_overlap=0.45)
    assert len(boxes) == count
    assert boxes[0].tolist() == [45, 45, 55, 55]


def test_a_suppressed_box_suppresses_no_other() -> None:
    output = rows(*((50 + 3.5 * step, 50, 10, 10, 0.9 - 0.1 * step, 1, 0, 0) for step in range(3)))
    boxes, _ = animal_boxes(output, confidence=0.2)
    assert boxes[:, 0].tolist() == [45, 52]


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (64, 64), (1000, 31)])
def test_boxes_are_those_of_the_photograph_whatever_its_aspect_ratio(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    box = (0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height)
    scale = 64 / max(size)
    pad = ((64 - width * scale) / 2, (64 - height * scale) / 2)
    x0, x1, y0, y1 = (
        box[0] * scale + pad[0],
        box[2] * scale + pad[0],
        box[1] * scale + pad[1],
        box[3] * scale + pad[1],
    )
    row = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, 0.9, 0.8, 0.1, 0.1)
    detector = Detector(write_detector(tmp_path / "d.onnx", [row], size=(64, 64)))
    (found,) = detector.detect(Image.new("RGB", size))
    assert found.box == pytest.approx(box, abs=0.05 / scale)
    assert found.confidence == pytest.approx(0.72, abs=1e-3)


def test_boxes_are_clipped_to_the_photograph(tmp_path: Path) -> None:
    beyond = [(32, 32, 200, 200, 0.9, 0.9, 0, 0), (32, 4, 8, 8, 0.8, 0.9, 0, 0)]  # the second lies in the padding
    detector = Detector(write_detector(tmp_path / "d.onnx", beyond, size=(64, 64)))
    assert [one.box for one in detector.detect(Image.new("RGB", (128, 64)))] == [(0, 0, 128, 64)]


def test_the_input_is_rgb_from_0_to_1_with_grey_beside_it(tmp_path: Path) -> None:
    """The model returns the mean of its input as the object's confidence."""
    path = write_detector(tmp_path / "d.onnx", [(32, 32, 30, 30, 0, 1, 0, 0)], size=(64, 64), mean_of_channel=0)
    (found,) = Detector(path, confidence=0.01).detect(Image.new("RGB", (64, 32), (255, 0, 0)))
    assert found.confidence == pytest.approx((1.0 + PADDING / 255) / 2, abs=1e-3)


def test_a_half_precision_model_runs(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "d.onnx", [(32, 32, 20, 20, 0.5, 1, 0, 0)], size=(64, 64), half=True)
    assert Detector(path).detect(Image.new("RGB", (64, 64)))[0].box == pytest.approx((22, 22, 42, 42))


def test_files_that_are_no_detector_are_refused_with_the_reason(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(InputError, match="cannot be the detector") as caught:
            Detector(path)
        assert "export.py" in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "text.onnx").write_text("no model")
    assert "not there" in refusal(tmp_path / "none.onnx")
    assert "must be an ONNX model" in refusal(tmp_path / "text.onnx")
    row = [(32, 32, 20, 20, 0.5, 1, 0, 0)]
    assert "fixed size" in refusal(write_detector(tmp_path / "dynamic.onnx", row, size=("height", "width")))
    assert "fixed size" in refusal(write_detector(tmp_path / "grey.onnx", row, size=(64, 64), channels=1))
    assert "has (1, 1, 5)" in refusal(write_detector(tmp_path / "narrow.onnx", [row[0][:5]], size=(64, 64)))
    assert "has tensor(int64)" in refusal(write_identity(tmp_path / "numbers.onnx", TensorProto.INT64, [1, 3, 64, 64]))
    assert "has (1, 3, 64, 64)" in refusal(write_identity(tmp_path / "same.onnx", TensorProto.FLOAT, [1, 3, 64, 64]))


def write_identity(path: Path, kind: int, shape: Sequence[int]) -> Path:
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("images", "output")]
    node = helper.make_node("Identity", ["images"], ["output"])
    graph = helper.make_graph([node], "identity", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
