"""Cache of local evidence: computed once per split on a machine, whatever the number of trials."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from whale_ray.atomic_files import replaced_atomically
from whale_ray.retrieval.file_lock import read_or_compute
from whale_ray.retrieval.local.evidence import VERIFIED, LocalEvidence, gather_evidence, read_evidence
from whale_ray.retrieval.local.feature_store import LocalFeatureStore
from whale_ray.retrieval.local.learned.match_network import MATCHED, MatchNetwork

_VERSION = 2  # of scores and verification: evidence of another version is gathered again


def cached_evidence(
    store: LocalFeatureStore,
    queries: np.ndarray | Sequence[int],
    gallery: np.ndarray | Sequence[int],
    individuals: np.ndarray | Sequence[str],
    *,
    cache: Path,
    verified: int = VERIFIED,
    matcher: MatchNetwork | None = None,
    allowed: np.ndarray | None = None,
    on_batch: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> LocalEvidence:
    """Return the result of `gather_evidence`, from the cache or computed into it.

    If several processes need the same evidence, one of them computes it.

    Args:
        store: Features of all photographs.
        queries: Rows of the queries in the store, shape (Q,).
        gallery: Rows of the gallery in the store, shape (N,).
        individuals: Individual of each gallery photograph, N names.
        cache: Cache folder of this machine.
        verified: Number of leading photographs per query that are verified.
        matcher: Match network that finds the matches to verify, of at most 5 leading photographs.
        allowed: Gallery photographs that may answer each query, bool, shape (Q, N); None for all.
        on_batch: Called before each batch of queries, and while another process is awaited.
        progress: Show a progress bar.

    Raises:
        DataError: If the cache cannot be written.
    """
    kept = [np.asarray(array) for array in (queries, gallery, individuals)]
    matched = () if matcher is None else (np.array([matcher.digest]), np.array(MATCHED))
    path = cache / f"evidence-{_fingerprint(store, *kept, allowed, np.array(verified), *matched)}.npz"
    return read_or_compute(
        path,
        read=_read,
        compute=lambda: gather_evidence(
            store,
            *kept,
            verified=verified,
            matcher=matcher,
            allowed=allowed,
            on_batch=on_batch,
            progress=progress,
        ),
        write=_write,
        what="local evidence is",
        on_wait=on_batch,
    )


def _fingerprint(store: LocalFeatureStore, *arrays: np.ndarray | None) -> str:
    digest = hashlib.sha256(f"{_VERSION} {store.kind}".encode())
    for array in (store.points, store.descriptors, store.offsets, *arrays):
        if array is None:
            digest.update(b"none")
        else:
            text = array.dtype.kind == "O"
            plain = np.ascontiguousarray(array.astype(str) if text else array)
            digest.update(f"{plain.dtype} {plain.shape}".encode() + plain.tobytes())
    return digest.hexdigest()[:24]


def _read(path: Path) -> LocalEvidence | None:
    """Return the evidence of a file; None if there is none, or it is damaged and has to be written again."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return read_evidence(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(evidence: LocalEvidence, path: Path) -> None:
    with replaced_atomically(path) as draft, draft.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **evidence.arrays())
