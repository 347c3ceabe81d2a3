"""Contents of a bundle in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from whale_ray.inference.keypoints.keypoint_files import KeypointFiles
from whale_ray.inference.predictions import AnimalTraits
from whale_ray.retrieval.search.proxy_classifier import ClassProxies

if TYPE_CHECKING:
    from torch import Tensor


class ExamplePhoto(NamedTuple):
    """A photograph to try the bundle on.

    Attributes:
        data: Bytes of the image file.
        individual: The individual it shows.
        image: Its file name in the data set.
    """

    data: bytes
    individual: str
    image: str


@dataclass(frozen=True)
class BundleContents:
    """Contents of a bundle in memory.

    Attributes:
        manifest: bundle.json without `format`, `libraries` and `files`, which are added on writing.
        weights: State dict of the encoder.
        gallery: Unit vectors, float16, shape (N, D).
        table: N rows: image, individual and, if the data set has them, file and box, viewpoint, species.
        golden: Golden images (PNG bytes).
        golden_vectors: Their expected embeddings, float32, shape (G, D).
        thumbnails: JPEG bytes by gallery row.
        examples: Labelled photographs to try.
        proxies: Class proxies of a setting with a proxy classifier.
        keypoints: Local features of a setting with some.
        cohort: Unit vectors of photographs of unknown animals, float16, shape (U, D), if scores need them.
        int8: ONNX model of the encoder in int8, if the bundle's runtime needs one.
    """

    manifest: dict[str, Any]
    weights: Mapping[str, Tensor]
    gallery: np.ndarray
    table: pd.DataFrame
    golden: tuple[bytes, ...]
    golden_vectors: np.ndarray
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    examples: tuple[ExamplePhoto, ...] = ()
    proxies: ClassProxies | None = None
    keypoints: KeypointFiles | None = None
    cohort: np.ndarray | None = None
    int8: bytes = b""

    @property
    def is_trained_on_boxes(self) -> bool:
        """True if the photographs were cropped to boxes in training."""
        return was_trained_on_boxes(self.manifest, self.table)

    @property
    def traits(self) -> list[AnimalTraits]:
        """Viewpoint and species of each row of the table; "" for those that a bundle of an earlier version lacks."""
        unknown = [""] * len(self.table)
        columns = (self.table.get(name, unknown) for name in ("viewpoint", "species"))
        return [AnimalTraits(str(viewpoint), str(species)) for viewpoint, species in zip(*columns, strict=True)]


def was_trained_on_boxes(manifest: Mapping[str, Any], table: pd.DataFrame) -> bool:
    """Return whether the photographs of a bundle were cropped to boxes in training.

    Args:
        manifest: bundle.json.
        table: gallery.csv.
    """
    has_file = bool(manifest.get("settings", {}).get("data", {}).get("boxes"))  # all that older bundles know
    return has_file or ("x0" in table and bool(pd.to_numeric(table["x0"], errors="coerce").notna().any()))


def bundle_runtime(manifest: Mapping[str, Any]) -> str:
    """Return the runtime that the bundle names; torch if it names none."""
    return str(_runtime(manifest).get("name", "torch"))


def golden_tolerance(manifest: Mapping[str, Any], runtime: str) -> Any:
    """Return the largest accepted distance of golden embeddings in a runtime.

    Args:
        manifest: The manifest.
        runtime: Name of the runtime.
    """
    return manifest["tolerance"] if runtime == "torch" else _runtime(manifest).get("tolerance")


def _runtime(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    named = manifest.get("runtime")
    return named if isinstance(named, dict) else {}
