"""Tiny ONNX models with the output convention of MegaDetector, whose detections are constants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_detector(
    path: Path,
    rows: Sequence[Sequence[float]],
    *,
    size: tuple[int | str, int | str],
    channels: int = 3,
    half: bool = False,
    mean_of_channel: int | None = None,
) -> Path:
    """A model whose output is `rows`; the mean of a channel of its input is added to the objects' confidences."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    constant = np.array([rows], dtype=dtype)
    weight = np.zeros((1, channels, 1, 1), dtype=dtype)  # of the input's means
    if mean_of_channel is not None:
        weight[0, mean_of_channel] = 1
    place = np.zeros((1, 1, constant.shape[2]), dtype=dtype)
    place[0, 0, 4] = 1
    arrays = {"rows": constant, "weight": weight, "place": place, "shape": np.array([1, 1, 1], dtype=np.int64)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Mul", ["means", "weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["sum"], keepdims=1),
        helper.make_node("Reshape", ["sum", "shape"], ["one"]),
        helper.make_node("Mul", ["one", "place"], ["added"]),
        helper.make_node("Add", ["rows", "added"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", kind, [1, channels, *size])],
        [helper.make_tensor_value_info("output", kind, list(constant.shape))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
