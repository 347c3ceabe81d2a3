"""Predictor: the only inference path from photographs to ranked individuals, for service, submission and tests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from whale_ray.data.image_io import Geometry, decode_image, fit_image
from whale_ray.errors import BundleError, DataError, ImageError, InputError
from whale_ray.inference.bundle import bundle_runtime, golden_tolerance, read_bundle
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.predictions import Candidate, Identification, NewIndividual
from whale_ray.inference.runtimes import TORCH, build_runtime
from whale_ray.learning.encoders.ensemble import rebuild_from_recipe
from whale_ray.retrieval.embed import embed
from whale_ray.retrieval.evaluation.calibration import read_calibration
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting
from whale_ray.retrieval.search.gallery_index import combine_views, normalize_rows
from whale_ray.retrieval.search.searcher import GallerySearcher

Photograph = Path | str | bytes | Image.Image
MOST_CANDIDATES = 50
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gallery:
    """A gallery to compare with.

    Attributes:
        images: File name of each row.
        individuals: Individual of each row.
        searcher: Searcher over its vectors.
    """

    images: Sequence[str]
    individuals: Sequence[str]
    searcher: GallerySearcher


class Bundle:
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
        manifest = contents.manifest
        self.contents = contents
        self.id: str = manifest["id"]
        self.threshold: float | None = manifest["threshold"]
        self.calibration = read_calibration(manifest["calibration"])
        self.unknown_label: str = manifest["unknown_label"]
        self.setting = RetrievalSetting(**manifest["retrieval"])
        self.geometry = Geometry(**manifest["preprocessing"])
        self.device = device
        self.runtime = runtime or "another process"
        self._run = None if runtime is None else self._running(runtime, threads)
        self.individuals: list[str] = contents.table["individual"].tolist()
        self.images: list[str] = contents.table["image"].tolist()
        self.gallery = Gallery(self.images, self.individuals, self.build_searcher(contents.gallery, self.individuals))

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu", threads: int | None = None) -> Bundle:
        """Load a bundle: files are checked by hash, the encoder by the golden images.

        On a CPU it runs on the runtime that the bundle names. If that is missing, or gives other embeddings here, it
        runs on torch and logs why.

        Args:
            path: The bundle folder.
            device: Device of the encoder.
            threads: As in `Bundle`.

        Raises:
            BundleError: If anything differs from what it was when the bundle was made.
        """
        contents = read_bundle(Path(path))
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
        bundle.check_golden()
        return bundle

    @classmethod
    def without_encoder(cls, path: Path | str) -> Bundle:
        """Load a bundle without its encoder, to prepare images and rank where another process embeds."""
        return cls(replace(read_bundle(Path(path)), weights={}), runtime=None)

    def _running(self, runtime: str, threads: int | None) -> torch.nn.Module:
        encoder = rebuild_from_recipe(self.card["encoder"])
        _load_weights(encoder, self.contents)
        encoder.eval().to(self.device)
        size = (self.geometry.height, self.geometry.width)
        return build_runtime(runtime, encoder, size=size, threads=threads or torch.get_num_threads())

    def build_searcher(
        self, vectors: np.ndarray, individuals: Sequence[str], *, ready: bool = False
    ) -> GallerySearcher:
        """Return a searcher over another gallery, searched like the bundle's own.

        Args:
            vectors: Shape (N, D).
            individuals: N names.
            ready: The vectors come from `normalize_rows`.
        """
        searcher = GallerySearcher(
            vectors,
            np.array(individuals, dtype=str),
            proxies=self.contents.proxies,
            ready=ready,
        )
        searcher.prepare(self.setting.search_mode)
        return searcher

    @property
    def new_distance(self) -> float | None:
        """The distance to the nearest individual above which an animal is called new; None if no distance decides."""
        return None if self.threshold is None or not self.setting.search_mode.plain else 1.0 - self.threshold

    @property
    def card(self) -> dict[str, Any]:
        """The manifest: settings, scores, threshold, versions."""
        return self.contents.manifest

    def check_golden(self) -> None:
        """Check the golden images.

        Raises:
            BundleError: If their embeddings differ from the expected ones.
        """
        expected, tolerance = self.contents.golden_vectors, golden_tolerance(self.card, self.runtime)
        if not self.contents.golden or expected.shape != (len(self.contents.golden), self.card["embedding_size"]):
            raise BundleError(f"{self.id} must have golden images, each with its embedding. Make the bundle again")
        most = largest_tolerance(expected)
        if not (isinstance(tolerance, float) and 0 < tolerance <= most):
            raise BundleError(
                f"the tolerance of {self.id} must be above 0 and at most {most:.2g}, a tenth of the smallest distance "
                f"between its golden images, but is {tolerance}. Make the bundle again"
            )
        difference = self.golden_difference(expected)
        if not difference <= tolerance:
            raise BundleError(
                f"the golden images must give their embeddings within {tolerance:.2g} cosine distance, but {self.id} "
                f"on {self.runtime} differs by {difference:.2g} here. Use the library versions in its bundle.json, or "
                "make it again"
            )

    def golden_difference(self, expected: np.ndarray) -> float:
        """Return the largest cosine distance of the golden embeddings, computed one at a time, from `expected`."""
        found = np.concatenate([self.embed([self.prepare(picture)]) for picture in self.contents.golden])
        return float(np.max(1.0 - np.sum(found * expected, axis=1)))

    def prepare(self, photograph: Photograph) -> np.ndarray:
        """Return the photograph as the encoder's input: uint8, shape (H', W', 3).

        Raises:
            ImageError: If it cannot be decoded.
        """
        if isinstance(photograph, str):
            photograph = Path(photograph)
        image = photograph if isinstance(photograph, Image.Image) else decode_image(photograph)
        return fit_image(image.convert("RGB"), self.geometry)

    def embed(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Unit embeddings, float32 (N, D), of prepared photographs, in the views of the bundle's retrieval setting."""
        stack = np.stack(arrays)
        wanted = {"plain": False} | ({"flip": True} if self.setting.flip == "average" else {})
        views = {view: self._embed(stack, flipped=flipped) for view, flipped in wanted.items()}
        return normalize_rows(combine_views(views, self.setting.flip))

    def _embed(self, stack: np.ndarray, *, flipped: bool) -> np.ndarray:
        if self._run is None:
            raise BundleError(f"{self.id} was loaded without its encoder, and cannot embed. Load it with Bundle.load")
        rows = np.arange(len(stack))
        return embed(self._run, stack, self.geometry, rows, flipped=flipped, device=self.device, precision="fp32")

    def rank(self, vectors: np.ndarray, *, top: int = 5, gallery: Gallery | None = None) -> list[Identification]:
        """Return an answer for each embedding.

        Args:
            vectors: Shape (N, D).
            top: Number of individuals.
            gallery: Another gallery than the bundle's own, its searcher from `build_searcher`.
        """
        gallery = gallery or self.gallery
        ranking = gallery.searcher.rank(vectors, self.setting, individuals=MOST_CANDIDATES)
        nearest = gallery.searcher.nearest_images(vectors, ranking, self.setting.search_mode, first=top)
        said = (self.calibration.of_match(ranking.cosines), self.calibration.of_new(ranking.cosines))
        rows = zip(ranking.individuals, ranking.cosines, *nearest, *said, strict=True)
        return [self._answer(gallery, *row, top=top) for row in rows]

    def _answer(
        self,
        gallery: Gallery,
        individuals: np.ndarray,
        scores: np.ndarray,
        cosines: np.ndarray,
        images: np.ndarray,
        match: np.ndarray,
        new: float,
        *,
        top: int,
    ) -> Identification:
        count = int(min(top, (individuals >= 0).sum()))
        candidates = tuple(
            Candidate(
                rank=place + 1,
                individual=str(gallery.searcher.index.names[individuals[place]]),
                distance=min(max(1.0 - float(cosines[place]), 0.0), 2.0),
                score=float(scores[place]),
                probability=_share(match[place]),
                image=gallery.images[images[place]],
                row=int(images[place]),
            )
            for place in range(count)
        )
        known = bool(candidates) and (self.threshold is None or candidates[0].score >= self.threshold)
        return Identification(NewIndividual(_share(new), "known" if known else "new"), candidates)

    def identify(self, photographs: Sequence[Photograph], *, top: int = 5) -> list[Identification]:
        """Return an answer for each photograph.

        Args:
            photographs: Paths, bytes or Pillow images.
            top: Number of individuals, 1 to 50.

        Raises:
            ImageError: If a photograph cannot be decoded.
            DataError: If a file cannot be read.
            ValueError: If `top` is out of range.
        """
        if not 1 <= top <= MOST_CANDIDATES:
            raise ValueError(f"`1 <= top <= {MOST_CANDIDATES}` must hold, but got {top}")
        if not photographs:
            return []
        return self.rank(self.embed([self._prepare_named(photograph) for photograph in photographs]), top=top)

    def _prepare_named(self, photograph: Photograph) -> np.ndarray:
        """Return `prepare`, with the file's name in its errors."""
        if not isinstance(photograph, Path | str):
            return self.prepare(photograph)
        try:
            return self.prepare(photograph)
        except ImageError as error:
            raise type(error)(f"{photograph}: {error}") from error
        except OSError as error:
            raise DataError(
                f"a photograph must be a file that can be read, but {photograph}: {error.strerror or error}"
            ) from error


def _share(probability: float) -> float | None:
    return None if np.isnan(probability) else float(probability)


def largest_tolerance(golden_vectors: np.ndarray) -> float:
    """Return a tenth of the smallest cosine distance between two golden embeddings; 0 for a collapsed encoder."""
    distances = 1.0 - golden_vectors @ golden_vectors.T
    pairs = distances[~np.eye(len(distances), dtype=bool)]
    return float(pairs.min(initial=1.0)) / 10.0


def _load_weights(encoder: Any, contents: BundleContents) -> None:
    try:
        encoder.load_state_dict(contents.weights)
    except RuntimeError as error:
        raise BundleError(f"the weights of {contents.manifest['id']} do not fit its encoder: {error}") from error
