"""The only inference path: photographs in, ranked individuals out. Service, submission and tests all come this way.

Knows a bundle and the floors below; it knows no HTTP, no Ray and no sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whale_ray.bundle import Contents, read_bundle
from whale_ray.data.pixels import Geometry, decode_image, fit_image
from whale_ray.errors import BundleError, DataError, ImageError
from whale_ray.learning.encoders import rebuild_encoder
from whale_ray.retrieval.calibration import read_calibration
from whale_ray.retrieval.embedding import embed
from whale_ray.retrieval.evaluation import RetrievalSetting
from whale_ray.retrieval.gallery import GalleryIndex, combine_views, unit
from whale_ray.retrieval.ranking import rank_queries

Photograph = Path | str | bytes | Image.Image
MOST_CANDIDATES = 50


@dataclass(frozen=True)
class Candidate:
    """One individual of an answer. distance: the smallest cosine distance to it (0 to 2); image: where it was seen."""

    rank: int
    individual: str
    distance: float
    probability: float | None
    image: str
    row: int


@dataclass(frozen=True)
class NewIndividual:
    """Whether the animal is probably one that the gallery does not hold."""

    probability: float | None
    decision: str


@dataclass(frozen=True)
class Identification:
    """The answer for one photograph: distinct individuals, best first."""

    new_individual: NewIndividual
    candidates: tuple[Candidate, ...]

    def labels(self, *, unknown_label: str, count: int = 5, threshold: float | None) -> list[str]:
        """At most `count` labels in Kaggle's order: `unknown_label` before the first candidate below the threshold."""
        labels = [candidate.individual for candidate in self.candidates]
        if threshold is not None:
            far = (place for place, one in enumerate(self.candidates) if one.distance > 1.0 - threshold)
            place = next(far, len(labels))
            labels.insert(place, unknown_label)
        return labels[:count]


@dataclass(frozen=True)
class Gallery:
    """Whom photographs are compared with: the image and the individual of each row, and an index over its vectors."""

    images: Sequence[str]
    individuals: Sequence[str]
    index: GalleryIndex


class Bundle:
    """A recogniser in memory, made from a bundle's contents.

    >>> Bundle.load("runs/quickstart/best").identify(["fluke.jpg"], top=5)  # doctest: +SKIP
    """

    def __init__(self, contents: Contents, *, device: str = "cpu") -> None:
        manifest = contents.manifest
        self.contents = contents
        self.id: str = manifest["id"]
        self.threshold: float | None = manifest["threshold"]
        self.calibration = read_calibration(manifest["calibration"])
        self.unknown_label: str = manifest["unknown_label"]
        self.setting = RetrievalSetting(**manifest["retrieval"])
        self.geometry = Geometry(**manifest["preprocessing"])
        self.device = device
        self.encoder = rebuild_encoder(manifest["encoder"])
        _load_weights(self.encoder, contents)
        self.encoder.eval().to(device)
        self.individuals: list[str] = contents.table["individual"].tolist()
        self.images: list[str] = contents.table["image"].tolist()
        index = GalleryIndex(contents.gallery, np.array(self.individuals, dtype=str))
        self.gallery = Gallery(self.images, self.individuals, index)

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu") -> Bundle:
        """The bundle at `path`, its files checked by hash and its encoder by the golden images.

        Raises: BundleError where anything differs from what it was when the bundle was made.
        """
        contents = read_bundle(Path(path))
        try:
            bundle = cls(contents, device=device)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path}/bundle.json cannot be understood ({error}). Make the bundle again") from error
        bundle.check_golden()
        return bundle

    @property
    def new_distance(self) -> float | None:
        """The distance to the nearest individual above which an animal is taken for new; None: nobody ever is."""
        return None if self.threshold is None else 1.0 - self.threshold

    @property
    def card(self) -> dict[str, Any]:
        """The manifest: settings, scores, threshold, versions."""
        return self.contents.manifest

    def check_golden(self) -> None:
        """Raises BundleError where the golden images do not give the embeddings expected of them."""
        expected, tolerance = self.contents.golden_vectors, self.card["tolerance"]
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
                f"differs by {difference:.2g} here. Use the library versions in its bundle.json, or make it again"
            )

    def golden_difference(self, expected: np.ndarray) -> float:
        """The largest cosine distance between the golden images' embeddings, one at a time, and `expected`."""
        found = np.concatenate([self.embed([self.prepare(picture)]) for picture in self.contents.golden])
        return float(np.max(1.0 - np.sum(found * expected, axis=1)))

    def prepare(self, photograph: Photograph) -> np.ndarray:
        """The photograph as the encoder wants it: uint8 (H, W, 3), margin included.

        Raises: ImageError where it cannot be decoded.
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
        return unit(combine_views(views, self.setting.flip))

    def _embed(self, stack: np.ndarray, *, flipped: bool) -> np.ndarray:
        rows = np.arange(len(stack))
        return embed(self.encoder, stack, self.geometry, rows, flipped=flipped, device=self.device, precision="fp32")

    def rank(self, vectors: np.ndarray, *, top: int = 5, gallery: Gallery | None = None) -> list[Identification]:
        """An answer for each embedding (N, D): the `top` individuals in the order of the bundle's vote.

        gallery: another than the bundle's own.
        """
        setting, gallery = self.setting, gallery or self.gallery
        ranking = rank_queries(
            vectors,
            gallery.index,
            vote=setting.vote,
            neighbours=setting.neighbours,
            temperature=setting.temperature,
            individuals=MOST_CANDIDATES,
        )
        said = (self.calibration.of_match(ranking.cosines), self.calibration.of_new(ranking.cosines))
        rows = zip(ranking.individuals, ranking.cosines, ranking.images, *said, strict=True)
        return [self._answer(gallery, *row, top=top) for row in rows]

    def _answer(
        self,
        gallery: Gallery,
        individuals: np.ndarray,
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
                individual=str(gallery.index.names[individuals[place]]),
                distance=min(max(1.0 - float(cosines[place]), 0.0), 2.0),
                probability=_share(match[place]),
                image=gallery.images[images[place]],
                row=int(images[place]),
            )
            for place in range(count)
        )
        known = bool(candidates) and (self.new_distance is None or candidates[0].distance <= self.new_distance)
        return Identification(NewIndividual(_share(new), "known" if known else "new"), candidates)

    def identify(self, photographs: Sequence[Photograph], *, top: int = 5) -> list[Identification]:
        """An answer for each photograph (a path, bytes or a Pillow image), `top` individuals each, 1 to 50.

        Raises: ImageError for the first photograph that cannot be decoded, DataError for a file that cannot be read,
        ValueError for another `top`.
        """
        if not 1 <= top <= MOST_CANDIDATES:
            raise ValueError(f"`1 <= top <= {MOST_CANDIDATES}` must hold, but got {top}")
        if not photographs:
            return []
        return self.rank(self.embed([self._prepare_named(photograph) for photograph in photographs]), top=top)

    def _prepare_named(self, photograph: Photograph) -> np.ndarray:
        """As `prepare`; what is wrong with a file is said with its name."""
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
    """A tenth of the smallest cosine distance between two golden embeddings (G, D): a collapsed encoder has none."""
    distances = 1.0 - golden_vectors @ golden_vectors.T
    pairs = distances[~np.eye(len(distances), dtype=bool)]
    return float(pairs.min(initial=1.0)) / 10.0


def _load_weights(encoder: Any, contents: Contents) -> None:
    try:
        encoder.load_state_dict(contents.weights)
    except RuntimeError as error:
        raise BundleError(f"the weights of {contents.manifest['id']} do not fit its encoder: {error}") from error
