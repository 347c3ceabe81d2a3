"""Records the outcome of trials: result, study, leaderboard.csv, quota of kept weights, ensemble."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd

from whale_ray.sweep.analysis.ensemble_choice import cross_fit_members, ensembles_to_score
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.trial_queue import TrialQueue
from whale_ray.sweep.planning.study_feedback import StudyFeedback
from whale_ray.sweep.run_folder.checkpoints import drop_weights
from whale_ray.sweep.run_folder.leaderboard import kept_weights, sweep_leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.record_index import RecordIndex
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.ensemble import EnsembleScorer, choose_members, make_ensemble, ranked_trials
from whale_ray.sweep.trials.scoring import scoring_of

_ALWAYS_WRITTEN = 100  # rows of a table that takes milliseconds
_REST = 49  # pause after a writing, as a multiple of its time


class TrialOutcomes:
    """Writes down what became of each trial of one sweep.

    The files read per settled trial do not depend on the number of trials in the run folder. The leaderboard is written
    after each trial; with many trials, at most 2 % of the time goes into it, and the last trials follow later.
    """

    def __init__(self, sweep: Sweep, index: RecordIndex, queue: TrialQueue, feedback: StudyFeedback) -> None:
        self._sweep, self._index, self._queue, self._feedback = sweep, index, queue, feedback
        self._quota = CheckpointQuota(sweep, index)
        self._pace, self._is_behind = WritingPace(), False

    def settle(self, trial: str, *, status: str, error: str = "") -> Record:
        """Record the outcome of a trial that has ended and return its record.

        Args:
            trial: ID of the trial.
            status: `pruned` or `failed`; counts only if the trial itself wrote no result.
            error: Reason of the failure; counts as `status` does.
        """
        self._queue.remove(trial)
        record = self._index.reload(trial)
        if record.status == "running":
            record = self._index.write_result(trial, {**record.result, "status": status, "error": error})
        self._feedback.report(record)
        if record.status != "finished":
            drop_weights(record.folder / "checkpoint")
        self._is_behind = not self._pace.is_due(len(self._index))
        if not self._is_behind:
            self._write()
        return record

    def catch_up(self) -> None:
        """Write leaderboard.csv and enforce the quota if trials were settled since that was done."""
        if self._is_behind:
            self._write()

    def _write(self) -> None:
        self._is_behind = False
        with self._pace.measured():
            self._index.reload_all(self._queue.running)  # leaderboard.csv shows the last epoch of trials that run
            table = self.leaderboard()
            self._quota.enforce(table)
            write_leaderboard(table, self._index.folder / "leaderboard.csv")

    def fail(self, trial: str, error: str) -> None:
        """Write a failed result for a trial whose worker still runs.

        Args:
            trial: ID of the trial.
            error: Reason of the failure.
        """
        record = self._index.reload(trial)
        self._index.write_result(trial, {**record.result, "status": "failed", "error": error})

    def make_ensemble(
        self, say: Callable[[str], None], *, fetch_weights: Callable[[str], None] = lambda trial: None
    ) -> None:
        """Join the best trials if the sweep asks for it; the ensemble becomes a row of the leaderboard.

        For the headline, it is also scored with the members that each fold's other queries choose.

        Args:
            say: Prints the progress.
            fetch_weights: Downloads the weights of a member, given its ID.
        """
        if self._sweep.fixed["search.ensemble"]:
            say("the best trials are joined to an ensemble, which is scored")
        table, scoring = self.leaderboard(), scoring_of(self._sweep)
        members = self._quota.members(table)
        for member in members:
            fetch_weights(member.trial)
        trials, run = ranked_trials(table, self._index.records()), self._index.folder
        count = self._sweep.fixed["search.ensemble"]
        with EnsembleScorer(scoring) as scorer:
            scorer.begin(ensembles_to_score(members, trials, run, scoring.objective, count=count))
            made = make_ensemble(members, run, scoring, score=scorer.score)
            if made is None:
                return
            cross_fit_members(made, trials, scoring, count=count, say=say, score=scorer.score)
        self._index.reload(made.trial)

    def leaderboard(self) -> pd.DataFrame:
        """Return the leaderboard of the indexed records, best first."""
        return sweep_leaderboard(self._index.records(), self._sweep)


class WritingPace:
    """Limits the share of time that a growing table takes which is written again and again.

    >>> pace = WritingPace()
    >>> with pace.measured():
    ...     pass
    >>> pace.is_due(_ALWAYS_WRITTEN)
    True
    """

    def __init__(self) -> None:
        self._next = float("-inf")

    def is_due(self, rows: int) -> bool:
        """Return whether a table of so many rows is to be written now: always if it is small."""
        return rows <= _ALWAYS_WRITTEN or time.monotonic() >= self._next

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the block that writes the table."""
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self._next = ended + _REST * (ended - started)


class CheckpointQuota:
    """Removes the weights of finished trials that are not among the best `keep_checkpoints`."""

    def __init__(self, sweep: Sweep, index: RecordIndex) -> None:
        self._sweep, self._index = sweep, index
        self._dropped: set[str] = set()

    def enforce(self, table: pd.DataFrame) -> None:
        """Remove the weights that the quota does not keep.

        Args:
            table: The leaderboard.
        """
        collapsed = {record.trial for record in self._index.records() if record.has_collapsed}
        wanted = kept_weights(table, self._sweep, collapsed=collapsed)
        wanted |= {member.trial for member in self.members(table)}
        finished = set(table.loc[table["status"] == "finished", "trial"])
        for trial in finished - wanted - self._dropped:
            drop_weights(self._index.trial_folder(trial) / "checkpoint")
            self._dropped.add(trial)

    def members(self, table: pd.DataFrame) -> list[Record]:
        """Return the trials that an ensemble of this sweep would join now, best first.

        Args:
            table: The leaderboard.
        """
        wanted = self._sweep.fixed["search.ensemble"]
        return choose_members(ranked_trials(table, self._index.records()), wanted) if wanted else []
