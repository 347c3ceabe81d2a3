"""Local evidence of a run: local-KIND.npz, written once for all trials.

It holds the evidence of the queries on the whole gallery, which does not depend on an encoder. Of large galleries it
holds the local features: the shortlists that are compared depend on the embeddings of each trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.encounters.encounter_sets import find_encounters
from whale_ray.retrieval.evaluation.encounters.simulated_new_encounters import (
    encounters_to_hold_out,
    encounters_with_evidence,
)
from whale_ray.retrieval.fusion.evaluation_evidence import EvidenceSource
from whale_ray.retrieval.local.evidence import HeldOutEvidence, LocalEvidence, read_evidence
from whale_ray.retrieval.local.feature_store import FEATURE_ARRAYS, LocalFeatureStore
from whale_ray.retrieval.local.learned.match_network import MatchNetwork
from whale_ray.retrieval.local.learned.network_registry import network_files
from whale_ray.retrieval.local.shortlists import ShortlistComparison

_HELD_OUT = "held_out"


def compared_photographs(
    table: pd.DataFrame, *, unknown_label: str
) -> Iterator[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Yield each split with its queries and its gallery, as an evaluation compares them.

    Args:
        table: A row for each embedding: image, individual, part, split.
        unknown_label: Label of unknown individuals, which are in no gallery.
    """
    for split, rows in table.groupby("split", sort=True):
        named = rows["individual"] != unknown_label
        yield int(str(split)), rows[rows["part"] == "val"], rows[(rows["part"] == "train") & named]


def photographs_to_hold_out(table: pd.DataFrame, *, unknown_label: str) -> dict[int, set[str]]:
    """Return the images by split whose evidence without their individual an evaluation of encounters needs.

    Args:
        table: As in `compared_photographs`, with the group of each photograph.
        unknown_label: Label of unknown individuals.
    """
    individuals, splits = table["individual"].to_numpy(dtype=str), table["split"].to_numpy()
    asking, known = (table["part"] == "val").to_numpy(), np.zeros(len(table), dtype=bool)
    for split, _, gallery in compared_photographs(table, unknown_label=unknown_label):
        known[splits == split] = np.isin(individuals[splits == split], gallery["individual"].unique())
    groups = table["group"].to_numpy(dtype=str)
    found = find_encounters(individuals, asking=asking, splits=splits, groups=groups, unknown_label=unknown_label)
    chosen = encounters_with_evidence(encounters_to_hold_out(found, known))
    rows = np.concatenate([*chosen.rows, np.zeros(0, dtype=np.int64)])
    images = table["image"].to_numpy()[rows]
    return {int(split): {*images[splits[rows] == split]} for split in np.unique(splits)}


def write_local_evidence(
    run: Path,
    kind: str,
    evidence: Mapping[int, LocalEvidence],
    *,
    table: pd.DataFrame,
    unknown_label: str,
    made_from: str,
) -> None:
    """Write the local evidence of a run.

    Args:
        run: The run folder.
        kind: Local features of the retrieval setting.
        evidence: Evidence by split.
        table: As in `compared_photographs`.
        unknown_label: Label of unknown individuals.
        made_from: Fingerprint of what it was gathered from.
    """
    arrays = {"made_from": np.array(made_from)}
    for split, queries, gallery in compared_photographs(table, unknown_label=unknown_label):
        arrays |= _arrays(evidence[split], str(split))
        if (held_out := evidence[split].held_out) is not None:
            arrays |= _arrays(held_out.evidence, f"{split}/{_HELD_OUT}")
            arrays |= {f"{split}/{_HELD_OUT}/queries": held_out.queries}
        arrays |= {f"{split}/images": np.array([*queries["image"], *gallery["image"]], dtype=str)}
    with replaced_atomically(_path(run, kind)) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_local_features(
    run: Path,
    kind: str,
    store: LocalFeatureStore,
    *,
    images: Sequence[str],
    shortlist: int,
    made_from: str,
    matcher: Path | None = None,
) -> None:
    """Write the local features of a run whose trials compare shortlists.

    Args:
        run: The run folder.
        kind: Local features of the retrieval setting.
        store: Features of the photographs.
        images: Name of each photograph.
        shortlist: Number of gallery photographs that a query is compared with.
        made_from: Fingerprint of what the features were made from.
        matcher: ONNX file of the network that matches them, which each trial runs; None without.
    """
    arrays = {name: getattr(store, name) for name in FEATURE_ARRAYS}
    arrays |= {"made_from": np.array(made_from), "shortlist": np.array(shortlist), "images": np.array(images, str)}
    arrays |= {"kind": np.array(store.kind)}
    if matcher is not None:
        arrays |= {"matcher": np.frombuffer(matcher.read_bytes(), np.uint8)}
    with replaced_atomically(_path(run, kind)) as draft, draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_local_evidence(
    run: Path, kinds: Iterable[str], *, table: pd.DataFrame, unknown_label: str
) -> dict[str, dict[int, EvidenceSource]]:
    """Return the local evidence of a run by kind and split, or the photographs that shortlists are compared in.

    Args:
        run: The run folder.
        kinds: Kinds of local features; `none` is left out.
        table: Photographs of the trial that is scored, as in `compared_photographs`.
        unknown_label: Label of unknown individuals.

    Raises:
        InputError: If a file is missing, damaged or of other photographs.
    """
    return {kind: _read(run, kind, table, unknown_label) for kind in sorted({*kinds} - {"none"})}


def evidence_source(run: Path, kind: str) -> str:
    """Return the fingerprint of what the evidence of a run was gathered from; "" if there is none or it is damaged.

    Args:
        run: The run folder.
        kind: Local features of the retrieval setting.
    """
    try:
        with _path(run, kind).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return str(stored["made_from"])
    except Exception:  # numpy and zipfile raise many types for a truncated or foreign file
        return ""


def _read(run: Path, kind: str, table: pd.DataFrame, unknown_label: str) -> dict[int, EvidenceSource]:
    path = _path(run, kind)
    if not path.exists():
        raise InputError(
            f"retrieval.local {kind} needs the evidence of its keypoints, but {path} does not exist. Run the sweep "
            f"again with `--set retrieval.local=[none,{kind}]`: nothing is trained again"
        )
    found: dict[int, EvidenceSource] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if "shortlist" in stored:
                return _comparisons(stored, table, unknown_label)
            for split, queries, gallery in compared_photographs(table, unknown_label=unknown_label):
                images = [*queries["image"], *gallery["image"]]
                if stored[f"{split}/images"].tolist() != images:
                    raise ValueError("it is of other photographs")
                held_out = None
                if f"{split}/{_HELD_OUT}/queries" in stored:  # older runs have none
                    evidence = read_evidence(stored, prefix=f"{split}/{_HELD_OUT}/")
                    held_out = HeldOutEvidence(stored[f"{split}/{_HELD_OUT}/queries"], evidence)
                found[split] = replace(read_evidence(stored, prefix=f"{split}/"), held_out=held_out)
    except Exception as error:  # numpy and zipfile raise many types for a truncated or foreign file
        raise InputError(
            f"the evidence of keypoints must be whole, but {path} cannot be used: {error}. Remove the file and run "
            "the sweep again: it is gathered again, and nothing is trained again"
        ) from error
    return found


def _arrays(evidence: LocalEvidence, prefix: str) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in evidence.arrays().items()}


def _comparisons(
    stored: Mapping[str, np.ndarray], table: pd.DataFrame, unknown_label: str
) -> dict[int, EvidenceSource]:
    store = LocalFeatureStore(str(stored["kind"]), *(stored[name] for name in FEATURE_ARRAYS))
    rows = {image: row for row, image in enumerate(stored["images"].tolist())}
    if len(rows) != len(store) or not rows.keys() >= set(table["image"]):
        raise ValueError("it is of other photographs")
    matcher = None
    if "matcher" in stored:
        content = stored["matcher"].tobytes()
        matcher = MatchNetwork(content, size=store.descriptors.shape[1], name="its match network", digest="")
    return {
        split: ShortlistComparison(
            store,
            queries["image"].map(rows).to_numpy(dtype=np.int64),
            gallery["image"].map(rows).to_numpy(dtype=np.int64),
            gallery["individual"].to_numpy(dtype=str),
            size=int(stored["shortlist"]),
            matcher=matcher,
        )
        for split, queries, gallery in compared_photographs(table, unknown_label=unknown_label)
    }


def evidence_name(kind: str) -> str:
    """Return the name of local features in file names: `sift`, or the names of the ONNX files without their folders."""
    return "+".join(file.name for file in network_files(kind)) or kind


def _path(run: Path, kind: str) -> Path:
    return run / f"local-{evidence_name(kind)}.npz"
