"""Kaggle submission from a bundle: five distinct labels for every test photograph."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.decoding.find_image_files import find_images
from whale_ray.errors import DataError, ImageError
from whale_ray.file_errors import short_reason
from whale_ray.inference.keypoints.keypoint_matcher import read_photograph
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.verbosity import track_steps

LABELS_PER_ROW = 5
_BATCH = 32


@dataclass(frozen=True)
class Submission:
    """A written submission.

    Attributes:
        photographs: Number of rows.
        new: Number of rows whose first label is the unknown label.
        undecodable: Reason by name, of photographs that cannot be decoded. They have a row all the same.
        others: Reason by name, of files without a row: they are no photographs.
    """

    photographs: int
    new: int
    undecodable: dict[str, str]
    others: dict[str, str]


def write_submission(bundle: Bundle, images: Path, path: Path, *, progress: bool = False) -> Submission:
    """Write one Image,Id row for every photograph in a folder and its sub-folders.

    Photographs are recognised by content. An undecodable photograph gets the unknown label and the most photographed
    individuals: no row is ever missing. `Image` is the path below the folder.

    Args:
        bundle: The bundle.
        images: Folder of photographs.
        path: The CSV file to write.
        progress: Show the progress.

    Raises:
        DataError: If the folder has no photograph.
    """
    files = find_images(images)
    names = files.images
    _check_labels([*bundle.individuals, bundle.unknown_label])
    fallback = _fallback(bundle)
    rows: list[tuple[str, list[str]]] = []
    undecodable: dict[str, str] = {}
    starts = range(0, len(names), _BATCH)
    for start in track_steps(starts, "identifying batches", progress=progress):
        chunk = names[start : start + _BATCH]
        prepared: dict[str, tuple[np.ndarray, LocalFeatures | None]] = {}
        for name in chunk:
            try:
                prepared[name] = read_photograph(images / name, bundle.geometry, bundle.keypoints)
            except (ImageError, OSError) as error:
                undecodable[name] = short_reason(error)
        found = _labels(bundle, prepared)
        rows += [(name, found.get(name, fallback)) for name in chunk]
    table = pd.DataFrame({"Image": [name for name, _ in rows], "Id": [" ".join(labels) for _, labels in rows]})
    write_atomically(path, table.to_csv(index=False))
    new = sum(labels[0] == bundle.unknown_label for _, labels in rows)
    return Submission(len(rows), new, undecodable, files.others)


def _labels(bundle: Bundle, prepared: Mapping[str, tuple[np.ndarray, LocalFeatures | None]]) -> dict[str, list[str]]:
    if not prepared:
        return {}
    arrays, found = zip(*prepared.values(), strict=True)
    answers = bundle.rank(bundle.embed(arrays), top=LABELS_PER_ROW, local=found)
    return {
        name: answer.labels(unknown_label=bundle.unknown_label, count=LABELS_PER_ROW, threshold=bundle.threshold)
        for name, answer in zip(prepared, answers, strict=True)
    }


def _fallback(bundle: Bundle) -> list[str]:
    frequent = pd.Series(bundle.individuals).value_counts(sort=True).index[: LABELS_PER_ROW - 1]
    return [bundle.unknown_label, *frequent]


def _check_labels(labels: list[str]) -> None:
    """Raises DataError for a label with a space: Kaggle's form has five labels in a cell, with spaces between."""
    if spaced := sorted({label for label in labels if len(label.split()) != 1}):
        raise DataError(
            f"a submission's labels must be free of spaces, but {len(spaced)} of the bundle are not, as {spaced[0]!r}. "
            "Write them with _ in train.csv, and run the sweep on that"
        )


def kaggle_command(path: Path) -> str:
    """Return the command that sends a submission to the competition."""
    return f'kaggle competitions submit -c humpback-whale-identification -f {shlex.quote(str(path))} -m "whale_ray"'
