"""Trial queue: chooses the trial that runs next and counts those that run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import islice

from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.planning.dry_run import trials_left
from whale_ray.sweep.planning.optuna_study import Proposal, Study
from whale_ray.sweep.planning.resume import copy_state, find_shorter_trial
from whale_ray.sweep.planning.search_space import ChooseCaches, next_in_order
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

    Attributes:
        choose: Chooses the next point of a grid or a screen by the caches that its trial needs.
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
        self._due: tuple[int, int] | None = None
        self._taken, self._is_over = 0, False
        self._repeats: list[tuple[Point, Settings]] | None = None  # known when the trials of the search have ended
        self.choose: ChooseCaches = next_in_order

    @property
    def running(self) -> frozenset[str]:
        """The trials that were handed out and have not ended."""
        return frozenset(self._running)

    @property
    def awaits_whole_gpu(self) -> bool:
        """True while a trial that runs alone has no worker: another trial could take a share of its GPU."""
        return bool(self._alone & (self._running - self._started))

    def count_waiting(self) -> int:
        """Return how many trials wait for a place, without asking the study; repeats once the finalists are known."""
        self._due = self._due or self._count_due()
        begun, searched = self._due
        if self._clock.hours() >= self._hours:
            searched, repeats = 0, 0
        else:
            repeats = len(self._repeats or ())
        left = 0 if self._is_over else max(0, begun + searched - self._taken)
        return len(self._lost) + len(self._too_large) + left + repeats

    def may_go_on(self) -> bool:
        """Return whether another trial can follow the running ones, if none of them is lost."""
        return self.count_waiting() > 0 or (self._repeats is None and self._sweep.fixed["search.repeats"] > 0)

    def has_work(self) -> bool:
        """Return whether a trial is left to run, without asking the study for a proposal."""
        unfinished = any(record.status == "running" for record in self._index.records())
        if unfinished or any(trial not in self._index for trial, *_ in self._baselines()):
            return True
        if self._clock.hours() >= self._hours:
            return False
        return trials_left(self._sweep, self._index.records()) > 0 or bool(self._missing_repeats())

    def trials(self) -> Iterator[str | None]:
        """Yield the IDs of the trials to run, each created when it is asked for.

        None is yielded while the next trial depends on trials that still run. The iterator ends when nothing is left.
        """
        first = self._first_runs()
        while True:
            following = self._lost.pop(0) if self._lost else self._take(first)
            if following is None and self._too_large:
                following = self._too_large.pop()
            if following is None and all(self._index.get(trial).kind == "repeat" for trial in self._running):
                following = self._next_repeat()
                if following is None and not self._running:
                    return
            yield following and self._handed_out(following)

    def _take(self, first: Iterator[str]) -> str | None:
        self._due = self._due or self._count_due()  # before the first trial is created
        following = next(first, None)
        self._is_over = following is None
        self._taken += following is not None
        return following

    def _count_due(self) -> tuple[int, int]:
        """Return how many trials are left that run whatever the hours, and how many the search may begin."""
        records = self._index.records()
        unfinished = sum(record.status == "running" for record in records)
        missing = sum(trial not in self._index for trial, *_ in self._baselines())
        return unfinished + missing, trials_left(self._sweep, records)

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
        drawn = iter(lambda: self._study.ask(self.choose), None)
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
        if self._repeats is None:
            self._repeats = self._missing_repeats()
        if not self._repeats or self._clock.hours() >= self._hours:
            return None
        point, settings = self._repeats.pop(0)
        return self._create(self.trial_id(settings), "repeat", point, settings)

    def _missing_repeats(self) -> list[tuple[Point, Settings]]:
        wanted, finalists = self._sweep.fixed["search.repeats"], self._sweep.fixed["search.finalists"]
        if not wanted:
            return []
        board = sweep_leaderboard(self._index.records(), self._sweep)
        trained = board[(board["status"] == "finished") & (board["kind"] == "trial")]
        # Finalists are ranked by the seed that all trials share: a trial that came later can become a finalist, too.
        first = goodness(trained[self._sweep.ranked_by], self._sweep.ranked_by)
        best_first = first.sort_values(ascending=False, kind="stable").index
        leading = trained.loc[best_first, "trial"].iloc[:finalists]
        repeats = (
            (record.point, record.settings | {"seed": record.settings["seed"] + count})
            for record, count in itertools.product(map(self._index.get, leading), range(1, wanted + 1))
        )
        return [(point, settings) for point, settings in repeats if self.trial_id(settings) not in self._index]

    def _create(self, trial: str, kind: str, point: Point, settings: Settings) -> str:
        shorter = find_shorter_trial(settings, self._index.records())
        self._index.add(trial, kind=kind, point=point, settings=settings, data_fingerprint=self._fingerprint)
        if shorter:
            copy_state(shorter, self._index.trial_folder(trial))
        return trial
