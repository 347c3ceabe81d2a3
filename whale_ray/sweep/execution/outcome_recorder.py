"""Records the outcome of trials: result, study, leaderboard.csv, quota of kept weights, ensemble."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from whale_ray.sweep.analysis.ensemble_choice import cross_fit_members
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.trial_queue import TrialQueue
from whale_ray.sweep.planning.study_feedback import StudyFeedback
from whale_ray.sweep.run_folder.checkpoints import drop_weights
from whale_ray.sweep.run_folder.leaderboard import kept_weights, sweep_leaderboard, write_leaderboard
from whale_ray.sweep.run_folder.record_index import RecordIndex
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.ensemble import choose_members, make_ensemble, ranked_trials
from whale_ray.sweep.trials.scoring import scoring_of


class TrialOutcomes:
    """Writes down what became of each trial of one sweep.

    The files read per settled trial do not depend on the number of trials in the run folder.
    """

    def __init__(self, sweep: Sweep, index: RecordIndex, queue: TrialQueue, feedback: StudyFeedback) -> None:
        self._sweep, self._index, self._queue, self._feedback = sweep, index, queue, feedback
        self._quota = CheckpointQuota(sweep, index)

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
        self._index.reload_all(self._queue.running)  # leaderboard.csv shows the last epoch of trials that run
        table = self.leaderboard()
        self._quota.enforce(table)
        write_leaderboard(table, self._index.folder / "leaderboard.csv")
        return record

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
        table, scoring = self.leaderboard(), scoring_of(self._sweep)
        members = self._quota.members(table)
        for member in members:
            fetch_weights(member.trial)
        made = make_ensemble(members, self._index.folder, scoring)
        if made is None:
            return
        trials = ranked_trials(table, self._index.records())
        cross_fit_members(made, trials, scoring, count=self._sweep.fixed["search.ensemble"], say=say)
        self._index.reload(made.trial)

    def leaderboard(self) -> pd.DataFrame:
        """Return the leaderboard of the indexed records, best first."""
        return sweep_leaderboard(self._index.records(), self._sweep)


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
        wanted = kept_weights(table, self._sweep) | {member.trial for member in self.members(table)}
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
