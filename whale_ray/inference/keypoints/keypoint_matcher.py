"""Keypoint matching of a bundle whose retrieval setting has local features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from whale_ray.data.image_io import Box, Geometry
from whale_ray.errors import BundleError, InputError
from whale_ray.inference.encoder_input import Photograph, named_errors, open_photograph, prepare_photograph
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.fusion.encounter_evidence import EncounterEvidence
from whale_ray.retrieval.fusion.evaluation_evidence import QueryEvidence, shortlist_by_embedding
from whale_ray.retrieval.fusion.fused_ranking import fused_refinement
from whale_ray.retrieval.fusion.fusion_model import FusionModel, read_fusion_model
from whale_ray.retrieval.fusion.stranger_cohort import Cohort
from whale_ray.retrieval.local.evidence import LocalEvidence, compare_features
from whale_ray.retrieval.local.learned.network_registry import features_kind, matcher_of
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, local_picture, no_features
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.local.shortlists import ShortlistEvidence, compare_shortlists
from whale_ray.retrieval.search.pools import QueryGroup, Refine
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

QueryKeypoints = LocalFeatures | Sequence[LocalFeatures] | None
"""Local features of a query: of its photograph, or of each of its photographs."""
Keypoints = Sequence[QueryKeypoints] | LocalEvidence
"""Local features of Q queries, or their evidence on the gallery."""


class KeypointMatcher:
    """Extracts keypoints, compares them with a gallery and fuses them with the embedding.

    Args:
        setting: The retrieval setting; it has local features.
        fusion: `FusionModel.written` of the bundle.
        encounters: Calibration of several photographs of one animal; None if the bundle has none.
        cohort: Photographs of unknown animals; None if the bundle has none.

    Raises:
        BundleError: If the fusion cannot be used.

    Attributes:
        kind: Kind of the local features.
        network: Network that matches them; None for the mutually nearest descriptors.
        shortlist: Number of gallery photographs that a query is compared with; 0 for all, as the fusion was fitted.
    """

    def __init__(
        self,
        setting: RetrievalSetting,
        fusion: Mapping[str, Any],
        encounters: EncounterCalibration | None = None,
        cohort: Cohort | None = None,
    ) -> None:
        self.kind, self.network = features_kind(setting.local), matcher_of(setting.local)
        self._setting, self._model = setting, read_fusion_model(fusion)
        self.shortlist = self._model.shortlist
        self._cohort = cohort
        if self._model.has_cohort and cohort is None:
            raise BundleError(
                "a fusion that weighs normalized cosines needs the cohort of the bundle, but there is none. Make the "
                "bundle again"
            )
        # A calibration of encounters holds for the scores that it was fitted on: fused ones, or those of embeddings.
        self._model_of_encounters = self._model if encounters is None else encounters.fusion

    def models(self, photographs: Sequence[int]) -> list[FusionModel | None]:
        """Return the fusion model of each query; None if the embedding alone ranks it.

        Args:
            photographs: Number of photographs of each query.
        """
        return [self._model if count == 1 else self._model_of_encounters for count in photographs]

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
        fused: Sequence[bool],
    ) -> QueryEvidence:
        """Return the evidence of Q queries on the gallery.

        Args:
            keypoints: Local features of the queries, or their evidence, which is returned.
            index: Local features of the gallery, in the order of its rows.
            vectors: Unit vectors of the queries, whose nearest photographs are the shortlists; shape (Q, D).
            groups: The queries by pool of the gallery.
            fused: Whether each query is ranked by fused score; the others need no features.

        Raises:
            InputError: If features of the queries or of the gallery are missing.
        """
        if isinstance(keypoints, LocalEvidence):
            return keypoints
        if index is None:
            raise _missing(self.kind, "gallery")
        asked = [
            self._needed(one, is_fused) for one, is_fused in zip(keypoints or [None] * len(fused), fused, strict=True)
        ]
        photographs, counts = [one for query in asked for one in query], [len(query) for query in asked]
        found: LocalEvidence | ShortlistEvidence
        if not self.shortlist:
            found = compare_features(photographs, index, matcher=self.network)
        else:
            shortlist = shortlist_by_embedding(vectors, groups, self.shortlist)
            shortlist = np.repeat(shortlist, counts, axis=0)
            found = compare_shortlists(photographs, index, shortlist, matcher=self.network)
        if len(photographs) == len(asked):
            return found
        return EncounterEvidence(found, tuple(np.split(np.arange(len(photographs)), np.cumsum(counts)[:-1])))

    def _needed(self, query: QueryKeypoints, is_fused: bool) -> Sequence[LocalFeatures]:
        """Return the local features of the photographs of a query that are compared, at least one."""
        if not is_fused:
            return [no_features(self.kind)]
        if query is None:
            raise _missing(self.kind, "queries")
        return [query] if isinstance(query, LocalFeatures) else query

    def refinement(self, evidence: QueryEvidence, models: Sequence[FusionModel | None]) -> Refine:
        """Return the `refine` of `PooledSearcher.rank` for Q queries.

        Args:
            evidence: Result of `compare`.
            models: Result of `models`.
        """
        return fused_refinement(self._setting, models, evidence, self._cohort)


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
