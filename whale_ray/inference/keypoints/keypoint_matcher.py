"""Keypoint matching of a bundle whose retrieval setting has local features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry
from whale_ray.errors import InputError
from whale_ray.inference.encoder_input import Photograph, named_errors, open_photograph, prepare_photograph
from whale_ray.retrieval.fusion.evidence_source import QueryEvidence, shortlist_by_embedding
from whale_ray.retrieval.fusion.fused_ranking import fused_refinement
from whale_ray.retrieval.fusion.fusion_model import read_fusion_model
from whale_ray.retrieval.local.evidence import LocalEvidence, compare_features
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, local_picture, no_features
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.shortlists import compare_shortlists
from whale_ray.retrieval.search.pools import QueryGroup, Refine
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

Keypoints = Sequence[LocalFeatures | None] | LocalEvidence
"""Local features of Q queries, or their evidence on the gallery."""


class KeypointMatcher:
    """Extracts keypoints, compares them with a gallery and fuses them with the embedding.

    Args:
        setting: The retrieval setting; it has local features.
        fusion: `FusionModel.written` of the bundle.

    Raises:
        BundleError: If the fusion cannot be used.

    Attributes:
        kind: Kind of the local features.
        shortlist: Number of gallery photographs that a query is compared with; 0 for all, as the fusion was fitted.
    """

    def __init__(self, setting: RetrievalSetting, fusion: Mapping[str, Any]) -> None:
        self.kind, self._setting, self._model = setting.local, setting, read_fusion_model(fusion)
        self.shortlist = self._model.shortlist

    def extract(self, image: Image.Image, *, box: Box | None = None) -> LocalFeatures:
        """Return the local features of a photograph.

        Args:
            image: The upright RGB photograph.
            box: x0, y0, x1, y1 of the animal in pixels; None for the whole photograph.
        """
        return extract_features(local_picture(image, box=box), self.kind)

    def compare(
        self,
        keypoints: Keypoints | None,
        index: LocalIndex | None,
        *,
        vectors: np.ndarray,
        groups: Sequence[QueryGroup],
        fused: np.ndarray | None = None,
    ) -> QueryEvidence:
        """Return the evidence of Q queries on the gallery.

        Args:
            keypoints: Local features of the queries, or their evidence, which is returned.
            index: Local features of the gallery, in the order of its rows.
            vectors: Unit vectors of the queries, whose nearest photographs are the shortlists; shape (Q, D).
            groups: The queries by pool of the gallery.
            fused: Queries that are ranked by fused score, bool, shape (Q,); the others need no features. None for all.

        Raises:
            InputError: If features of the queries or of the gallery are missing.
        """
        if isinstance(keypoints, LocalEvidence):
            return keypoints
        if index is None:
            raise _missing(self.kind, "gallery")
        if fused is not None and keypoints is None:
            keypoints = [None] * len(fused)
        if keypoints is None:
            raise _missing(self.kind, "queries")
        needed = np.ones(len(keypoints), dtype=bool) if fused is None else fused
        if any(one is None for one, is_needed in zip(keypoints, needed, strict=True) if is_needed):
            raise _missing(self.kind, "queries")
        asked = [
            one if one is not None and is_needed else no_features(self.kind)
            for one, is_needed in zip(keypoints, needed, strict=True)
        ]
        if not self.shortlist:
            return compare_features(asked, index)
        return compare_shortlists(asked, index, shortlist_by_embedding(vectors, groups, self.shortlist))

    def refinement(self, evidence: QueryEvidence, *, fused: np.ndarray | None = None) -> Refine:
        """Return the `refine` of `PooledSearcher.rank` for Q queries.

        Args:
            evidence: Result of `compare`.
            fused: Queries that are ranked by fused score, bool, shape (Q,). None for all.
        """
        return fused_refinement(self._setting, self._model, evidence, fused=fused)


def _missing(kind: str, whose: str) -> InputError:
    return InputError(
        f"a bundle with local features {kind} ranks by them too, but those of the {whose} are missing. Extract them "
        "with KeypointMatcher.extract"
    )


def read_photograph(
    photograph: Photograph, geometry: Geometry, matcher: KeypointMatcher | None, *, box: Box | None = None
) -> tuple[np.ndarray, LocalFeatures | None]:
    """Return the encoder's input and the local features of a photograph, decoded once; None without a matcher.

    Args:
        photograph: Path, bytes or Pillow image.
        geometry: Size and margin of the input.
        matcher: Keypoint matcher of the bundle.
        box: x0, y0, x1, y1 in pixels of the upright photograph; None for all of it.

    Raises:
        ImageError: If it cannot be decoded.
        DataError: If the box covers no pixel of it.
    """
    image = open_photograph(photograph)
    array = prepare_photograph(image, geometry, box=box)
    return array, None if matcher is None else matcher.extract(image, box=box)


def read_named(
    photograph: Photograph, geometry: Geometry, matcher: KeypointMatcher | None, *, box: Box | None = None
) -> tuple[np.ndarray, LocalFeatures | None]:
    """Return `read_photograph`, with the file's name in its errors.

    Args:
        photograph: As in `read_photograph`.
        geometry: As in `read_photograph`.
        matcher: As in `read_photograph`.
        box: As in `read_photograph`.

    Raises:
        ImageError: If it cannot be decoded.
        DataError: If the file cannot be read, or the box covers no pixel of it.
    """
    with named_errors(photograph):
        return read_photograph(photograph, geometry, matcher, box=box)
