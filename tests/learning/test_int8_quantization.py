"""Int8 quantization: which operations it takes, and how many batches it reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from whale_ray.inference.runtimes import OnnxModel
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.learning.int8_quantization import quantize_int8

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model() -> bytes:
    torch.manual_seed(0)
    return OnnxModel().of(
        build_encoder("tiny", embedding_size=8, weights="random", image_size=(32, 32)).eval(), (32, 32)
    )


def test_convolutions_are_of_int8_per_channel_and_the_head_of_float32(
    model: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    graph = onnx.load_from_string(quantize_int8(model, [np.ones((2, 3, 32, 32), dtype=np.float32)], seconds=9.0)).graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [(node, sources.get(node.input[1])) for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {node.op_type for node, _ in weights} == {"Conv", "Gemm"}
    for node, source in weights:
        if node.op_type == "Gemm":
            assert source is None
            continue
        assert source is not None
        stored, scale = held[source.input[0]], held[source.input[1]]
        assert stored.dtype == np.int8
        assert scale.shape == stored.shape[:1]
    assert not caplog.records


def test_no_batch_is_read_after_the_limit_of_time(model: bytes) -> None:
    read = []

    def batches() -> Iterator[np.ndarray]:
        for number in range(3):
            read.append(number)
            yield np.full((1, 3, 32, 32), number, dtype=np.float32)

    quantize_int8(model, batches(), seconds=0.0)
    assert read == [0]
