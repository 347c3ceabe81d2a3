"""Index of a run folder's trial records in memory, so that the driver reads a trial's files only after they change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from whale_ray.sweep.run_folder.records import Record, read_record, read_records, write_record, write_result


class RecordIndex:
    """The records of all trials of one run folder, read once when the index is made.

    Trial workers write into their folders on their own; `reload` reads a trial that has progressed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, Record] = {}
        self.reload_all()

    def __contains__(self, trial: str) -> bool:
        return trial in self._records

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[Record]:
        """Return the records of all trials, ordered by trial ID, as they were last read."""
        return [self._records[trial] for trial in sorted(self._records)]

    def ids(self) -> set[str]:
        """Return the IDs of all trials."""
        return set(self._records)

    def trial_folder(self, trial: str) -> Path:
        """Return the folder of a trial, which need not exist."""
        return self.folder / "trials" / trial

    def get(self, trial: str) -> Record:
        """Return the record of a trial as it was last read; a trial that is not in the index yet is read.

        Raises:
            InputError: If a file of the trial is damaged.
        """
        return self._records.get(trial) or self.reload(trial)

    def reload(self, trial: str) -> Record:
        """Read the files of one trial again and return its record.

        Raises:
            InputError: If a file of the trial is damaged.
        """
        record = self._records[trial] = read_record(self.trial_folder(trial))
        return record

    def reload_all(self, trials: Iterable[str] | None = None) -> None:
        """Read the files of several trials again; None: of all trials in the run folder."""
        if trials is None:
            self._records = {record.trial: record for record in read_records(self.folder)}
        else:
            for trial in trials:
                self.reload(trial)

    def add(
        self, trial: str, *, kind: str, point: dict[str, Any], settings: dict[str, Any], data_fingerprint: str
    ) -> Record:
        """Create a trial: write its settings.json and return its record, which has no result yet.

        Args:
            trial: ID of the new trial.
            kind: `trial`, `baseline` or `repeat`.
            point: Value of each axis.
            settings: All settings of the trial.
            data_fingerprint: Fingerprint of the photographs and labels.
        """
        folder = self.trial_folder(trial)
        write_record(folder, kind=kind, point=point, settings=settings, data_fingerprint=data_fingerprint)
        return self.reload(trial)

    def write_result(self, trial: str, result: Mapping[str, Any]) -> Record:
        """Write result.json of a trial, which ends it, and return its new record.

        Args:
            trial: ID of the trial.
            result: Status, error message and scores; replaces an earlier result.
        """
        write_result(self.trial_folder(trial), result)
        return self.reload(trial)
