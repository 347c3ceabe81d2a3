"""Sessions of ONNX Runtime whose faults name the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whale_ray.errors import InputError, first_line


def open_session(model: Path | bytes, *, refused: str, user: str, remedy: str, threads: int) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: The ONNX file or its content.
        refused: Start of the message about a wrong file: `model.onnx cannot find keypoints`.
        user: Who needs ONNX Runtime, for a message: `a detector needs`.
        remedy: Last sentence of a message.
        threads: Threads of a forward pass; 0 for as many as ONNX Runtime takes.

    Raises:
        InputError: If the file is no ONNX model, or ONNX Runtime is missing.
    """
    if isinstance(model, Path) and not model.is_file():
        raise InputError(f"{refused}: it must be an ONNX file, but is not there. {remedy}")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"{user} {error.name}, which is not installed. Type `pip install 'whale-ray[fast]'`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    opened = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(opened, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever ONNX Runtime raises
        raise InputError(f"{refused}: it must be an ONNX model, but: {first_line(error)}. {remedy}") from error
