"""Predictor: the only inference path from photographs to ranked individuals, for service, submission and tests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from whale_ray.data.image_io import Box, Geometry
from whale_ray.errors import BundleError, InputError
from whale_ray.inference.answers.bundle_decisions import BundleDecisions
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.bundle_contents import BundleContents, bundle_runtime
from whale_ray.inference.bundle_encoder import BundleEncoder
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.inference.encoder_input import Photograph, prepare_photograph
from whale_ray.inference.golden_images import check_golden_images
from whale_ray.inference.keypoints.keypoint_matcher import KeypointMatcher, Keypoints, read_named
from whale_ray.inference.keypoints.matched_points import add_matched_points
from whale_ray.inference.predictions import (
    MOST_CANDIDATES,
    UNKNOWN_TRAITS,
    AnimalTraits,
    Gallery,
    Identification,
)
from whale_ray.inference.runtimes import TORCH
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.retrieval.search.pools import PooledSearcher

_log = logging.getLogger(__name__)


class Bundle(BundleDecisions):
    """A bundle in memory, ready to identify.

    >>> Bundle.load("runs/quickstart/best").identify(["fluke.jpg"], top=5)  # doctest: +SKIP

    Args:
        contents: Contents of the bundle.
        device: Device of the encoder.
        runtime: Runtime of the encoder; None loads no encoder, and another process embeds.
        threads: Threads of a runtime other than torch; None for as many as torch has.
    """

    def __init__(
        self, contents: BundleContents, *, device: str = "cpu", runtime: str | None = TORCH, threads: int | None = None
    ) -> None:
        self.contents, manifest = contents, contents.manifest
        super().__init__(manifest, contents.cohort)
        self.id: str = manifest["id"]
        self.unknown_label: str = manifest["unknown_label"]
        self.geometry = Geometry(**manifest["preprocessing"])
        self.device, self.runtime = device, runtime or "another process"
        self.encoder: BundleEncoder | None = None
        if runtime is not None:
            self.encoder = BundleEncoder(contents, self.geometry, device=device, runtime=runtime, threads=threads)
        self.individuals: list[str] = contents.table["individual"].tolist()
        self.images: list[str] = contents.table["image"].tolist()
        self.traits, files = contents.traits, contents.keypoints
        searcher = self.build_searcher(contents.gallery, self.individuals, traits=self.traits)
        fused = self.setting, manifest.get("fusion", {}), self.encounters
        self.keypoints = None if files is None else KeypointMatcher(*fused, self.cohort)
        index = None if files is None else LocalIndex(files.gallery, self.individuals)
        self.gallery = Gallery(self.images, self.individuals, searcher, index)

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu", threads: int | None = None) -> Bundle:
        """Load a bundle: files are checked by hash, the encoder by the golden images. A URL is pulled first.

        On a CPU it runs on the runtime that the bundle names. If that is missing, or gives other embeddings here, it
        runs on torch and logs why.

        Args:
            path: The bundle folder, `hf://OWNER/NAME@REVISION` or `s3://BUCKET/PATH`.
            device: Device of the encoder.
            threads: As in `Bundle`.

        Raises:
            BundleError: If anything differs from what it was when the bundle was made.
        """
        contents = read_bundle(local_bundle(path))
        wanted = bundle_runtime(contents.manifest) if device == "cpu" else TORCH
        try:
            return cls._checked(contents, device=device, runtime=wanted, threads=threads)
        except InputError as error:
            if wanted == TORCH:
                raise
            _log.warning("%s runs on torch here, and not on %s: %s", contents.manifest["id"], wanted, error)
            return cls._checked(contents, device=device, runtime=TORCH, threads=threads)

    @classmethod
    def _checked(cls, contents: BundleContents, **options: Any) -> Bundle:
        try:
            bundle = cls(contents, **options)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{contents.manifest['id']}: bundle.json cannot be understood ({error}). Make the bundle again"
            ) from error
        check_golden_images(contents, runtime=bundle.runtime, difference=bundle.golden_difference)
        return bundle

    @classmethod
    def without_encoder(cls, path: Path | str) -> Bundle:
        """Load a bundle without its encoder, to prepare images and rank where another process embeds."""
        return cls(replace(read_bundle(Path(path)), weights={}), runtime=None)

    def build_searcher(
        self,
        vectors: np.ndarray,
        individuals: Sequence[str],
        *,
        traits: Sequence[AnimalTraits] | None = None,
        ready: bool = False,
    ) -> PooledSearcher:
        """Return a searcher over another gallery, searched like the bundle's own.

        Args:
            vectors: Shape (N, D).
            individuals: N names.
            traits: Viewpoint and species of each photograph; None if all are unknown.
            ready: The vectors come from `normalize_rows`.
        """
        searcher = PooledSearcher(
            vectors,
            np.array(individuals, dtype=str),
            viewpoints=[one.viewpoint for one in traits] if traits else None,
            species=[one.species for one in traits] if traits else None,
            proxies=self.contents.proxies,
            ready=ready,
        )
        searcher.prepare(self.setting.search_mode)
        return searcher

    @property
    def card(self) -> dict[str, Any]:
        """The manifest: settings, scores, threshold, versions."""
        return self.contents.manifest

    def golden_difference(self, expected: np.ndarray) -> float:
        """Return the largest cosine distance of the golden embeddings, computed one at a time, from `expected`."""
        found = np.concatenate([self.embed([self.prepare(picture)]) for picture in self.contents.golden])
        return float(np.max(1.0 - np.sum(found * expected, axis=1)))

    def prepare(self, photograph: Photograph) -> np.ndarray:
        """Return the photograph as the encoder's input: uint8, shape (H', W', 3).

        Raises:
            ImageError: If it cannot be decoded.
        """
        return prepare_photograph(photograph, self.geometry)

    def embed(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return unit embeddings, float32 (N, D), of prepared photographs, averaged over the views of the setting.

        Raises:
            BundleError: If the bundle was loaded without its encoder.
        """
        if self.encoder is None:
            raise BundleError(f"{self.id} was loaded without its encoder, and cannot embed. Load it with Bundle.load")
        return self.encoder.embed(np.stack(arrays), flip=self.setting.flip)

    def rank(
        self,
        vectors: np.ndarray,
        *,
        top: int = 5,
        gallery: Gallery | None = None,
        traits: Sequence[AnimalTraits] | None = None,
        photographs: Sequence[int] | None = None,
        local: Keypoints | None = None,
    ) -> list[Identification]:
        """Return an answer for each embedding.

        Args:
            vectors: Unit vectors as `embed` returns them, float32, shape (N, D).
            top: Number of individuals.
            gallery: Another gallery than the bundle's own, its searcher from `build_searcher`.
            traits: Viewpoint and species of each query; None if all are unknown.
            photographs: Number of photographs whose normalized mean each embedding is; None for one each.
            local: Local features of each query, or their evidence on the gallery; needed if the setting has some. Of
                several photographs those of each, whose evidence is averaged; an older bundle, whose calibration of
                encounters is of embeddings alone, needs none.

        Raises:
            InputError: If they are needed and missing.
        """
        gallery, traits = gallery or self.gallery, traits or [UNKNOWN_TRAITS] * len(vectors)
        viewpoints, species = [one.viewpoint for one in traits], [one.species for one in traits]
        counts = photographs or [1] * len(vectors)
        evidence, refine, fused = None, None, [False] * len(vectors)
        if self.keypoints is not None:
            models = self.keypoints.models(counts)
            fused = [model is not None for model in models]
            groups = gallery.searcher.groups(self.setting.side, len(vectors), viewpoints=viewpoints, species=species)
            evidence = self.keypoints.compare(local, gallery.keypoints, vectors=vectors, groups=groups, fused=fused)
            refine = self.keypoints.refinement(evidence, models)
        found = gallery.searcher.rank(
            vectors,
            self.setting,
            first=top,
            individuals=MOST_CANDIDATES,
            viewpoints=viewpoints,
            species=species,
            ready=True,
            refine=refine,
        )
        answers = self.answers(found, gallery, vectors=vectors, top=top, traits=traits, photographs=counts)
        if evidence is None:
            return answers
        return add_matched_points(answers, evidence, gallery, found.pools, fused=fused)

    def identify(
        self,
        photographs: Sequence[Photograph],
        *,
        top: int = 5,
        boxes: Sequence[Box | None] | None = None,
        viewpoint: str = "",
        species: str = "",
    ) -> list[Identification]:
        """Return an answer for each photograph.

        Args:
            photographs: Paths, bytes or Pillow images.
            top: Number of individuals, 1 to 50.
            boxes: x0, y0, x1, y1 of each animal in pixels of the upright photograph, or None for all of it.
            viewpoint: Viewpoint of the animals, as in the gallery; "" for unknown.
            species: Species of the animals, likewise.

        Raises:
            ImageError: If a photograph cannot be decoded.
            DataError: If a file cannot be read, or a box covers no pixel of its photograph.
            InputError: If the gallery has no photograph of the viewpoint or the species.
            ValueError: If `top` is out of range, or there are not as many boxes as photographs.
        """
        if not 1 <= top <= MOST_CANDIDATES:
            raise ValueError(f"`1 <= top <= {MOST_CANDIDATES}` must hold, but got {top}")
        traits = AnimalTraits(viewpoint, species)
        self.gallery.check_traits(traits)
        pairs = zip(photographs, boxes or [None] * len(photographs), strict=True)
        if not (read := [read_named(one, self.geometry, self.keypoints, box=box) for one, box in pairs]):
            return []
        arrays, local = zip(*read, strict=True)
        return self.rank(self.embed(arrays), top=top, traits=[traits] * len(arrays), local=local)
