"""Encoder of a bundle: built from its recipe and weights, run on a runtime, one embedding for each photograph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from whale_ray.data.image_io import Geometry
from whale_ray.device import keep_freed_memory
from whale_ray.errors import BundleError
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.runtimes import OnnxModel, build_runtime
from whale_ray.learning.encoders.ensemble import rebuild_from_recipe
from whale_ray.retrieval.embed import embed
from whale_ray.retrieval.search.gallery_index import combine_views, normalize_rows


class BundleEncoder:
    """The encoder of a bundle on one runtime.

    Args:
        contents: Contents of the bundle.
        geometry: Size and margin of the prepared photographs.
        device: Device of the encoder.
        runtime: Name of the runtime.
        threads: Threads of a runtime other than torch; None for as many as torch has.

    Raises:
        BundleError: If the weights do not fit the encoder.
    """

    def __init__(
        self, contents: BundleContents, geometry: Geometry, *, device: str, runtime: str, threads: int | None
    ) -> None:
        keep_freed_memory()
        encoder = rebuild_from_recipe(contents.manifest["encoder"])
        _load_weights(encoder, contents)
        encoder.eval().to(device)
        size = (geometry.height, geometry.width)
        model, threads = OnnxModel(int8=contents.int8), threads or torch.get_num_threads()
        self._run = build_runtime(runtime, encoder, size=size, threads=threads, onnx_model=model)
        self._geometry, self._device = geometry, device

    def on_runtime(self, runtime: str, *, threads: int, onnx_model: OnnxModel) -> BundleEncoder:
        """Return this encoder, which must run on torch, on another runtime.

        Args:
            runtime: Name of the runtime.
            threads: Threads of a runtime other than torch.
            onnx_model: As in `build_runtime`.
        """
        other, size = copy.copy(self), (self._geometry.height, self._geometry.width)
        encoder = copy.deepcopy(self._run)  # some change the layout of its weights
        other._run = build_runtime(runtime, encoder, size=size, threads=threads, onnx_model=onnx_model)
        return other

    def embed(self, photographs: np.ndarray, *, flip: str) -> np.ndarray:
        """Return unit embeddings, float32, shape (N, D).

        Args:
            photographs: Prepared photographs, uint8, shape (N, H', W', 3).
            flip: `average` also embeds the flipped photographs and averages both views; `none` does not.
        """
        wanted = {"plain": False} | ({"flip": True} if flip == "average" else {})
        views = {view: self._embed(photographs, flipped=flipped) for view, flipped in wanted.items()}
        return normalize_rows(combine_views(views, flip))

    def _embed(self, photographs: np.ndarray, *, flipped: bool) -> np.ndarray:
        rows = np.arange(len(photographs))
        return embed(self._run, photographs, self._geometry, rows, flipped=flipped, device=self._device)


def _load_weights(encoder: Any, contents: BundleContents) -> None:
    try:
        encoder.load_state_dict(contents.weights)
    except RuntimeError as error:
        raise BundleError(f"the weights of {contents.manifest['id']} do not fit its encoder: {error}") from error
