"""Gathers the local evidence that a sweep's retrieval settings need, before its trials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.errors import InputError
from whale_ray.inference.keypoints.keypoint_files import KeypointFiles
from whale_ray.retrieval.local.evidence import HeldOutEvidence, LocalEvidence
from whale_ray.retrieval.local.evidence_files import cached_evidence
from whale_ray.retrieval.local.feature_files import local_features_of
from whale_ray.retrieval.local.feature_store import LocalFeatureStore, join_features
from whale_ray.retrieval.local.learned.network_registry import (
    features_kind,
    kind_of,
    matcher_file,
    matcher_of,
    network_file,
)
from whale_ray.retrieval.local.local_features import VERSION
from whale_ray.retrieval.local.shortlists import shortlist_size
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.run_folder.local_evidence import (
    compared_photographs,
    evidence_name,
    evidence_source,
    photographs_to_hold_out,
    write_local_evidence,
    write_local_features,
)


def gallery_keypoints(dataset: Dataset, images: Iterable[str], local: str) -> KeypointFiles | None:
    """Return the local features of gallery photographs, without those of golden images; None for `none`.

    Args:
        dataset: Photographs of the sweep.
        images: Names of the rows.
        local: Local features of the retrieval setting.
    """
    if local == "none":
        return None
    kind = kind_of(local)
    store, rows = _features(dataset, kind), _rows_by_image(dataset)
    network = None if kind == local else network_file(kind)
    gallery = store.subset([rows[image] for image in images])
    return KeypointFiles(gallery, join_features([], features_kind(kind)), network, matcher_file(kind))


def check_keypoints(sweep: Sweep) -> None:
    """Open the keypoint networks and match networks of a sweep.

    Raises:
        InputError: If a file is no such network, or ONNX Runtime is missing.
    """
    for local in sweep.retrieval["local"]:
        kind_of(local)


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
    locals_ = [local for local in sweep.retrieval["local"] if local != "none"]
    if not locals_:
        return
    table = dataset.scored()
    splits = list(compared_photographs(table, unknown_label=dataset.unknown_label))
    shortlist = shortlist_size(max((len(gallery) for _, _, gallery in splits), default=0))
    for local in locals_:
        kind, written = kind_of(local), evidence_source(run, local)
        compared = table[["image", "individual", "part", "split"]].to_csv(index=False)
        compared += f"shortlists of {shortlist}" if shortlist else ""
        made_from = hashlib.sha256(f"{VERSION} {dataset.fingerprint} {compared}".encode()).hexdigest()
        if kind != local:
            made_from = f"{kind} {made_from}"
            _check_network(run, local, kind, written)
        if written == made_from:
            continue
        photographs = f"{local} keypoints of {int(dataset.usable.sum()):,} photographs"
        if shortlist:
            say(f"{photographs} are found; each trial compares a query with {shortlist} photographs near it")
            store, images = _features(dataset, kind, progress=progress), table["image"].unique().tolist()
            rows = _rows_by_image(dataset)
            store = store.subset([rows[image] for image in images])
            options: dict[str, Any] = {"shortlist": shortlist, "made_from": made_from, "matcher": matcher_file(kind)}
            write_local_features(run, local, store, images=images, **options)
            continue
        say(f"{photographs} are compared, once for all trials")
        evidence = _compare(dataset, kind, table, progress=progress)
        unknown = dataset.unknown_label
        write_local_evidence(run, local, evidence, table=table, unknown_label=unknown, made_from=made_from)


def _check_network(run: Path, local: str, kind: str, written: str) -> None:
    """Raise InputError if the evidence of a run is of another network whose file has the same name."""
    if written and not written.startswith(f"{kind} "):
        raise InputError(
            f"{evidence_name(local)} must stay the file that the trials of {run} were scored with, but it is another "
            "one now. Give the new file another name"
        )


def _compare(dataset: Dataset, kind: str, table: pd.DataFrame, *, progress: bool) -> dict[int, LocalEvidence]:
    store, rows, evidence = _features(dataset, kind, progress=progress), _rows_by_image(dataset), {}
    held_out = photographs_to_hold_out(table, unknown_label=dataset.unknown_label)
    for split, queries, gallery in compared_photographs(table, unknown_label=dataset.unknown_label):
        asked, known = (np.array([rows[image] for image in part["image"]]) for part in (queries, gallery))
        labels = gallery["individual"].to_numpy(dtype=str)
        options: dict[str, Any] = {"cache": _cache(dataset), "matcher": matcher_of(kind), "progress": progress}
        evidence[split] = cached_evidence(store, asked, known, labels, **options)
        places = np.flatnonzero(queries["image"].isin(held_out[split]))
        if len(places):
            allowed = queries["individual"].to_numpy(dtype=str)[places, None] != labels
            without = cached_evidence(store, asked[places], known, labels, allowed=allowed, **options)
            evidence[split] = replace(evidence[split], held_out=HeldOutEvidence(places, without))
    return evidence


def _cache(dataset: Dataset) -> Path:
    return dataset.cache.parent / "local"


def _features(dataset: Dataset, kind: str, *, progress: bool = False) -> LocalFeatureStore:
    return local_features_of(dataset.catalog, features_kind(kind), cache=_cache(dataset), progress=progress)


def _rows_by_image(dataset: Dataset) -> dict[str, int]:
    return {image: row for row, image in enumerate(dataset.catalog.table["image"])}
