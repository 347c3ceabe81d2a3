"""Near-identical pictures for the label review: pairs that are close by embedding, by pixels or in the audit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.catalog import Catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.near_duplicates import MIN_CORRELATION, coarse_vectors, find_copies
from whale_ray.data.pixel_cache import decode_images, find_decoded
from whale_ray.retrieval.label_quality.nearest_pairs import nearest_pairs
from whale_ray.sweep.run_folder.optional_json import read_optional_json

_LOOKS_ALIKE = 2  # neighbors of a photograph by its pixels that are compared with it
_MAX_PAIRS = 40_000  # of photographs that are compared pixel by pixel, about a millisecond each
_SMALL = Geometry(64, 64)  # of the audit, for a photograph that the cache does not have
_log = logging.getLogger(__name__)


def twins_of(run: Path) -> list[tuple[str, str]]:
    """Return pairs of copies that the audit found by hash, each with the first of its group."""
    groups = read_optional_json(run / "audit.json").get("twins", [])
    return [(group[0], other) for group in groups for other in group[1:]]


def find_near_identical(
    vectors: np.ndarray,
    columns: pd.DataFrame,
    twins: list[tuple[str, str]],
    catalog: Catalog | None,
    *,
    geometry: Geometry | None = None,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], str]:
    """Return findings of near-identical pictures, those across the split first, and the reason for having none.

    Args:
        vectors: Unit embeddings, float32, shape (N, D).
        columns: N rows with the columns individual and part, indexed by image name.
        twins: Pairs of image names whose files or pixels are equal.
        catalog: The photographs, for the comparison of pixels; None if their table cannot be read.
        geometry: Geometry at which the pixel cache probably has them; None: unknown.
        progress: Show a progress bar.
    """
    images = columns.index
    place = {image: row for row, image in enumerate(images)}
    known = np.array([[place[one], place[other]] for one, other in twins if {one, other} <= place.keys()], dtype=int)
    known = np.sort(known.reshape(-1, 2), axis=1)
    grey = _grey_images(images, catalog, geometry, progress=progress)
    pairs = _candidate_pairs(known, vectors, grey)
    surely = {tuple(pair) for pair in known.tolist()}
    found = find_copies(pairs, grey, least=-1.0, progress=progress)
    findings = [
        _copy(columns, one, other, correlation)
        for one, other, correlation in found
        if correlation >= MIN_CORRELATION or (one, other) in surely
    ]
    folder = f" in {catalog.folder}" if catalog else ": their table cannot be read"
    reason = "" if grey or not len(pairs) else f"none of the photographs can be read{folder}"
    parts = columns["part"]
    return sorted(
        findings, key=lambda row: (parts[row["image"]] == parts[row["other_image"]], -row["confidence"])
    ), reason


def _candidate_pairs(known: np.ndarray, vectors: np.ndarray, grey: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return at most `_MAX_PAIRS` pairs of rows, int, shape (P, 2): known, near by pixels, near by embeddings."""
    rows = np.array([*grey], dtype=int)
    alike = rows[nearest_pairs(coarse_vectors(grey.values()), depth=_LOOKS_ALIKE)]
    pairs = np.concatenate([known, alike, nearest_pairs(vectors)])
    pairs = pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    if len(pairs) > _MAX_PAIRS:
        _log.warning("copies are sought among the %d most similar of %d pairs of photographs", _MAX_PAIRS, len(pairs))
    return np.asarray(pairs[:_MAX_PAIRS])


def _grey_images(
    images: pd.Index, catalog: Catalog | None, geometry: Geometry | None, *, progress: bool
) -> dict[int, np.ndarray]:
    """Return the readable photographs as small grey images, by row: from the pixel cache, or decoded into it."""
    if catalog is None:
        return {}
    decoded = find_decoded(catalog, geometry, cache=pixel_cache()) if geometry else None
    decoded = decoded or decode_images(catalog, _SMALL, cache=pixel_cache(), progress=progress)
    rows = {image: row for row, image in enumerate(decoded.health["image"]) if decoded.grey_sizes[row].any()}
    return {place: decoded.grey_image(rows[image]) for place, image in enumerate(images) if image in rows}


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
