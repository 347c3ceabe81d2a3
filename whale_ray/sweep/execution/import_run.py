"""Import of finished trials from another run folder: `--import RUN`.

The other folder is not trusted. Only JSON, CSV, arrays without pickle and safetensors are read, from regular files with
known names. Settings are validated against the sweep, IDs are computed, and trials are scored again.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.sweep.analysis.rescoring import rescore_for_good
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.search_space import fits
from whale_ray.sweep.planning.trial_points import Point, Settings, baselines
from whale_ray.sweep.run_folder.checkpoints import RECIPE, WEIGHTS, load_weights
from whale_ray.sweep.run_folder.records import read_record, write_record, write_result
from whale_ray.sweep.trials.embeddings_io import COLUMNS, read_embeddings, update_traits
from whale_ray.sweep.trials.ensemble import KIND
from whale_ray.sweep.trials.scoring import scoring_of

_MOST_JSON_BYTES = 2**20
_FIGURES = ("epochs", "seconds", "embedding_size", "milliseconds_per_image")


@dataclass
class Imported:
    """Outcome of an import.

    Attributes:
        taken: IDs of the imported trials.
        here: IDs of trials that the run folder has already.
        refused: Reason of each trial that was not imported, by its ID in the other folder.
    """

    taken: list[str] = field(default_factory=list)
    here: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def lines(self, source: Path) -> Iterator[str]:
        """Yield the outcome as lines of text."""
        already = f", {len(self.here)} were here already" if self.here else ""
        yield f"{len(self.taken)} trials imported from {source}{already}"
        for trial, reason in self.refused.items():
            yield f"  not imported: {trial}: {reason}"


def import_run(source: Path, folder: Path, sweep: Sweep, dataset: Dataset) -> Imported:
    """Copy finished trials that fit a sweep from another run folder; that folder is not changed.

    Args:
        source: The other run folder.
        folder: Run folder of the sweep.
        sweep: Settings and photographs of a trial must be among those of this sweep.
        dataset: Photographs of the sweep.

    Raises:
        InputError: If `source` is not a run folder or is `folder`.
    """
    if not (source / "trials").is_dir():
        raise InputError(
            f"--import takes a run folder, with trials in it, but {source} has none. Name a run folder below runs/"
        )
    if real_path(source) == real_path(folder):
        raise InputError(f"--import takes another run folder, but {source} is the sweep's own. Leave --import out")
    done = Imported()
    for origin in sorted(path for path in (source / "trials").iterdir() if path.is_dir() and not path.is_symlink()):
        try:
            _import_trial(origin, folder / "trials", sweep, dataset, done)
        except _NotTakenError as reason:
            done.refused[origin.name] = str(reason)
    return done


class _NotTakenError(Exception):
    """A trial is not imported; the message is the reason."""


def _import_trial(origin: Path, trials: Path, sweep: Sweep, dataset: Dataset, done: Imported) -> None:
    written, result = _read_json(origin / "settings.json"), _read_json(origin / "result.json")
    if result.get("status") != "finished":
        raise _NotTakenError(f"it is {result.get('status', 'unfinished')!s:.20}, and only finished trials are taken")
    if written.get("data_fingerprint") != dataset.fingerprint:
        raise _NotTakenError("it was trained on other photographs or labels")
    if written.get("kind") == KIND:
        raise _NotTakenError("it is an ensemble, which this sweep makes of its own trials")
    trial, kind, point, settings = _place(written, sweep, dataset.fingerprint)
    if (trials / trial / "settings.json").exists():
        done.here.append(trial)
        return
    draft = trials / f".{trial}.import"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _copy_embeddings(origin, draft, dataset)
        _copy_weights(origin, draft, settings)
        _copy_curve(origin, draft)
        figures = {name: _number(result.get(name)) for name in _FIGURES}
        if "pseudo_labels" in result:
            figures["pseudo_labels"] = _number(result["pseudo_labels"])
        write_result(draft, {**figures, "status": "finished", "error": ""})
        write_record(draft, kind=kind, point=point, settings=settings, data_fingerprint=dataset.fingerprint)
        _score(draft, sweep)
        shutil.rmtree(trials / trial, ignore_errors=True)
        draft.rename(trials / trial)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    done.taken.append(trial)


def _score(draft: Path, sweep: Sweep) -> None:
    try:
        rescore_for_good(read_record(draft), scoring_of(sweep))
    except InputError as fault:
        raise _NotTakenError(str(fault)) from None


def _place(written: Mapping[str, Any], sweep: Sweep, fingerprint: str) -> tuple[str, str, Point, Settings]:
    """Return ID, kind, point and settings of a trial in this sweep; its settings must be among those of the sweep."""
    theirs = written.get("settings")
    try:
        identity = trial_identity(theirs, data_fingerprint=fingerprint)  # type: ignore[arg-type]
        if written.get("kind") == "baseline":
            for point, settings in baselines(sweep):
                if trial_identity(settings, data_fingerprint=fingerprint) == identity:
                    return f"baseline-{identity}", "baseline", point, settings
        else:
            point = _point(theirs, sweep)  # type: ignore[arg-type]
            settings = sweep.settings(point)
            if fits(point, sweep.axes) and trial_identity(settings, data_fingerprint=fingerprint) == identity:
                return identity, "trial", point, settings
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _NotTakenError("its settings cannot be understood") from None
    raise _NotTakenError("its settings are not among those of this sweep")


def _point(settings: Mapping[str, Any], sweep: Sweep) -> Point:
    """Return the value of each axis of the sweep in these settings."""
    point: Point = {}
    for axis in sweep.axes:
        if axis.when is None or point.get(axis.when[0]) == axis.when[1]:
            section, _, rest = axis.name.partition(".")
            point[axis.name] = settings[section][rest.rpartition(".")[2]] if rest else settings[section]
    return point


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_regular(path, most=_MOST_JSON_BYTES).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        raise _NotTakenError(f"{path.name} cannot be read") from None
    if not isinstance(found, dict):
        raise _NotTakenError(f"{path.name} is no mapping")
    return found


def _regular(path: Path, *, most: float = math.inf) -> Path:
    """Return the path if it is a regular file and no link, of at most `most` bytes."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise _NotTakenError(f"{path.name} is no regular file")
    if path.stat().st_size > most:
        raise _NotTakenError(f"{path.name} is larger than {most:,} bytes")
    return path


def _copy(origin: Path, draft: Path, name: str) -> bool:
    try:
        source = _regular(origin / name)
    except FileNotFoundError:
        return False
    if (origin / name).parent.is_symlink():
        raise _NotTakenError(f"{name} lies behind a link")
    with replaced_atomically(draft / name) as target:
        shutil.copyfile(source, target)
    return True


def _copy_embeddings(origin: Path, draft: Path, dataset: Dataset) -> None:
    if not _copy(origin, draft, "embeddings.npz"):
        raise _NotTakenError("it has no embeddings.npz")
    try:
        if any(
            member.compress_type != zipfile.ZIP_STORED for member in zipfile.ZipFile(draft / "embeddings.npz").filelist
        ):
            raise _NotTakenError("its embeddings.npz is compressed, and may unpack to any size")
        views, table = read_embeddings(draft)
    except zipfile.BadZipFile as fault:
        raise _NotTakenError(f"embeddings.npz cannot be read: {fault}") from None
    except InputError as fault:
        raise _NotTakenError(str(fault)) from None
    ours = dataset.scored()
    columns = [*COLUMNS, "split"]
    same = table[columns].astype(str).equals(ours[columns].astype(str))
    shapes = {(view.ndim, len(view), view.dtype.kind) for view in views.values()}
    if "plain" not in views or shapes != {(2, len(ours), "f")} or not same:
        raise _NotTakenError("its embeddings are of other photographs, or of another split")
    try:
        update_traits(draft, ours)
    except InputError as fault:
        raise _NotTakenError(str(fault)) from None


def _copy_weights(origin: Path, draft: Path, settings: Settings) -> None:
    """Copy the weights if the trial has them; a trial without weights is scored but cannot become the bundle."""
    names = [f"checkpoint/{name}" for name in (RECIPE, WEIGHTS)]
    if not all((origin / name).exists() for name in names):
        return
    if _read_json(origin / names[0]).get("name") != settings["model"]["encoder"]:
        raise _NotTakenError("its weights are of another encoder")
    for name in names:
        _copy(origin, draft, name)
    try:
        load_weights(draft / "checkpoint" / WEIGHTS)
    except Exception as error:  # safetensors has several error types for damaged files
        raise _NotTakenError(f"its weights cannot be read: {error}") from None


def _copy_curve(origin: Path, draft: Path) -> None:
    if not _copy(origin, draft, "epochs.csv"):
        return
    try:
        curve = pd.read_csv(draft / "epochs.csv")
    except (ValueError, pd.errors.ParserError):
        raise _NotTakenError("epochs.csv cannot be read") from None
    if curve.empty or "epoch" not in curve or not all(kind.kind in "fi" for kind in curve.dtypes):
        raise _NotTakenError("epochs.csv is no table of numbers")


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
