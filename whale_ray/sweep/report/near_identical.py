"""Near-identical pictures for the label review: pairs that are close by embedding, by pixels or in the audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.data.near_duplicates import MIN_CORRELATION, GreyPair, coarse_vectors, find_copies, shrink_picture
from whale_ray.retrieval.label_quality.nearest_pairs import nearest_pairs
from whale_ray.sweep.report.thumbnails import Photographs

_LOOKS_ALIKE = 2  # neighbors of a photograph by its pixels that are compared with it


def twins_of(run: Path) -> list[tuple[str, str]]:
    """Return pairs of copies that the audit found by hash, each with the first of its group."""
    path = run / "audit.json"
    groups = json.loads(path.read_text())["twins"] if path.exists() else []
    return [(group[0], other) for group in groups for other in group[1:]]


def find_near_identical(
    vectors: np.ndarray, columns: pd.DataFrame, twins: list[tuple[str, str]], photographs: Photographs
) -> tuple[list[dict[str, Any]], str]:
    """Return findings of near-identical pictures, those across the split first, and the reason for having none.

    Args:
        vectors: Unit embeddings, float32, shape (N, D).
        columns: N rows with the columns individual and part, indexed by image name.
        twins: Pairs of image names whose files or pixels are equal.
        photographs: The photographs, for the comparison of pixels.
    """
    images = columns.index
    place = {image: row for row, image in enumerate(images)}
    known = np.array([[place[one], place[other]] for one, other in twins if {one, other} <= place.keys()], dtype=int)
    pictures = _small_pictures(images, photographs)
    rows = np.array([*pictures], dtype=int)
    alike = rows[nearest_pairs(coarse_vectors(pictures.values()), depth=_LOOKS_ALIKE)]
    pairs = np.concatenate([np.sort(known.reshape(-1, 2), axis=1), nearest_pairs(vectors), alike])
    pairs = pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    surely = {tuple(pair) for pair in np.sort(known.reshape(-1, 2), axis=1).tolist()}
    found = find_copies(pairs, pictures, least=-1.0)
    findings = [
        _copy(columns, one, other, correlation)
        for one, other, correlation in found
        if correlation >= MIN_CORRELATION or (one, other) in surely
    ]
    reason = "" if pictures or not len(pairs) else f"none of the photographs can be read in {photographs.folder}"
    parts = columns["part"]
    return sorted(
        findings, key=lambda row: (parts[row["image"]] == parts[row["other_image"]], -row["confidence"])
    ), reason


def _small_pictures(images: pd.Index, photographs: Photographs) -> dict[int, GreyPair]:
    """Return the readable photographs as small grey images, by row."""
    opened = ((row, photographs.open(str(image))[0]) for row, image in enumerate(images))
    return {row: shrink_picture(picture) for row, picture in opened if picture is not None}


def _copy(columns: pd.DataFrame, one: int, other: int, correlation: float) -> dict[str, Any]:
    """Return a finding; `image`, which may be removed, is the one that validates, else the later one."""
    names = [str(columns.index[row]) for row in (one, other)]
    drop, keep = (
        sorted(names, key=lambda name: columns.at[name, "part"] != "val") if _across(columns, names) else names[::-1]
    )
    labels = {"individual": columns.at[drop, "individual"], "other_individual": columns.at[keep, "individual"]}
    return {
        "kind": "near_identical",
        "image": drop,
        "other_image": keep,
        "suggested": "",
        "confidence": correlation,
    } | labels


def _across(columns: pd.DataFrame, names: list[str]) -> bool:
    return len({str(columns.at[name, "part"]) for name in names}) > 1
