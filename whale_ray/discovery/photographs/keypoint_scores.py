"""Keypoint scores of all pairs of photographs of a discovery, kept in its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from whale_ray.atomic_files import replaced_atomically
from whale_ray.data.catalog import Catalog
from whale_ray.retrieval.local.evidence import gather_evidence
from whale_ray.retrieval.local.feature_files import local_features_of
from whale_ray.retrieval.local.feature_store import LocalFeatureStore

_VERSION = 1  # of the scores: kept scores of another version are computed again


def score_keypoints(
    catalog: Catalog, rows: np.ndarray, *, kind: str, folder: Path, progress: bool = False
) -> np.ndarray:
    """Return the keypoint score of each photograph against each other, from the folder or computed into it.

    All scores are computed again if a photograph was added, changed or removed: the score of a pair depends on the
    keypoints of all others.

    Args:
        catalog: The photographs.
        rows: Rows of the catalog that are compared, int, shape (N,).
        kind: `sift` or `orb`.
        folder: Folder of the keypoints and the scores.
        progress: Show progress bars.

    Returns:
        LNBNN scores, float32, shape (N, N), 0 or more.
    """
    before = set(folder.glob("*.npz"))
    store = local_features_of(catalog, kind, cache=folder, progress=progress).subset(rows)
    path, key = folder / "scores.npz", _fingerprint(store)
    if (kept := _read(path, key)) is not None:
        return kept
    scores = pair_scores(store, progress=progress).astype(np.float16)
    with replaced_atomically(path) as draft, draft.open("wb") as stream:
        np.savez(stream, key=np.array(key), scores=scores, allow_pickle=False)
    if set(folder.glob("*.npz")) - before - {path}:  # keypoints of earlier sets of photographs
        for old in before - {path}:
            old.unlink(missing_ok=True)
    return scores.astype(np.float32)


def pair_scores(store: LocalFeatureStore, *, progress: bool = False) -> np.ndarray:
    """Return the LNBNN score of each photograph of a store against each other, float32, shape (N, N).

    Args:
        store: Local features of N photographs, each of which counts as an individual.
        progress: Show a progress bar.
    """
    rows = np.arange(len(store))
    names = [str(row) for row in rows]
    is_other = ~np.eye(len(rows), dtype=bool)
    return gather_evidence(store, rows, rows, names, verified=0, allowed=is_other, progress=progress).scores


def _fingerprint(store: LocalFeatureStore) -> str:
    digest = hashlib.sha256(f"{_VERSION} {store.kind}".encode())
    for array in (store.points, store.descriptors, store.offsets):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> np.ndarray | None:
    """Return the scores of a file; None if there is none, it is damaged, or it is of other photographs."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["scores"].astype(np.float32) if str(stored["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError):
        return None
