"""Gathers the local evidence that a sweep's retrieval settings need, before its trials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from whale_ray.inference.keypoints.keypoint_files import KeypointFiles
from whale_ray.retrieval.local.evidence_files import cached_evidence
from whale_ray.retrieval.local.feature_files import local_features_of
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features
from whale_ray.retrieval.local.local_features import VERSION
from whale_ray.retrieval.local.shortlists import shortlist_size
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.run_folder.local_evidence import (
    compared_photographs,
    evidence_source,
    write_local_evidence,
    write_local_features,
)


def gallery_keypoints(dataset: Dataset, images: Iterable[str], kind: str) -> KeypointFiles | None:
    """Return the local features of gallery photographs, without those of golden images; None for the kind `none`.

    Args:
        dataset: Photographs of the sweep.
        images: Names of the rows.
        kind: Kind of the local features.
    """
    if kind == "none":
        return None
    store = _features(dataset, kind)
    rows = _rows_by_image(dataset)
    return KeypointFiles(store.subset([rows[image] for image in images]), join_features([], kind))


def gather_local_evidence(
    sweep: Sweep, dataset: Dataset, run: Path, *, say: Callable[[str], None], progress: bool = False
) -> None:
    """Write the local evidence that the run folder lacks; nothing without settings with local features.

    Of large galleries the local features are written, and each trial compares the shortlists of its embeddings.

    Args:
        sweep: The sweep.
        dataset: Its photographs.
        run: The run folder.
        say: Prints what is compared.
        progress: Show a progress bar.
    """
    kinds = [kind for kind in sweep.retrieval["local"] if kind != "none"]
    if not kinds:
        return
    table, unknown = dataset.scored(), dataset.unknown_label
    splits = list(compared_photographs(table, unknown_label=unknown))
    shortlist = shortlist_size(max((len(gallery) for _, _, gallery in splits), default=0))
    for kind in kinds:
        compared = table[["image", "individual", "part", "split"]].to_csv(index=False)
        compared += f"shortlists of {shortlist}" if shortlist else ""
        made_from = hashlib.sha256(f"{VERSION} {dataset.fingerprint} {compared}".encode()).hexdigest()
        if evidence_source(run, kind) == made_from:
            continue
        photographs = f"{kind} keypoints of {int(dataset.usable.sum()):,} photographs"
        if shortlist:
            say(f"{photographs} are found; each trial compares a query with {shortlist} photographs near it")
            _write_features(run, dataset, kind, shortlist=shortlist, made_from=made_from, progress=progress)
            continue
        say(f"{photographs} are compared, once for all trials")
        store, rows, evidence = _features(dataset, kind, progress=progress), _rows_by_image(dataset), {}
        for split, queries, gallery in splits:
            asked, known = ([rows[image] for image in part["image"]] for part in (queries, gallery))
            labels = gallery["individual"].to_numpy(dtype=str)
            evidence[split] = cached_evidence(store, asked, known, labels, cache=_cache(dataset), progress=progress)
        write_local_evidence(run, kind, evidence, table=table, unknown_label=unknown, made_from=made_from)


def _write_features(run: Path, dataset: Dataset, kind: str, *, shortlist: int, made_from: str, progress: bool) -> None:
    images, rows = dataset.scored()["image"].unique().tolist(), _rows_by_image(dataset)
    store = _features(dataset, kind, progress=progress).subset([rows[image] for image in images])
    write_local_features(run, store, images=images, shortlist=shortlist, made_from=made_from)


def _cache(dataset: Dataset) -> Path:
    return dataset.cache.parent / "local"


def _features(dataset: Dataset, kind: str, *, progress: bool = False) -> LocalFeatureStore:
    return local_features_of(dataset.catalog, kind, cache=_cache(dataset), progress=progress)


def _rows_by_image(dataset: Dataset) -> dict[str, int]:
    return {image: row for row, image in enumerate(dataset.catalog.table["image"])}
