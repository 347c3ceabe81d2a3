"""Votes on the labels: embeddings of the best trials, one per encoder and loss, and the scores of keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from whale_ray.data.caches.cache_folder import cache_folder
from whale_ray.data.catalog import Catalog
from whale_ray.device import available_cpus
from whale_ray.errors import InputError
from whale_ray.retrieval.label_quality.match_vectors import match_vectors
from whale_ray.retrieval.local.evidence_files import cached_evidence
from whale_ray.retrieval.local.feature_files import local_features_of
from whale_ray.retrieval.local.learned.network_registry import features_kind, kind_of
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, VectorTransform, chosen_setting
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.embeddings_io import read_embeddings

MOST_ENCODERS = 4
MOST_COMPARED = 3_000
"""Photographs above which keypoints do not vote: all are compared with all."""
_VOTING = 200
"""Strongest keypoints per photograph that vote: a fifth of the time of all, and wrong matches score lower."""
_WORST = 0.75  # share of the best trial's recall@1 that another voter needs
_FOLDS = 10


@dataclass(frozen=True)
class LabelledRows:
    """The photographs of a trial, N rows: arrays of text, shape (N,)."""

    images: np.ndarray
    individuals: np.ndarray
    parts: np.ndarray
    groups: np.ndarray
    unknown_label: str


def choose_voters(best: Record, records: Sequence[Record]) -> list[Record]:
    """Return the best trial and the best finished trials of other encoders and losses, at most `MOST_ENCODERS`.

    Baselines and trials with far fewer right answers do not vote.

    Args:
        best: The best trial.
        records: All trials, best first.
    """
    voters, kinds = [best], {_kind(best)}
    least = _WORST * (best.result.get("recall@1") or 0.0)
    for record in records:
        is_trained = record.status == "finished" and record.kind == "trial"
        is_new = _kind(record) not in kinds and (record.folder / "embeddings.npz").is_file()
        if is_trained and is_new and (record.result.get("recall@1") or 0.0) >= least:
            voters.append(record)
            kinds.add(_kind(record))
    return voters[:MOST_ENCODERS]


def _kind(record: Record) -> tuple[str, str, str]:
    model, loss = record.settings.get("model", {}), record.settings.get("loss", {})
    return record.kind, str(model.get("encoder")), str(loss.get("name"))


def read_votes(voters: Sequence[Record]) -> tuple[LabelledRows, list[np.ndarray]]:
    """Return the photographs of the first trial, and the unit vectors of them by each trial that has them all.

    Args:
        voters: Trials, the best first.

    Raises:
        InputError: If the embeddings of the best trial cannot be read.
    """
    with ThreadPoolExecutor(available_cpus()) as threads:
        read = [threads.submit(_vectors, voter) for voter in voters]
    rows, first = read[0].result()
    vectors = [first]
    for one in read[1:]:
        try:
            other, found = one.result()
        except InputError:  # the trial's folder is damaged; the others can vote
            continue
        place = {image: row for row, image in enumerate(other.images)}
        if place.keys() >= set(rows.images):
            vectors.append(found[[place[image] for image in rows.images]])
    return rows, vectors


def _vectors(record: Record) -> tuple[LabelledRows, np.ndarray]:
    views, table = read_embeddings(record.folder)
    first = (table["split"] == 0).to_numpy()  # of several folds one is enough: each has every photograph
    views = {name: view[first] for name, view in views.items()}
    images, individuals, parts, groups = (
        table.loc[first, name].to_numpy(str) for name in ("image", "individual", "part", "group")
    )
    unknown = str(record.settings["data"].get("unknown_label", "new_whale"))
    rows = LabelledRows(images, individuals, parts, groups, unknown)
    held = TransformedVectors(views, individuals=rows.individuals, parts=rows.parts, unknown_label=unknown)
    taught = rows.individuals[(rows.parts == "train") & (rows.individuals != unknown)]
    return rows, held.seen(_view(chosen_setting(record.result), taught))


def _view(setting: RetrievalSetting, taught: np.ndarray) -> VectorTransform:
    """Return the setting's transform, with learned whitening if it has none, since some cosines differ too little."""
    twice = len(np.unique(taught)) < len(taught)
    return setting.transform if setting.whiten != "none" or not twice else replace(setting.transform, whiten="learned")


def matcher_vote(
    rows: LabelledRows, kind: str, catalog: Catalog | None, *, progress: bool = False
) -> tuple[np.ndarray | None, str]:
    """Return unit vectors by the keypoints that photographs share, and the reason if there are none.

    Each photograph is compared with all that are not of its fold; an encounter is in one fold, so that a wrong label of
    a whole encounter is not confirmed by the encounter itself.

    Args:
        rows: The photographs.
        kind: Kind of the local features; `none` for no vote.
        catalog: The photographs' files; None if they cannot be read.
        progress: Show progress bars.
    """
    if kind == "none":
        return None, "no retrieval setting of the sweep uses keypoints (retrieval.local)"
    try:
        kind = features_kind(kind_of(kind))
    except InputError as error:  # the file of the network is no longer there
        return None, str(error)
    if len(rows.images) > MOST_COMPARED:
        count = len(rows.images)
        return None, f"keypoints of at most {MOST_COMPARED:,} photographs are compared, but there are {count:,}"
    place = {} if catalog is None else {str(image): row for row, image in enumerate(catalog.table["image"])}
    gallery = np.flatnonzero(rows.individuals != rows.unknown_label)
    if catalog is None or not place.keys() >= set(rows.images) or not len(gallery):
        return None, "the photographs cannot be read"
    cache = cache_folder() / "local"
    store = local_features_of(catalog, kind, cache=cache, progress=progress).strongest(_VOTING)
    stored = np.array([place[image] for image in rows.images])
    fold = _folds(rows)
    evidence = cached_evidence(
        store,
        stored,
        stored[gallery],
        rows.individuals[gallery],
        cache=cache,
        verified=0,
        allowed=fold[:, None] != fold[gallery],
        progress=progress,
    )
    return match_vectors(evidence.scores, gallery), ""


def _folds(rows: LabelledRows) -> np.ndarray:
    """Return the fold of each photograph, int, shape (N,); encounters stay whole."""
    groups = np.where(rows.groups == "", np.char.add("image:", rows.images), rows.groups)
    codes = np.unique(groups, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(codes.max(initial=0) + 1)
    return np.asarray(order[codes] % _FOLDS)
