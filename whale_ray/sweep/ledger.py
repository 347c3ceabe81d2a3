"""The books of one sweep: which trials there are to run, what became of them, what the run folder says of it.

Asks the study for points, gives each trial its folder, settles it when it has ended. Knows no Ray: the run folder
alone is enough to go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from whale_ray.sweep.checkpoint import drop_weights
from whale_ray.sweep.leaderboard import (
    Record,
    leaderboard,
    read_record,
    read_records,
    write_leaderboard,
    write_record,
    write_result,
)
from whale_ray.sweep.plan import Point, Settings, baselines
from whale_ray.sweep.space import Study
from whale_ray.sweep.spec import Sweep, trial_identity

_REPEATS_BEFORE_EXHAUSTED = 200


class Ledger:
    """The trials of one run folder, those that were and those to come."""

    def __init__(self, sweep: Sweep, folder: Path, *, data_fingerprint: str) -> None:
        self.sweep, self.folder = sweep, folder
        self.objective: str = sweep.fixed["search.objective"]
        self._fingerprint = data_fingerprint
        self._records = read_records(folder)
        self._known = {record.trial for record in self._records}
        self._study = Study(sweep, folder / "study.db", known=lambda point: self._id_at(point) in self._known)
        for record in self._records:
            self._tell(record)

    def _id_at(self, point: Point) -> str:
        return self._id(self.sweep.settings(point))

    def _id(self, settings: Settings) -> str:
        return trial_identity(settings, data_fingerprint=self._fingerprint)

    def trials(self) -> Iterator[str]:
        """The ids of trials to run, each when it is asked for: unfinished ones, baselines, then what is proposed."""
        yield from (record.trial for record in self._records if record.status == "running")
        for point, settings in baselines(self.sweep):
            if self._id(settings) not in self._known:
                yield self._begin("baseline", None, point, settings)
        done = sum(record.kind == "trial" for record in self._records)
        deadline = time.monotonic() + 3600 * (self.sweep.fixed["search.hours"] or float("inf"))
        while self._room(done) and time.monotonic() < deadline:
            trial = self._propose()
            if trial is None:
                return
            yield trial
            done += 1

    def _room(self, done: int) -> bool:
        return self.sweep.fixed["search.strategy"] == "grid" or done < self.sweep.fixed["search.trials"]

    def _propose(self) -> str | None:
        """The id of a new trial at a point that has none yet; None where the space has no more."""
        for _ in range(_REPEATS_BEFORE_EXHAUSTED):
            proposal = self._study.ask()
            if proposal is None:
                return None
            settings = self.sweep.settings(proposal.point)
            if self._id(settings) not in self._known:
                return self._begin("trial", proposal.number, proposal.point, settings)
            self._tell_repeat(proposal.number, self._id(settings))
        return None

    def _begin(self, kind: str, number: int | None, point: Point, settings: Settings) -> str:
        trial = self._id(settings)
        write_record(self._folder(trial), kind=kind, number=number, point=point, settings=settings)
        self._known.add(trial)
        return trial

    def _folder(self, trial: str) -> Path:
        return self.folder / "trials" / trial

    def record(self, trial: str) -> Record:
        """What the trial's folder says now."""
        return read_record(self._folder(trial))

    def settle(self, trial: str, *, status: str, error: str = "") -> Record:
        """What became of a trial that has ended; `status` and `error` where the trial itself left no result."""
        record = self.record(trial)
        if record.status == "running":
            write_result(record.folder, {**record.result, "status": status, "error": error})
            record = self.record(trial)
        self._tell(record)
        table = self.leaderboard()
        self._keep_quota(table)
        write_leaderboard(table, self.folder / "leaderboard.csv")
        return record

    def _tell(self, record: Record) -> None:
        if record.number is None or record.status == "running":
            return
        score = None if record.status == "failed" else record.result.get(self.objective)
        notes = {name: record.result.get(name) for name in ("neighbours", "vote", "temperature", "flip")}
        notes |= {"trial": record.trial, "epoch": record.result.get("epochs", 0)}
        self._study.tell(record.number, score, pruned=record.status == "pruned", notes=notes)

    def _tell_repeat(self, number: int, trial: str) -> None:
        """A point that was drawn again: told with the score of the trial that has it."""
        record = self.record(trial)
        score = record.result.get(self.objective) if record.status == "finished" else None
        self._study.tell(number, score, notes={"repeats": trial})

    def _keep_quota(self, table: pd.DataFrame) -> None:
        finished = table.loc[table["status"] == "finished", "trial"]
        for trial in finished.iloc[self.sweep.fixed["keep_checkpoints"] :]:
            drop_weights(self._folder(trial) / "checkpoint")

    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard as the trial folders say now."""
        names = [axis.name for axis in self.sweep.axes]
        return leaderboard(read_records(self.folder), axes=names, objective=self.objective)


def forget_failed(folder: Path) -> None:
    """Makes every failed trial of the run folder an unfinished one, which is then run again."""
    for record in read_records(folder):
        if record.status == "failed":
            (record.folder / "traceback.txt").unlink(missing_ok=True)
            (record.folder / "result.json").unlink()
