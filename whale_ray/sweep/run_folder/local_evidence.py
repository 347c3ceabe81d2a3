"""Local evidence of a run: local-KIND.npz, gathered once for all trials, since it does not depend on an encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.local.evidence import LocalEvidence

_ARRAYS = tuple(field.name for field in fields(LocalEvidence))


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
        kind: Kind of the local features.
        evidence: Evidence by split.
        table: As in `compared_photographs`.
        unknown_label: Label of unknown individuals.
        made_from: Fingerprint of what it was gathered from.
    """
    arrays = {"made_from": np.array(made_from)}
    for split, queries, gallery in compared_photographs(table, unknown_label=unknown_label):
        arrays |= {f"{split}/{name}": getattr(evidence[split], name) for name in _ARRAYS}
        arrays |= {f"{split}/images": np.array([*queries["image"], *gallery["image"]], dtype=str)}
    with replaced_atomically(_path(run, kind)) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_local_evidence(
    run: Path, kinds: Iterable[str], *, table: pd.DataFrame, unknown_label: str
) -> dict[str, dict[int, LocalEvidence]]:
    """Return the local evidence of a run by kind and split.

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
        kind: Kind of the local features.
    """
    try:
        with _path(run, kind).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return str(stored["made_from"])
    except Exception:  # numpy and zipfile raise many types for a truncated or foreign file
        return ""


def _read(run: Path, kind: str, table: pd.DataFrame, unknown_label: str) -> dict[int, LocalEvidence]:
    path = _path(run, kind)
    if not path.exists():
        raise InputError(
            f"retrieval.local {kind} needs the evidence of its keypoints, but {path} does not exist. Run the sweep "
            f"again with `--set retrieval.local=[none,{kind}]`: nothing is trained again"
        )
    found = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            for split, queries, gallery in compared_photographs(table, unknown_label=unknown_label):
                images = [*queries["image"], *gallery["image"]]
                if stored[f"{split}/images"].tolist() != images:
                    raise ValueError("it is of other photographs")
                found[split] = LocalEvidence(**{name: stored[f"{split}/{name}"] for name in _ARRAYS})
    except Exception as error:  # numpy and zipfile raise many types for a truncated or foreign file
        raise InputError(
            f"the evidence of keypoints must be whole, but {path} cannot be used: {error}. Remove the file and run "
            "the sweep again: it is gathered again, and nothing is trained again"
        ) from error
    return found


def _path(run: Path, kind: str) -> Path:
    return run / f"local-{kind}.npz"
