"""Discovery session: answers are saved at once, and the photographs are clustered again in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from whale_ray.data.catalog import Catalog
from whale_ray.discovery.grouping import Grouping
from whale_ray.discovery.question_queue import Question
from whale_ray.discovery.records.answer_tables import NewAnswer
from whale_ray.discovery.records.answers import DIFFERENT, SAME, Answer, AnswerLog
from whale_ray.discovery.records.cluster_names import name_clusters
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
from whale_ray.discovery.records.result_tables import training_rows, write_grouping, write_training_table

ANSWERS_EACH = 4
"""Number of answers after which the photographs are clustered again."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowAnswers:
    """Answers by row of the photographs.

    Attributes:
        same: Pairs that show one animal.
        different: Pairs that show two animals.
        undecided: Pairs for which a person cannot tell; they are not asked again.
    """

    same: tuple[tuple[int, int], ...]
    different: tuple[tuple[int, int], ...]
    undecided: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class DiscoveryState:
    """Result of the last clustering.

    Attributes:
        number: Number of the clustering, from 1.
        grouping: The grouping.
        names: Name by cluster.
    """

    number: int
    grouping: Grouping
    names: Mapping[int, str]


class DiscoverySession:
    """Photographs, answers and clusters of one discovery folder; safe for several threads.

    Args:
        folder: The open folder.
        catalog: All photographs.
        images: Names of the photographs that are clustered.
        group: Groups them by the answers.
        singles: Treatment of photographs alone in their cluster, one of `result_tables.SINGLES`.
    """

    def __init__(
        self,
        folder: DiscoveryFolder,
        catalog: Catalog,
        images: Sequence[str],
        group: Callable[[RowAnswers], Grouping],
        *,
        singles: str = "unknown",
    ) -> None:
        self.folder, self.catalog, self.images = folder, catalog, list(images)
        self.log = AnswerLog(folder.answers)
        self._group, self._singles = group, singles
        self._row_of = {image: row for row, image in enumerate(self.images)}
        names = dict(zip(catalog.table["image"], catalog.table["individual"], strict=True))
        unknown = catalog.unknown_label
        self.individuals = ["" if names[image] == unknown else str(names[image]) for image in self.images]
        self._lock = threading.Lock()
        self._clustering = threading.Lock()
        self._since, self._requested = 0, False
        self._worker: threading.Thread | None = None
        self.failure = ""
        self._state = self._cluster(1)

    @property
    def state(self) -> DiscoveryState:
        """The last finished clustering."""
        with self._lock:
            return self._state

    @property
    def is_clustering(self) -> bool:
        """True while the photographs are clustered again in the background."""
        with self._lock:
            return self._worker is not None

    @property
    def open_questions(self) -> list[Question]:
        """Questions of the last clustering that were not answered since."""
        answers = self.row_answers()
        done = {frozenset(pair) for pairs in (answers.same, answers.different, answers.undecided) for pair in pairs}
        return [one for one in self.state.grouping.questions if frozenset((one.first, one.second)) not in done]

    def training_table(self) -> pd.DataFrame:
        """Return the training table of the last clustering, as table.csv has it."""
        return self._training_table(self.state)

    def row_answers(self) -> RowAnswers:
        """Return the valid answers about photographs that are there."""
        pairs: dict[str, list[tuple[int, int]]] = {}
        for one in self.log.valid:
            if one.first in self._row_of and one.second in self._row_of:
                pairs.setdefault(one.verdict, []).append((self._row_of[one.first], self._row_of[one.second]))
        same, different = tuple(pairs.pop(SAME, ())), tuple(pairs.pop(DIFFERENT, ()))
        return RowAnswers(same, different, tuple(pair for rest in pairs.values() for pair in rest))

    def answer(self, first: int, second: int, verdict: str, *, person: str) -> Answer:
        """Save an answer; every few answers the photographs are clustered again in the background.

        Args:
            first: Row of one photograph.
            second: Row of the other one.
            verdict: One of `answers.VERDICTS`.
            person: Name of the person.

        Raises:
            ValueError: If the rows or the verdict do not exist.
        """
        rows = range(len(self.images))
        if first not in rows or second not in rows or first == second:
            raise ValueError(f"a pair has two rows from 0 to {len(rows) - 1}, but got {first} and {second}")
        saved = self.log.add(self.images[first], self.images[second], verdict, person=person)
        with self._lock:
            self._since += 1
            is_due = self._since >= ANSWERS_EACH
        if is_due or not self.open_questions:
            self.cluster_in_background()
        return saved

    def undo(self, number: int, *, person: str) -> Answer:
        """Take an answer back and cluster again in the background.

        Args:
            number: Number of the answer.
            person: Name of the person who takes it back.

        Raises:
            KeyError: If no valid answer has this number.
        """
        undone = self.log.undo(number, person=person)
        self.cluster_in_background()
        return undone

    def add_answers(self, answers: Sequence[NewAnswer]) -> int:
        """Save answers of a file, cluster again, and return how many were new.

        Args:
            answers: Result of `answer_tables.read_answers`.
        """
        known = {(one.pair, one.verdict) for one in self.log.valid}
        new = [one for one in answers if (tuple(sorted(one[:2])), one[2]) not in known]
        if new:
            self.log.add_all(new)
            self.cluster()
        return len(new)

    def cluster(self) -> None:
        """Cluster the photographs again and write the tables."""
        with self._clustering:
            with self._lock:
                self._since = 0
            found = self._cluster(self.state.number + 1)
            with self._lock:
                self._state = found

    def cluster_in_background(self) -> None:
        """Start `cluster` in a thread; if one runs, it clusters once more afterwards."""
        with self._lock:
            self._requested = True
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="clustering", daemon=True)
                self._worker.start()

    def wait(self) -> None:
        """Wait until no clustering runs, so that the tables are complete."""
        while (worker := self._worker) is not None:
            worker.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._requested:
                    self._worker = None
                    return
                self._requested = False
            try:
                self.cluster()
                self.failure = ""
            except Exception as error:  # the page shows it, and the answers are saved
                self.failure = str(error)
                _log.exception("the photographs cannot be clustered; the answers are saved")

    def _cluster(self, number: int) -> DiscoveryState:
        grouping = self._group(self.row_answers())
        names, kept = name_clusters(grouping.labels, self.images, self.individuals, earlier=self.folder.read_names())
        self.folder.write_names(kept)
        write_grouping(self.folder, grouping, self.images, names)
        state = DiscoveryState(number, grouping, names)
        write_training_table(self.folder, self._training_table(state))
        return state

    def _training_table(self, state: DiscoveryState) -> pd.DataFrame:
        return training_rows(self.catalog, state.grouping, self.images, state.names, singles=self._singles)
