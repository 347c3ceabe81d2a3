"""Queries to look at, beside the gallery photographs that were nearest: the worst mistakes first, then right answers.

Reads what a finished trial left (queries.parquet, embeddings.npz) and the photographs; knows no page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from whale_ray.data.pixels import decode_image
from whale_ray.errors import ImageError
from whale_ray.retrieval.gallery import unit
from whale_ray.retrieval.searches import Vectors
from whale_ray.retrieval.setting import setting_of
from whale_ray.sweep.leaderboard import Record

THUMBNAIL_SIDE = 220
_QUALITY = 72


@dataclass(frozen=True)
class Picture:
    """A photograph as the page shows it. distance: its cosine distance to the query; None for the query itself.

    data: a data URI, or "" where the photograph cannot be shown, and then `reason` says why.
    """

    image: str
    individual: str
    role: str
    distance: float | None
    data: str
    reason: str


@dataclass(frozen=True)
class Example:
    """One query and its nearest photographs. rank: of the right individual, 0 where it has none."""

    query: Picture
    answers: tuple[Picture, ...]
    rank: int


@dataclass(frozen=True)
class Examples:
    """What the page shows: mistakes, strangers that were taken for a known individual, right answers."""

    mistakes: tuple[Example, ...]
    strangers: tuple[Example, ...]
    right: tuple[Example, ...]


class Photographs:
    """The folder of photographs, as small pictures to write into a page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, image: str) -> tuple[Image.Image | None, str]:
        """The photograph and ""; or None and the reason why it cannot be shown."""
        path = self.folder / image
        if not path.resolve().is_relative_to(self.folder.resolve()):
            return None, "lies outside the folder of photographs"
        if not path.is_file():
            return None, "photograph not found"
        try:
            return decode_image(path), ""
        except (ImageError, OSError) as error:
            return None, f"cannot be shown: {error}"

    def thumbnail(self, image: str) -> tuple[str, str]:
        """A data URI and ""; or "" and the reason why the photograph cannot be shown."""
        picture, reason = self.open(image)
        if picture is None:
            return "", reason
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", ""


def find_examples(
    record: Record, photographs: Photographs, *, mistakes: int = 8, strangers: int = 4, right: int = 6
) -> Examples:
    """Examples of a finished trial: mistakes by falling cosine of the wrong answer, no pair of individuals twice;
    strangers (no individual of the gallery) by falling cosine; right answers evenly from sure to barely.
    """
    queries = pd.read_parquet(record.folder / "queries.parquet").dropna(subset=["cosine"])
    queries = queries.sort_values(["cosine", "image"], ascending=[False, True])
    known, first = queries["known"].astype(bool), queries["rank"] == 1
    wrong = queries[known & ~first].drop_duplicates(["individual", "nearest_individual"])
    taken = queries[queries["new"].astype(bool) & ~(queries["cosine"] < queries["threshold"])]
    sure = queries[known & first]
    even = sure.iloc[np.unique(np.linspace(0, len(sure) - 1, min(right, len(sure))).astype(int))]
    viewer = _Viewer(record, photographs)
    groups = (wrong.head(mistakes), taken.head(strangers), even)
    return Examples(*(tuple(viewer.example(query) for query in group.to_dict("records")) for group in groups))


class _Viewer:
    """The embeddings of a trial, asked for the photographs nearest to a query."""

    def __init__(self, record: Record, photographs: Photographs) -> None:
        with np.load(record.folder / "embeddings.npz", allow_pickle=False) as stored:
            views = {view: stored[view] for view in ("plain", "flip") if view in stored}
            self.images, self.individuals, parts = (stored[name] for name in ("image", "individual", "part"))
        self.unknown = record.settings["data"].get("unknown_label", "new_whale")
        setting = setting_of(record.result)
        held = Vectors(views, individuals=self.individuals, parts=parts, unknown_label=self.unknown)
        self.vectors = unit(held.seen(setting.view))
        self.gallery = np.flatnonzero((parts == "train") & (self.individuals != self.unknown))
        self.photographs = photographs

    def example(self, query: Mapping[Any, Any]) -> Example:
        """The query, the nearest photograph of the answer, and the nearest of the right individual; of another one
        where the answer is right or nobody is.
        """
        image, truth, answer = (str(query[name]) for name in ("image", "individual", "nearest_individual"))
        row = int(np.flatnonzero(self.images == image)[0])
        distances = 1.0 - self.vectors[self.gallery] @ self.vectors[row]
        names = self.individuals[self.gallery]
        wanted = [(names == answer, "the answer")]
        if query["known"] and truth != answer:
            wanted.append((names == truth, "the right individual"))
        else:
            wanted.append((names != answer, "nearest other individual"))
        answers = [self._nearest(distances, mask, role) for mask, role in wanted if mask.any()]
        return Example(self._picture(row, "query", None), tuple(answers), int(query["rank"]))

    def _nearest(self, distances: np.ndarray, mask: np.ndarray, role: str) -> Picture:
        place = int(np.argmin(np.where(mask, distances, np.inf)))
        return self._picture(int(self.gallery[place]), role, float(distances[place]))

    def _picture(self, row: int, role: str, distance: float | None) -> Picture:
        image = str(self.images[row])
        data, reason = self.photographs.thumbnail(image)
        return Picture(image, str(self.individuals[row]), role, distance, data, reason)


def missing_files(record: Record) -> Sequence[str]:
    """The files that examples need and the trial's folder lacks."""
    return [name for name in ("queries.parquet", "embeddings.npz") if not (record.folder / name).exists()]
