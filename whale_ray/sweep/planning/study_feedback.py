"""Reports the outcome of trials to the Optuna study: scores, curve over epochs, best retrieval setting."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.planning.optuna_study import Study
from whale_ray.sweep.run_folder.records import Record, read_curve

_ALWAYS_NOTED = ("vote", "neighbours", "temperature", "flip")
_DEFAULTS = {field.name: field.default for field in fields(RetrievalSetting)}


class StudyFeedback:
    """Passes records of trials on to one study.

    Baselines, repeats and ensembles are not points of the search; they are left out.
    """

    def __init__(self, study: Study, *, objective: str, also: str | None) -> None:
        self._study, self._objective, self._also = study, objective, also

    def adopt(self, record: Record) -> None:
        """Enter a trial of an earlier session into the study, with its outcome if it has ended."""
        if record.kind == "trial":
            self._study.adopt(record.trial, record.point, ended=record.status != "running")
            self.report(record)

    def report(self, record: Record) -> None:
        """Report the outcome of a trial; a trial without a result, or reported before, changes nothing."""
        if record.kind != "trial" or record.status == "running":
            return
        scores = None if record.status == "failed" else self._scores(record)
        chosen = {name: record.result.get(name) for name in _DEFAULTS}
        # Each note is a transaction of the database.
        notes = {name: value for name, value in chosen.items() if name in _ALWAYS_NOTED or _is_set(name, value)}
        curve = {row["epoch"]: row[self._objective] for row in read_curve(record.folder, self._objective)}
        self._study.tell(record.trial, scores, pruned=record.status == "pruned", curve=curve, notes=notes)

    def report_duplicate(self, number: int, record: Record) -> None:
        """Report that a proposal is a point that already has a trial.

        Args:
            number: Number of the proposal in the study.
            record: The trial that has the point; the proposal gets its scores if it has finished.
        """
        scores = self._scores(record) if record.status == "finished" else None
        self._study.tell_duplicate(number, record.trial, scores)

    def _scores(self, record: Record) -> list[float] | None:
        """Return the trial's value of each objective; None if one is missing."""
        values = [record.result.get(name) for name in (self._objective, self._also) if name is not None]
        return None if None in values else [float(value) for value in values if value is not None]


def _is_set(option: str, value: Any) -> bool:
    return value is not None and value != _DEFAULTS[option]
