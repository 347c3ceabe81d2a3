"""Example queries beside their nearest gallery photographs: the most confident mistakes first, then right answers.

Reads queries.parquet and embeddings.npz of a finished trial, and the photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.device import available_cpus
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import chosen_setting
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.report.match_maps import MatchMap, Pair
from whale_ray.sweep.report.thumbnails import KeypointPicture, Photographs
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.embeddings_io import read_embeddings


@dataclass(frozen=True)
class Picture:
    """A photograph on the page.

    Attributes:
        image: File name.
        individual: The individual it shows.
        role: Its role in the example.
        distance: Cosine distance to the query; None for the query itself.
        data: Data URI; "" if the photograph cannot be shown.
        reason: Why it cannot be shown.
    """

    image: str
    individual: str
    role: str
    distance: float | None
    data: str
    reason: str


@dataclass(frozen=True)
class Sight:
    """Occlusion maps of one match, painted over query and answer as data URIs.

    Attributes:
        role: Role of the answer.
        individual: Individual of the answer.
        query: The painted query.
        answer: The painted answer.
        cosine: Cosine of the two photographs.
        most: Largest loss of cosine by covering one place.
    """

    role: str
    individual: str
    query: str
    answer: str
    cosine: float
    most: float


@dataclass(frozen=True)
class Example:
    """One query and its nearest photographs.

    Attributes:
        query: The query.
        answers: The nearest photographs.
        rank: Rank of the right individual; 0 if it is absent.
        sure: Probability of the first answer; NaN if uncalibrated.
        sights: Occlusion maps.
        keypoints: Pictures of matched keypoints.
    """

    query: Picture
    answers: tuple[Picture, ...]
    rank: int
    sure: float
    sights: tuple[Sight, ...] = ()
    keypoints: tuple[KeypointPicture, ...] = ()

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs of photographs whose occlusion maps the page shows."""
        return tuple(
            pair for one in self.answers for pair in ((self.query.image, one.image), (one.image, self.query.image))
        )


@dataclass(frozen=True)
class Examples:
    """Mistakes, unknown animals taken for a known individual, and right answers."""

    mistakes: tuple[Example, ...]
    strangers: tuple[Example, ...]
    right: tuple[Example, ...]


def find_examples(
    record: Record, photographs: Photographs, *, mistakes: int = 12, strangers: int = 4, right: int = 6
) -> Examples:
    """Return examples of a finished trial.

    Mistakes and unknown animals are ordered by falling probability of the wrong answer (by cosine if uncalibrated),
    with no pair of individuals twice. Right answers range evenly from certain to doubtful.

    Args:
        record: The trial.
        photographs: The photographs.
        mistakes: Largest number of mistakes.
        strangers: Largest number of unknown animals.
        right: Largest number of right answers.
    """
    queries = pd.read_parquet(record.folder / "queries.parquet").dropna(subset=["cosine"])
    queries = queries[queries["nearest_image"] != ""]  # without it there was no candidate of the query's species
    queries["sure"] = queries.get("match_probability", np.nan)
    queries = queries.sort_values(["sure", "cosine", "image"], ascending=[False, False, True])
    known, first = queries["known"].astype(bool), queries["rank"] == 1
    wrong = queries[known & ~first].drop_duplicates(["individual", "nearest_individual"])
    taken = queries[queries["new"].astype(bool) & ~(queries["cosine"] < queries["threshold"])]
    sure = queries[known & first]
    even = sure.iloc[np.unique(np.linspace(0, len(sure) - 1, min(right, len(sure))).astype(int))]
    viewer = _Viewer(record, photographs)
    groups = (wrong.head(mistakes), taken.head(strangers), even)
    viewer.prepare_galleries([str(image) for group in groups for image in group["image"]])
    return Examples(*(tuple(viewer.example(query) for query in group.to_dict("records")) for group in groups))


def with_maps(examples: Examples, maps: Mapping[Pair, MatchMap], photographs: Photographs) -> Examples:
    """Return the examples with the available occlusion maps of each mistake.

    Args:
        examples: The examples.
        maps: Map by pair of photographs.
        photographs: The photographs.
    """
    mistakes = tuple(replace(one, sights=tuple(_sights(one, maps, photographs))) for one in examples.mistakes)
    return replace(examples, mistakes=mistakes)


def _sights(example: Example, maps: Mapping[Pair, MatchMap], photographs: Photographs) -> list[Sight]:
    sights = []
    for answer, pairs in zip(example.answers, zip(example.pairs[::2], example.pairs[1::2], strict=True), strict=True):
        if all(pair in maps for pair in pairs):
            both = [maps[pair] for pair in pairs]
            most = max(float(one.losses.max()) for one in both)
            strength = max(float(np.abs(one.losses).max()) for one in both)
            query, match = (
                photographs.painted(pair[0], one.losses / (strength or 1.0), one.frame)
                for pair, one in zip(pairs, both, strict=True)
            )
            sights.append(Sight(answer.role, answer.individual, query, match, both[0].cosine, most))
    return sights


class _Viewer:
    """Embeddings of a trial, searched for the photographs nearest to a query in the gallery of its split."""

    def __init__(self, record: Record, photographs: Photographs) -> None:
        self.views, self.table = read_embeddings(record.folder)
        self.unknown = record.settings["data"].get("unknown_label", "new_whale")
        self.setting = chosen_setting(record.result)
        self.photographs = photographs
        self._galleries: dict[Any, _Gallery] = {}

    def prepare_galleries(self, images: Sequence[str]) -> None:
        """Prepare the galleries of queries, those of several splits on all cores."""
        splits = list(dict.fromkeys(map(self._split_of, images)))
        with ThreadPoolExecutor(available_cpus()) as threads:
            self._galleries = dict(zip(splits, threads.map(self._gallery, splits), strict=True))

    def _gallery(self, split: Any) -> _Gallery:
        here = np.ones(len(self.table), dtype=bool)
        if split is not None and "split" in self.table:
            here = (self.table["split"] == split).to_numpy()
        views = {name: view[here] for name, view in self.views.items()}
        return _Gallery(self.table[here], views, self.setting, unknown=self.unknown)

    def example(self, query: Mapping[Any, Any]) -> Example:
        """Return the query with the nearest photographs of the answer and of the right (or another) individual."""
        image, truth, answer = (str(query[name]) for name in ("image", "individual", "nearest_individual"))
        species = str(query.get("species", ""))
        gallery = self._galleries[self._split_of(image)]
        distances, names = gallery.distances(image), gallery.individuals
        wanted = [(gallery.images == str(query["nearest_image"]), "the answer")]
        if query["known"] and truth != answer:
            wanted.append((names == truth, "the right individual"))
        else:
            candidates = gallery.may_be_of(species) & (names != answer)
            wanted.append((candidates, "nearest other individual"))
        answers = [self._nearest(gallery, distances, mask, role) for mask, role in wanted if mask.any()]
        shown = self._picture(image, truth, "query", None)
        return Example(shown, tuple(answers), int(query["rank"]), float(query["sure"]))

    def _split_of(self, image: str) -> Any:
        """Return the split that a query validates; None if there is one split."""
        if "split" not in self.table:
            return None
        validates = (self.table["image"] == image) & (self.table["part"] == "val")
        return self.table.loc[validates, "split"].iloc[0]

    def _nearest(self, gallery: _Gallery, distances: np.ndarray, mask: np.ndarray, role: str) -> Picture:
        place = int(np.argmin(np.where(mask, distances, np.inf)))
        image, individual = (str(names[place]) for names in (gallery.images, gallery.individuals))
        return self._picture(image, individual, role, float(distances[place]))

    def _picture(self, image: str, individual: str, role: str, distance: float | None) -> Picture:
        data, reason = self.photographs.thumbnail(image)
        return Picture(image, individual, role, distance, data, reason)


class _Gallery:
    """Gallery photographs of one split and their distances to a query."""

    def __init__(self, table: pd.DataFrame, views: Mapping[str, np.ndarray], setting: Any, *, unknown: str) -> None:
        individuals, parts = (table[name].to_numpy(dtype=str) for name in ("individual", "part"))
        vectors = normalize_rows(
            TransformedVectors(views, individuals=individuals, parts=parts, unknown_label=unknown).seen(
                setting.transform
            )
        )
        held = (parts == "train") & (individuals != unknown)
        self.images, self.individuals = table["image"].to_numpy(dtype=str)[held], individuals[held]
        self._species = table["species"].to_numpy(dtype=str)[held]
        self._vectors = vectors[held]
        asking = table["image"].to_numpy(dtype=str)[parts == "val"]
        self._queries = dict(zip(asking, vectors[parts == "val"], strict=True))

    def may_be_of(self, species: str) -> np.ndarray:
        """Return whether each gallery photograph may be of a species, "" for an unknown one; bool."""
        return np.isin(self._species, ["", species]) if species else np.ones(len(self._species), dtype=bool)

    def distances(self, image: str) -> np.ndarray:
        """Return the cosine distance of a query to each gallery photograph."""
        return np.asarray(1.0 - self._vectors @ self._queries[image])


def missing_files(record: Record) -> Sequence[str]:
    """Return the files that examples need and the trial's folder lacks."""
    return [name for name in ("queries.parquet", "embeddings.npz") if not (record.folder / name).exists()]
