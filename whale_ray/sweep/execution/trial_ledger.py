"""The books of one sweep: which trials there are to run, what became of them, what the run folder says of it.

Asks the study for points, gives each trial its folder, settles it when it has ended. Knows no Ray: the run folder
alone is enough to go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.retrieval.search.retrieval_config import SETTING_FIELDS
from whale_ray.sweep.config.sweep_spec import Sweep, trial_identity
from whale_ray.sweep.planning.dry_run import trials_left
from whale_ray.sweep.planning.early_stopping import EarlyStopping
from whale_ray.sweep.planning.optuna_study import Proposal, Study
from whale_ray.sweep.planning.resume import begin_from, note_on_epochs, refuse_others, shorter_trial
from whale_ray.sweep.planning.trial_settings import (
    Point,
    Settings,
    baselines,
    first_settings,
    grid_points,
    listed_points,
)
from whale_ray.sweep.run_folder.checkpoints import drop_weights
from whale_ray.sweep.run_folder.leaderboard import goodness, kept_weights, leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.liveness import ALONE, Clock
from whale_ray.sweep.run_folder.records import Record, read_curve, read_record, read_records, write_record, write_result
from whale_ray.sweep.trials.ensemble import choose_members, forget_unfinished, make_ensemble
from whale_ray.sweep.trials.scoring import is_scored_by, rescore_for_good, scoring_of

_REPEATS = 20


class Ledger:
    """The trials of one run folder, those that were and those to come."""

    def __init__(self, sweep: Sweep, folder: Path, *, data_fingerprint: str) -> None:
        self.sweep, self.folder = sweep, folder
        self.objective = sweep.objective
        self._fingerprint = data_fingerprint
        forget_unfinished(folder)
        self._records = read_records(folder)
        refuse_others(self._records, first_settings(sweep), fingerprint=data_fingerprint, folder=folder)
        self.rescored = self._rescore()
        self.notes = [*note_on_epochs(sweep, self._records)]
        self._known = {record.trial for record in self._records}
        known = lambda point: self._id(sweep.settings(point)) in self._known  # noqa: E731
        self._study = Study(sweep, folder / "study.db", begun=self._known, known=known)
        if self._study.damaged:
            self.notes.append(f"study.db was damaged and lies in {self._study.damaged}: made anew from the trials")
        self._open: set[str] = set()
        self._again: list[str] = []
        self._alone: set[str] = set()
        self._clock = Clock(folder / "clock.json")
        self._hours: float = sweep.fixed["search.hours"] or float("inf")
        self._early = EarlyStopping(sweep, self._records) if sweep.fixed["search.scheduler"] == "asha" else None
        for record in self._records:
            if record.kind == "trial":
                self._study.adopt(record.trial, record.point, ended=record.status != "running")
                self._tell(record)

    def _rescore(self) -> int:
        """Scores finished trials anew where the sweep now asks for other retrieval settings; how many those were."""
        scoring = scoring_of(self.sweep)
        finished = [record for record in self._records if record.status == "finished"]
        stale = [record for record in finished if not is_scored_by(scoring, record)]
        for record in stale:
            rescore_for_good(record, scoring)
        if stale:
            self._records = read_records(self.folder)
        return len(stale)

    def _id(self, settings: Settings) -> str:
        return trial_identity(settings, data_fingerprint=self._fingerprint)

    def has_work(self) -> bool:
        """Whether there is a trial to run. Asks the study for none."""
        unfinished = any(record.status == "running" for record in self._records)
        if unfinished or any(trial not in self._known for trial, *_ in self._baselines()):
            return True
        if self._clock.hours() >= self._hours:
            return False
        return trials_left(self.sweep, self._records) > 0 or self._repeat_left() is not None

    def trials(self) -> Iterator[str | None]:
        """The ids of trials to run, each when it is asked for; None where one must wait for those that run.

        Unfinished ones, baselines, what the search proposes, what is to be tried again, the repeats of the finalists.
        """
        yield from map(self._opened, self._to_train())
        while True:
            following = self._again.pop() if self._again else None
            if following is None and not self._open:
                following = self._next_repeat()
                if following is None:
                    return
            yield following and self._opened(following)

    @property
    def at_work(self) -> int:
        """How many trials were handed out and have not ended."""
        return len(self._open)

    def _opened(self, trial: str) -> str:
        self._open.add(trial)
        if (self.trial_folder(trial) / ALONE).exists():
            self._alone.add(trial)
        return trial

    def _to_train(self) -> Iterator[str]:
        yield from (record.trial for record in self._records if record.status == "running")
        for baseline, point, settings in self._baselines():
            if baseline not in self._known:
                yield self._begin(baseline, "baseline", point, settings)
        done = sum(record.kind == "trial" for record in self._records)
        while self._room(done) and self._clock.hours() < self._hours:
            trial = self._propose()
            if trial is None:
                return
            yield trial
            done += 1

    def _baselines(self) -> Iterator[tuple[str, Point, Settings]]:
        for point, settings in baselines(self.sweep):
            yield f"baseline-{self._id(settings)}", point, settings

    def _next_repeat(self) -> str | None:
        """The id of a finalist's next training with another seed; None where all have had theirs."""
        found = self._repeat_left()
        return None if found is None else self._begin(self._id(found[1]), "repeat", *found)

    def _repeat_left(self) -> tuple[Point, Settings] | None:
        wanted, finalists = self.sweep.fixed["search.repeats"], self.sweep.fixed["search.finalists"]
        if not wanted or self._clock.hours() >= self._hours:
            return None
        board = self.leaderboard()
        trained = board[(board["status"] == "finished") & (board["kind"] == "trial")]
        # By the seed that all of them had: a trial that came later may be a finalist, too.
        first = goodness(trained[self.sweep.ranked_by], self.sweep.ranked_by)
        best_first = first.sort_values(ascending=False, kind="stable").index
        leading = trained.loc[best_first, "trial"].iloc[:finalists]
        for record, count in itertools.product(map(self.record, leading), range(1, wanted + 1)):
            settings = record.settings | {"seed": record.settings["seed"] + count}
            if self._id(settings) not in self._known:
                return record.point, settings
        return None

    def _room(self, done: int) -> bool:
        return listed_points(self.sweep) is not None or done < int(self.sweep.fixed["search.trials"])

    def _propose(self) -> str | None:
        """The id of a new trial at a point that has none yet; None where the space has no more."""
        for proposal in self._proposals():
            settings = self.sweep.settings(proposal.point)
            trial = self._id(settings)
            if trial not in self._known:
                self._study.begin(proposal.number, trial)
                return self._begin(trial, "trial", proposal.point, settings)
            self._tell_repeat(proposal.number, trial)
        return None

    def _proposals(self) -> Iterator[Proposal]:
        """What the search draws; after many repeats, what it has left out, where the space can be listed."""
        drawn = iter(self._study.ask, None)
        if listed_points(self.sweep) is not None:
            yield from drawn
            return
        yield from islice(drawn, _REPEATS)
        if any(axis.listed() is None for axis in self.sweep.axes):
            yield from islice(drawn, 10 * _REPEATS)
            return
        points = grid_points(self.sweep.axes)
        yield from (self._study.ask_for(one) for one in points if self._id(self.sweep.settings(one)) not in self._known)

    def _begin(self, trial: str, kind: str, point: Point, settings: Settings) -> str:
        write_record(
            self.trial_folder(trial), kind=kind, point=point, settings=settings, data_fingerprint=self._fingerprint
        )
        self._known.add(trial)
        if shorter := shorter_trial(settings, self.records()):
            begin_from(shorter, self.trial_folder(trial))
        return trial

    def trial_folder(self, trial: str) -> Path:
        """Where a trial keeps what is left of it."""
        return self.folder / "trials" / trial

    def record(self, trial: str) -> Record:
        """What the trial's folder says now."""
        return read_record(self.trial_folder(trial))

    def tick(self) -> None:
        """Time goes by: the budget of hours counts it, whatever ends this sitting."""
        self._clock.tick()

    def goes_on(self, trial: str, figures: Mapping[str, Any]) -> bool:
        """Whether a trial is worth going on with after the epoch of these figures."""
        return self._early is None or self._early.goes_on(self.record(trial), figures)

    def postpone(self, trial: str) -> bool:
        """Whether a trial that has ended is to be tried again, alone on a GPU; it then comes once more."""
        asked = (self.trial_folder(trial) / ALONE).exists() and trial not in self._alone
        if again := asked and self.record(trial).status == "running":
            self.hand_out_again(trial)
        return again

    def hand_out_again(self, trial: str) -> None:
        """An unfinished trial that nobody works at comes once more."""
        self._open.discard(trial)
        self._again.append(trial)

    def give_up(self, trial: str, error: str) -> None:
        """A trial that still runs has failed."""
        record = self.record(trial)
        write_result(record.folder, {**record.result, "status": "failed", "error": error})

    def settle(self, trial: str, *, status: str, error: str = "") -> Record:
        """What became of a trial that has ended; `status` and `error` where the trial itself left no result."""
        self._open.discard(trial)
        record = self.record(trial)
        if record.status == "running":
            write_result(record.folder, {**record.result, "status": status, "error": error})
            record = self.record(trial)
        self._tell(record)
        if record.status != "finished":
            drop_weights(record.folder / "checkpoint")
        table = self.leaderboard()
        self._keep_quota(table)
        write_leaderboard(table, self.folder / "leaderboard.csv")
        return record

    def _tell(self, record: Record) -> None:
        if record.kind != "trial" or record.status == "running":
            return
        scores = None if record.status == "failed" else self._scores(record)
        notes = {name: record.result.get(name) for name in SETTING_FIELDS}
        curve = {row["epoch"]: row[self.objective] for row in read_curve(record.folder, self.objective)}
        self._study.tell(record.trial, scores, pruned=record.status == "pruned", curve=curve, notes=notes)

    def _tell_repeat(self, number: int, trial: str) -> None:
        record = self.record(trial)
        self._study.tell_repeat(number, trial, self._scores(record) if record.status == "finished" else None)

    def _scores(self, record: Record) -> list[float] | None:
        """The trial's value of each objective; None where one is missing."""
        values = [record.result.get(name) for name in (self.objective, self.sweep.also) if name is not None]
        return None if None in values else [float(value) for value in values if value is not None]

    def _keep_quota(self, table: pd.DataFrame) -> None:
        wanted = kept_weights(table, self.sweep) | {member.trial for member in self._members(table)}
        for trial in table.loc[(table["status"] == "finished") & ~table["trial"].isin(wanted), "trial"]:
            drop_weights(self.trial_folder(trial) / "checkpoint")

    def _members(self, table: pd.DataFrame) -> list[Record]:
        """The trials that an ensemble of this sweep would join now."""
        wanted = self.sweep.fixed["search.ensemble"]
        return choose_members(table, self.records(), wanted) if wanted else []

    def join_best(self) -> None:
        """Joins the best trials, where the sweep asks for it; the ensemble is a trial like any other from then on."""
        make_ensemble(self._members(self.leaderboard()), self.folder, scoring_of(self.sweep))

    def records(self) -> list[Record]:
        """What every trial's folder says now."""
        return read_records(self.folder)

    def leaderboard(self) -> pd.DataFrame:
        """The leaderboard as the trial folders say now."""
        names = [axis.name for axis in self.sweep.axes]
        return leaderboard(self.records(), axes=names, objective=self.sweep.ranked_by, also=self.sweep.also)
