"""Encoder runtimes: torch, ONNX Runtime or OpenVINO, built in memory from the same weights or from their int8 model.

A runtime is a module with the encoder's interface, so that callers need not know which one they have.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whale_ray.errors import EncoderError, first_line
from whale_ray.learning.int8_quantization import quantize_int8

TORCH = "torch"
_CALIBRATION_SECONDS = 2.0
Forward = Callable[[np.ndarray], np.ndarray]


class AutocastEncoder(nn.Module):
    """The encoder in torch with bfloat16 autocast, channels last."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of a batch of pictures."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return torch.as_tensor(self._encoder(images.contiguous(memory_format=torch.channels_last)))


class CompiledEncoder(nn.Module):
    """The encoder run by another library on the CPU."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of a batch of pictures, float32."""
        return torch.from_numpy(self._forward(images.numpy()))


class OnnxModel:
    """ONNX model of one encoder, exported once for all runtimes that read it, and quantized once.

    Args:
        int8: The quantized model, if there is one already.
        calibration: Typical inputs of the encoder in batches, float32, to quantize it with.
    """

    def __init__(self, *, int8: bytes = b"", calibration: Iterable[np.ndarray] = ()) -> None:
        self._exported: bytes | None = None
        self._calibration = calibration
        self.int8 = int8

    def of(self, encoder: nn.Module, size: tuple[int, int]) -> bytes:
        """Return the model.

        Args:
            encoder: The encoder in evaluation mode, on the processor; always the same.
            size: Height and width of its input in pixels; always the same.
        """
        if self._exported is None:
            self._exported = _onnx(encoder, size)
        return self._exported

    def quantized(self, encoder: nn.Module, size: tuple[int, int]) -> bytes:
        """Return the model quantized to int8.

        Args:
            encoder: As in `of`.
            size: As in `of`.

        Raises:
            ValueError: If it is not quantized and there are no inputs.
        """
        if not self.int8:
            if not self._calibration:
                raise ValueError("int8 needs inputs to calibrate it with, and there are none")
            self.int8 = quantize_int8(self.of(encoder, size), self._calibration, seconds=_CALIBRATION_SECONDS)
        return self.int8


Export = Callable[[], bytes]
"""Returns the ONNX model of the encoder."""


def _torch(encoder: nn.Module, export: Export, threads: int) -> nn.Module:
    return encoder


def _torch_bf16(encoder: nn.Module, export: Export, threads: int) -> nn.Module:
    return AutocastEncoder(encoder)


def _onnxruntime(encoder: nn.Module, export: Export, threads: int) -> nn.Module:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(export(), options, providers=["CPUExecutionProvider"])
    return CompiledEncoder(lambda images: np.asarray(session.run(None, {"images": images})[0]))


def _openvino(encoder: nn.Module, export: Export, threads: int, precision: str = "f32") -> nn.Module:
    # OpenVINO reports each import to its maker, unless the module that does so is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(export()), "CPU", options)
    return CompiledEncoder(lambda images: np.array(compiled(images)[0]))


def _openvino_bf16(encoder: nn.Module, export: Export, threads: int) -> nn.Module:
    return _openvino(encoder, export, threads, precision="bf16")


RUNTIMES: dict[str, Callable[[nn.Module, Export, int], nn.Module]] = {
    TORCH: _torch,
    "torch-bf16": _torch_bf16,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "onnxruntime-int8": _onnxruntime,
    "openvino-int8": _openvino,
}
"""Name → (encoder in evaluation mode, on the processor; its ONNX model; threads) → the same function of images."""
BFLOAT16_RUNTIMES = ("torch-bf16", "openvino-bf16")
INT8_RUNTIMES = ("onnxruntime-int8", "openvino-int8")


def build_runtime(
    name: str, encoder: nn.Module, *, size: tuple[int, int], threads: int, onnx_model: OnnxModel | None = None
) -> nn.Module:
    """Return the encoder run by a runtime.

    Args:
        name: Name of the runtime.
        encoder: The encoder.
        size: Height and width of its input in pixels.
        threads: Threads of a library other than torch.
        onnx_model: Holds the ONNX model of this encoder for other runtimes; None exports it for this one. A runtime in
            int8 needs one that is quantized, or has images to calibrate with.

    Raises:
        EncoderError: If the library is missing or cannot run this encoder.
    """
    if name not in RUNTIMES:
        raise EncoderError(f"a runtime is one of {', '.join(RUNTIMES)}, but got {name!r}. Name one of them")
    model = onnx_model or OnnxModel()
    try:
        export = model.quantized if name in INT8_RUNTIMES else model.of
        return RUNTIMES[name](encoder, partial(export, encoder, size), threads)
    except ImportError as error:
        remedy = "Type `pip install 'whale-ray[fast]'`"
        raise EncoderError(f"the runtime {name} needs {error.name}, which is not installed. {remedy}") from error
    except Exception as error:  # whatever another library's compiler raises
        raise EncoderError(
            f"the runtime {name} cannot run this encoder: {first_line(error)}. Use the runtime torch"
        ) from error


def _onnx(encoder: nn.Module, size: tuple[int, int]) -> bytes:
    """Return the encoder as an ONNX model of float32 (batch, 3, height, width) with a dynamic batch."""
    import onnx  # noqa: F401  (torch's exporter wants it, and says so less plainly)

    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing, and that torch has a newer, slower exporter
        torch.onnx.export(
            encoder,
            (torch.zeros(2, 3, *size),),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    return bytes(buffer.getvalue())
