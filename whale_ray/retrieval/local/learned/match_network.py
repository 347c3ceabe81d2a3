"""Match network: an ONNX model that matches the keypoints of two photographs, in ONNX Runtime.

Lindenberger et al., "LightGlue: Local Feature Matching at Light Speed", ICCV 2023. Exports of the matcher apart from
the extractor have this form (github.com/fabio-sim/LightGlue-ONNX, v0.1 to v1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whale_ray.errors import InputError, first_line
from whale_ray.learning.onnx_session import open_session
from whale_ray.retrieval.local.learned.keypoint_network import unit_descriptors

MATCHED = 5
"""Largest number of leading photographs of a query that a match network is run on: a pair takes about 0.5 s."""
_STEPS = 1000  # of a confidence: sums of whole numbers do not depend on their order
_PROBED = (20, 24)  # keypoints of two photographs, of different numbers to tell the outputs apart
_REMEDY = "Export the LightGlue matcher of the keypoint network without the extractor"
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class MatchNetwork:
    """An ONNX model that matches keypoints.

    The inputs are keypoints (1, M, 2) and (1, N, 2) of two photographs, from -1 to 1, then their descriptors (1, M, D)
    and (1, N, D). The outputs are either pairs (K, 2) and their confidences (K,), or for each keypoint of the first
    photograph the number of its match, -1 for none, and its confidence, each (1, M).

    Args:
        model: The ONNX file or its content.
        size: Number D of values of a descriptor.
        name: The file, for messages.
        digest: Names the file in caches.

    Raises:
        InputError: If the file is no such model for descriptors of this size, or ONNX Runtime is missing.
    """

    def __init__(self, model: Path | bytes, *, size: int, name: str, digest: str) -> None:
        self.digest, self._refused = digest, f"{name} cannot match keypoints"
        self._session: Any = open_session(
            model, refused=self._refused, user="learned matchers need", remedy=_REMEDY, threads=1
        )  # one thread: pairs are matched in parallel
        inputs = self._session.get_inputs()
        if len(inputs) != 4 or any(one.type not in _FLOATS for one in inputs):
            types = ", ".join(one.type for one in inputs)
            raise self._fault(
                f"it must have four inputs of floats, keypoints and descriptors of two photographs, but has {types}"
            )
        self._inputs = {one.name: _FLOATS[one.type] for one in inputs}
        numbers = np.random.default_rng(0)
        points = [numbers.random((count, 2), np.float32) for count in _PROBED]
        descriptors = [numbers.integers(0, 256, (count, size)).astype(np.uint8) for count in _PROBED]
        self.match(*points, *descriptors)

    def match(
        self, points: np.ndarray, other_points: np.ndarray, descriptors: np.ndarray, other_descriptors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the matches of two photographs, in the order of the first one's keypoints.

        Args:
            points: x and y as shares of width and height, float32, shape (M, 2).
            other_points: The same of the other photograph, shape (N, 2).
            descriptors: From `quantize_descriptors`, uint8, shape (M, D).
            other_descriptors: The same of the other photograph, shape (N, D).

        Returns:
            Pairs of keypoints, int64, shape (K, 2), and their confidences from 0 to 1, multiples of 0.001, float64,
            shape (K,).

        Raises:
            InputError: If the model fails, or its outputs are no matches.
        """
        if not len(points) or not len(other_points):
            return np.zeros((0, 2), np.int64), np.zeros(0)
        given = [
            *(2.0 * one - 1.0 for one in (points, other_points)),
            *map(unit_descriptors, (descriptors, other_descriptors)),
        ]
        named = {name: one[None].astype(kind) for (name, kind), one in zip(self._inputs.items(), given, strict=True)}
        try:
            outputs = [np.asarray(output) for output in self._session.run(None, named)]
        except Exception as error:  # whatever ONNX Runtime raises
            raise self._fault(
                f"it must match descriptors of {descriptors.shape[1]} values, but: {first_line(error)}"
            ) from error
        pairs, confidences = self._read(outputs, len(points))
        order = np.argsort(pairs[:, 0], kind="stable")
        rounded = np.rint(np.clip(confidences[order].astype(np.float64), 0, 1) * _STEPS) / _STEPS
        return pairs[order].astype(np.int64), rounded

    def _read(self, outputs: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs and confidences of outputs in one of the two forms; `count` is that of the first keypoints."""
        whole = [one for one in outputs if one.dtype.kind == "i"]
        real = [one for one in outputs if one.dtype.kind == "f"]
        if whole and real and whole[0].shape == real[0].shape == (1, count):
            found = np.flatnonzero(whole[0][0] >= 0)
            return np.stack([found, whole[0][0, found]], axis=1), real[0][0, found]
        if whole and real and whole[0].ndim == 2 and whole[0].shape == (len(real[0]), 2) and real[0].ndim == 1:
            return whole[0], real[0]
        shapes = ", ".join(f"{one.dtype} {one.shape}" for one in outputs)
        raise self._fault(f"its outputs must be pairs (K, 2) and confidences (K,), or both (1, M), but are {shapes}")

    def _fault(self, reason: str) -> InputError:
        return InputError(f"{self._refused}: {reason}. {_REMEDY}")
