"""Static int8 quantization of an ONNX model by ONNX Runtime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def quantize_int8(model: bytes, batches: Iterable[np.ndarray], *, seconds: float) -> bytes:
    """Return an ONNX model whose convolutions and products with weights are of 8-bit integers (QDQ format).

    Weights are quantized per output channel. An activation is quantized by its smallest and largest value in the
    batches. All other operations stay in float32: sums, attention, and the linear layers of a head (Gemm).

    Args:
        model: ONNX model of float32 with one input.
        batches: Typical inputs, at least one.
        seconds: No further batch is read after these seconds.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    loaded = onnx.load_from_string(model)
    with tempfile.TemporaryDirectory() as scratch:
        simplified, written = Path(scratch) / "simplified.onnx", Path(scratch) / "int8.onnx"
        # Constants that several nodes share become initializers; else their nodes stay in float32.
        quant_pre_process(loaded, simplified, skip_onnx_shape=True, skip_symbolic_shape=True)
        quantize_static(
            simplified,
            written,
            _reader(loaded.graph.input[0].name, batches, seconds),
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,  # several times faster than signed activations on x86
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return written.read_bytes()


def _reader(name: str, batches: Iterable[np.ndarray], seconds: float) -> Any:
    """Return ONNX Runtime's reader of batches."""
    from onnxruntime.quantization import CalibrationDataReader

    def read() -> Iterator[np.ndarray]:
        started = time.monotonic()
        for batch in batches:
            yield batch
            if time.monotonic() - started > seconds:
                return

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batches as inputs of the model."""

        def __init__(self) -> None:
            self._batches = read()

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next inputs; None at the end."""
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    return Reader()
