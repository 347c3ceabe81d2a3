"""Trial queue: chooses the trial that runs next and counts those that run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import islice

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.planning.dry_run import planned_trials, trials_left
from whale_ray.sweep.planning.optuna_study import Proposal, Study
from whale_ray.sweep.planning.resume import copy_state, find_shorter_trial
from whale_ray.sweep.planning.study_feedback import StudyFeedback
from whale_ray.sweep.planning.trial_points import Point, Settings, baselines, grid_points, listed_points
from whale_ray.sweep.run_folder.leaderboard import goodness, sweep_leaderboard
from whale_ray.sweep.run_folder.record_index import RecordIndex
from whale_ray.sweep.run_folder.records import NEEDS_WHOLE_GPU
from whale_ray.sweep.run_folder.sweep_clock import SweepClock

_MAX_DUPLICATES = 20  # proposals in a row that may be points with a trial before the whole space is looked through


class TrialQueue:
    """The trials of one sweep that are still to run, in order.

    The order: trials that have lost their worker, unfinished trials of earlier sessions, baselines, proposals of the
    search, trials that need a whole GPU, repeats of the finalists with other seeds.
    """

    def __init__(
        self,
        sweep: Sweep,
        index: RecordIndex,
        study: Study,
        feedback: StudyFeedback,
        clock: SweepClock,
        *,
        data_fingerprint: str,
    ) -> None:
        self._sweep, self._index = sweep, index
        self._study, self._feedback, self._clock = study, feedback, clock
        self._fingerprint = data_fingerprint
        self._hours: float = sweep.fixed["search.hours"] or float("inf")
        self._running: set[str] = set()
        self._lost: list[str] = []
        self._too_large: list[str] = []
        self._alone: set[str] = set()
        self._started: set[str] = set()

    @property
    def running(self) -> frozenset[str]:
        """The trials that were handed out and have not ended."""
        return frozenset(self._running)

    @property
    def awaits_whole_gpu(self) -> bool:
        """True while a trial that runs alone has no worker: another trial could take a share of its GPU."""
        return bool(self._alone & (self._running - self._started))

    def count_waiting(self) -> int:
        """Return how many trials wait for a place, without asking the study; repeats of finalists are not counted."""
        begun = sum(record.kind == "trial" for record in self._index.records())
        return len(self._lost) + len(self._too_large) + max(0, planned_trials(self._sweep) - begun)

    def has_work(self) -> bool:
        """Return whether a trial is left to run, without asking the study for a proposal."""
        unfinished = any(record.status == "running" for record in self._index.records())
        if unfinished or any(trial not in self._index for trial, *_ in self._baselines()):
            return True
        if self._clock.hours() >= self._hours:
            return False
        return trials_left(self._sweep, self._index.records()) > 0 or self._missing_repeat() is not None

    def trials(self) -> Iterator[str | None]:
        """Yield the IDs of the trials to run, each created when it is asked for.

        None is yielded while the next trial depends on trials that still run. The iterator ends when nothing is left.
        """
        first = self._first_runs()
        while True:
            following = self._lost.pop(0) if self._lost else next(first, None)
            if following is None and self._too_large:
                following = self._too_large.pop()
            if following is None and not self._running:
                following = self._next_repeat()
                if following is None:
                    return
            yield following and self._handed_out(following)

    def mark_started(self, trial: str) -> None:
        """Record that a trial has a worker."""
        self._started.add(trial)

    def remove(self, trial: str) -> None:
        """Count a trial as running no longer."""
        self._running.discard(trial)

    def run_again(self, trial: str) -> None:
        """Queue an unfinished trial that has lost its worker, before all others."""
        self._running.discard(trial)
        self._lost.append(trial)

    def requeue_alone(self, trial: str) -> bool:
        """Queue a trial again if its worker asked for a whole GPU; return whether it did.

        A trial runs alone at most once.
        """
        asked = (self._index.trial_folder(trial) / NEEDS_WHOLE_GPU).exists() and trial not in self._alone
        if again := asked and self._index.reload(trial).status == "running":
            self._running.discard(trial)
            self._too_large.append(trial)
        return again

    def trial_id(self, settings: Settings) -> str:
        """Return the ID of a trial with these settings on the photographs of the sweep."""
        return trial_identity(settings, data_fingerprint=self._fingerprint)

    def _handed_out(self, trial: str) -> str:
        self._running.add(trial)
        self._started.discard(trial)
        if (self._index.trial_folder(trial) / NEEDS_WHOLE_GPU).exists():
            self._alone.add(trial)
        return trial

    def _first_runs(self) -> Iterator[str]:
        yield from [record.trial for record in self._index.records() if record.status == "running"]
        for baseline, point, settings in self._baselines():
            if baseline not in self._index:
                yield self._create(baseline, "baseline", point, settings)
        begun = sum(record.kind == "trial" for record in self._index.records())
        while self._may_begin(begun) and self._clock.hours() < self._hours:
            trial = self._propose()
            if trial is None:
                return
            yield trial
            begun += 1

    def _baselines(self) -> Iterator[tuple[str, Point, Settings]]:
        for point, settings in baselines(self._sweep):
            yield f"baseline-{self.trial_id(settings)}", point, settings

    def _may_begin(self, begun: int) -> bool:
        return listed_points(self._sweep) is not None or begun < int(self._sweep.fixed["search.trials"])

    def _propose(self) -> str | None:
        """Create a trial at a point that has none and return its ID; None if the space has no such point."""
        for proposal in self._proposals():
            settings = self._sweep.settings(proposal.point)
            trial = self.trial_id(settings)
            if trial not in self._index:
                self._study.begin(proposal.number, trial)
                return self._create(trial, "trial", proposal.point, settings)
            self._feedback.report_duplicate(proposal.number, self._index.reload(trial))
        return None

    def _proposals(self) -> Iterator[Proposal]:
        """Yield what the search draws; after many duplicates, the points of a listable space that have no trial."""
        drawn = iter(self._study.ask, None)
        if listed_points(self._sweep) is not None:
            yield from drawn
            return
        yield from islice(drawn, _MAX_DUPLICATES)
        if any(axis.listed() is None for axis in self._sweep.axes):
            yield from islice(drawn, 10 * _MAX_DUPLICATES)
            return
        for point in grid_points(self._sweep.axes):
            if self.trial_id(self._sweep.settings(point)) not in self._index:
                yield self._study.ask_for(point)

    def _next_repeat(self) -> str | None:
        """Create the next repeat of a finalist and return its ID; None if all finalists have theirs."""
        found = self._missing_repeat()
        return None if found is None else self._create(self.trial_id(found[1]), "repeat", *found)

    def _missing_repeat(self) -> tuple[Point, Settings] | None:
        wanted, finalists = self._sweep.fixed["search.repeats"], self._sweep.fixed["search.finalists"]
        if not wanted or self._clock.hours() >= self._hours:
            return None
        board = sweep_leaderboard(self._index.records(), self._sweep)
        trained = board[(board["status"] == "finished") & (board["kind"] == "trial")]
        # Finalists are ranked by the seed that all trials share: a trial that came later can become a finalist, too.
        first = goodness(trained[self._sweep.ranked_by], self._sweep.ranked_by)
        best_first = first.sort_values(ascending=False, kind="stable").index
        leading = trained.loc[best_first, "trial"].iloc[:finalists]
        for record, count in itertools.product(map(self._index.get, leading), range(1, wanted + 1)):
            settings = record.settings | {"seed": record.settings["seed"] + count}
            if self.trial_id(settings) not in self._index:
                return record.point, settings
        return None

    def _create(self, trial: str, kind: str, point: Point, settings: Settings) -> str:
        shorter = find_shorter_trial(settings, self._index.records())
        self._index.add(trial, kind=kind, point=point, settings=settings, data_fingerprint=self._fingerprint)
        if shorter:
            copy_state(shorter, self._index.trial_folder(trial))
        return trial
