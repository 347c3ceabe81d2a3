"""ONNX model of one image in ONNX Runtime: its file and its input are checked, its errors name file and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from whale_ray.errors import InputError, first_line
from whale_ray.learning.onnx_session import open_session

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxImageModel:
    """An ONNX model whose only input is images (1, C, H, W) of float32 or float16.

    Args:
        path: The ONNX file.
        purpose: What a wrong file is refused as, for a message: `cannot be the detector`.
        user: Who needs ONNX Runtime, for a message: `a detector needs`.
        remedy: Last sentence of a message.
        threads: Threads of a forward pass; 0 for as many as ONNX Runtime takes.

    Attributes:
        shape: Shape of the input; a free side is no int.

    Raises:
        InputError: If the file is no such model, or ONNX Runtime is missing.
    """

    def __init__(self, path: Path, *, purpose: str, user: str, remedy: str, threads: int) -> None:
        self._path, self._purpose, self._remedy = path, purpose, remedy
        refused = f"{path} {purpose}"
        self._session = open_session(path, refused=refused, user=user, remedy=remedy, threads=threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOATS:
            types = ", ".join(one.type for one in inputs)
            raise self.fault(f"it must have one input of float or float16, but has {types or 'none'}")
        self._name, self._type = inputs[0].name, _FLOATS[inputs[0].type]
        self.shape: list[Any] = list(inputs[0].shape)

    @property
    def takes_one_image(self) -> bool:
        """True if the input has four dimensions and accepts a batch of one image."""
        return len(self.shape) == 4 and (self.shape[0] == 1 or not isinstance(self.shape[0], int))

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of the input; None if one of them is free."""
        height, width = self.shape[2:]
        is_fixed = all(isinstance(side, int) and side > 0 for side in (height, width))
        return (height, width) if is_fixed else None

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of the model.

        Args:
            image: Values from 0 to 1, float32, shape (H, W, C).

        Raises:
            InputError: If the model fails.
        """
        images: np.ndarray = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=self._type)
        try:
            return [np.asarray(output) for output in self._session.run(None, {self._name: images})]
        except Exception as error:  # whatever ONNX Runtime raises
            raise self.fault(f"it must run on a picture, but: {first_line(error)}") from error

    def fault(self, reason: str) -> InputError:
        """Return the error that the file cannot be used for this purpose."""
        return InputError(f"{self._path} {self._purpose}: {reason}. {self._remedy}")
