"""Records of the trials in a run folder: settings.json, result.json and epochs.csv."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES, OBJECTIVES, QUERY_SCORES
from whale_ray.sweep.file_cache import FileCache

NEEDS_WHOLE_GPU = "alone"
"""File in the folder of a trial that is tried again with a GPU for itself."""

SCORES = (*QUERY_SCORES, "recall@1_low", "recall@1_high")
"""Columns of leaderboard.csv between the axes and the retrieval setting."""
SCORES_OVER_INDIVIDUALS = tuple(f"{name}{end}" for name in INDIVIDUAL_SCORES for end in ("", "_low", "_high"))
"""Columns of leaderboard.csv after all others except those of repeated trials."""

_COLLAPSED = 1e-5  # cosine distance; rounding of float32 differs by up to 1e-6 between runtimes


@dataclass(frozen=True)
class Record:
    """Content of a trial's folder.

    Attributes:
        trial: ID of the trial.
        folder: Its folder.
        kind: trial, baseline, repeat or ensemble.
        point: Values of the axes.
        settings: Complete settings.
        data_fingerprint: Hash of the data.
        result: result.json; of an unfinished trial, its last scores.
    """

    trial: str
    folder: Path
    kind: str
    point: dict[str, Any]
    settings: dict[str, Any]
    data_fingerprint: str
    result: dict[str, Any]

    @property
    def status(self) -> str:
        """Return finished, pruned or failed; running if there is no result (also after an interruption)."""
        return str(self.result.get("status", "running"))

    @property
    def has_collapsed(self) -> bool:
        """Return whether the encoder gives photographs (nearly) the same embedding, so that it cannot be served."""
        return float(self.result.get("golden_distance", 1.0)) < _COLLAPSED


def write_record(
    folder: Path, *, kind: str, point: dict[str, Any], settings: dict[str, Any], data_fingerprint: str
) -> None:
    """Write settings.json, which creates a trial.

    Args:
        folder: The trial's folder.
        kind: trial, baseline, repeat or ensemble.
        point: Values of the axes.
        settings: Complete settings.
        data_fingerprint: Hash of the data.
    """
    record = {"kind": kind, "point": point, "settings": settings, "data_fingerprint": data_fingerprint}
    write_atomically(folder / "settings.json", json.dumps(record, indent=1, sort_keys=True))


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write result.json, which marks a trial as ended.

    Args:
        folder: The trial's folder.
        result: Status, scores and chosen retrieval setting.
    """
    write_atomically(folder / "result.json", json.dumps(dict(result), indent=1, sort_keys=True))


def sweep_file(run: Path) -> Path:
    """Return the path of the resolved sweep file of a run folder.

    Raises:
        InputError: If the folder has none.
    """
    path = run / "sweep.yaml"
    if not path.is_file():
        raise InputError(f"a run folder holds sweep.yaml, but {run} does not. Name one below runs/")
    return path


def read_records(run: Path) -> list[Record]:
    """Return the records of all trials of a run folder, sorted by ID."""
    return [read_record(path.parent) for path in sorted((run / "trials").glob("*/settings.json"))]


def read_record(folder: Path) -> Record:
    """Return the record of one trial; records of the same version of its files share their content.

    Raises:
        InputError: If a file is damaged or of another project.
    """
    result_path = folder / "result.json"
    try:
        written = _content_of(folder / "settings.json")
        return Record(
            trial=folder.name,
            folder=folder,
            kind=written["kind"],
            point=written["point"],
            settings=written["settings"],
            data_fingerprint=written.get("data_fingerprint", ""),
            result=_content_of(result_path) if result_path.exists() else _unfinished(folder),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"a trial's settings.json, result.json and epochs.csv must be whole, but of {folder} one is damaged or of "
            f"another project: {type(error).__name__} {error}. Move that folder away, and the trial is trained again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file whose names all trials have: they are in memory once."""
    return dict(json.loads(path.read_text(), object_pairs_hook=_with_shared_names))


def _with_shared_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {sys.intern(name): value for name, value in pairs}


_content_of = FileCache(_read_json)


def _unfinished(folder: Path) -> dict[str, Any]:
    """Return the scores of the last evaluated epoch of an unfinished trial."""
    path = folder / "epochs.csv"
    if not path.exists():
        return {}
    epochs = pd.read_csv(path)
    names = [name for name in OBJECTIVES if name in epochs]
    scored = epochs[names].dropna(how="all").astype(object)
    scores = {str(name): value for name, value in scored.iloc[-1].items()} if len(scored) else {}
    spent = {"seconds": float(epochs["seconds"].sum())} if "seconds" in epochs else {}
    return {**scores, **spent, "epochs": int(epochs["epoch"].iloc[-1])}


def read_curve(folder: Path, objective: str) -> list[dict[str, Any]]:
    """Return the rows of epochs.csv that have a score of the objective; an empty list without the file.

    Args:
        folder: The trial's folder.
        objective: Name of the score.
    """
    path = folder / "epochs.csv"
    if not path.exists():
        return []
    epochs = pd.read_csv(path)
    scored = epochs.dropna(subset=[objective]) if objective in epochs else epochs.iloc[:0]
    return [{str(name): value for name, value in row.items()} for row in scored.to_dict("records")]


def forget_failed(folder: Path) -> None:
    """Remove the results of failed trials, so that they are run again."""
    for record in read_records(folder):
        if record.status == "failed":
            (record.folder / "traceback.txt").unlink(missing_ok=True)
            (record.folder / "result.json").unlink()
