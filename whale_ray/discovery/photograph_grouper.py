"""Groups photographs by pair probabilities and answers: clusters, questions, contradictions, number of animals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from whale_ray.discovery.cluster_threshold import DEFAULT_THRESHOLD, learn_threshold
from whale_ray.discovery.clustering import cluster_photographs
from whale_ray.discovery.constraints import Constraints, Pair, find_contradictions
from whale_ray.discovery.grouping import Grouping
from whale_ray.discovery.pair_features import LOCAL_FEATURE
from whale_ray.discovery.pair_model import PairModel, default_pair_model, fit_pair_model
from whale_ray.discovery.pair_probabilities import PairProbabilities, compare_photographs
from whale_ray.discovery.population_size import draw_population_sample, estimate_population
from whale_ray.discovery.question_queue import Question, next_questions
from whale_ray.discovery.session import RowAnswers

QUESTIONS = 100
"""Number of questions in questions.csv."""
_FOR_CLUSTERS = 2  # questions for the clusters between two for the number of animals


@dataclass(frozen=True)
class NamedPhotographs:
    """Photographs of known individuals, from which pair model and threshold can be learned.

    Attributes:
        source: Description, for a message.
        vectors: Their vectors, float32, shape (M, D).
        individuals: Their individuals, shape (M,).
        local_scores: Keypoint score of each against each other, shape (M, M); None without.
    """

    source: str
    vectors: np.ndarray
    individuals: np.ndarray
    local_scores: np.ndarray | None = None


@dataclass(frozen=True)
class PairCalibration:
    """Pair model and threshold, and what they were learned on.

    Attributes:
        model: Probability that two photographs show one animal.
        threshold: Mean probability at which clusters are joined, 0 to 1.
        source: What they were learned on, for a message.
    """

    model: PairModel
    threshold: float
    source: str

    @property
    def uses_keypoints(self) -> bool:
        """True if the model needs keypoint scores."""
        return LOCAL_FEATURE in self.model.weights


def calibrate_pairs(
    vectors: np.ndarray, named: Sequence[NamedPhotographs], *, local_scores: np.ndarray | None = None
) -> PairCalibration:
    """Return pair model and threshold, learned on the first of the named sets that is large enough.

    Without one, the default model measures a cosine in standard deviations: its probabilities are a guess.

    Args:
        vectors: Vectors of the photographs that are clustered, shape (N, D).
        named: Sets of named photographs.
        local_scores: Keypoint score of each clustered photograph against each other, shape (N, N); without it the
            scores of the named photographs are not used either.
    """
    for one in named:
        local = None if local_scores is None else one.local_scores
        model = fit_pair_model(one.vectors, one.individuals, local_scores=local)
        if model is not None:
            threshold = learn_threshold(one.vectors, one.individuals, local_scores=local).threshold
            return PairCalibration(model.for_photographs(len(vectors)), threshold, one.source)
    return PairCalibration(default_pair_model(vectors, local_scores=local_scores), DEFAULT_THRESHOLD, "")


class PhotographGrouper:
    """Groups photographs by their answers; called once for each clustering.

    Args:
        vectors: Unit vectors of the photographs, float32, shape (N, D).
        individuals: Individual of each photograph; "" if unknown.
        calibration: Pair model and threshold.
        local_scores: Keypoint score of each photograph against each other, shape (N, N), if the model needs it.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        individuals: list[str],
        calibration: PairCalibration,
        *,
        local_scores: np.ndarray | None = None,
    ) -> None:
        local = local_scores if calibration.uses_keypoints else None
        self._probabilities = compare_photographs(vectors, calibration.model, local_scores=local)
        self._threshold = calibration.threshold
        self._names = {row: name for row, name in enumerate(individuals) if name}
        unanswered = self._cluster(Constraints(names=self._names))
        # Answers must not decide which photographs are drawn: the sample is the same in each clustering.
        self._sample = draw_population_sample(self._probabilities, unanswered)

    def __call__(self, answers: RowAnswers) -> Grouping:
        """Return the grouping under the answers."""
        constraints = Constraints(answers.same, answers.different, self._names)
        guessed = self._with_guesses(answers)
        labels = self._cluster(constraints)
        return Grouping(
            labels,
            photograph_confidences(self._probabilities, labels),
            list(self._questions(labels, constraints, guessed, answers.undecided))[:QUESTIONS],
            find_contradictions(constraints),
            estimate_population(self._sample, guessed),
        )

    def _cluster(self, constraints: Constraints) -> np.ndarray:
        return cluster_photographs(self._probabilities, threshold=self._threshold, constraints=constraints)

    def _questions(
        self, labels: np.ndarray, constraints: Constraints, guessed: Constraints, undecided: tuple[Pair, ...]
    ) -> Iterator[Question]:
        """Yield pairs, every third one for the number of animals; never one for which a person could not tell."""
        asked = {frozenset(pair) for pair in undecided}
        count = QUESTIONS + len(asked)
        best = next_questions(self._probabilities, labels, constraints, count=count)
        drawn = [
            Question(first, second, self._probabilities.between(first, second), 0.0)
            for first, second in self._sample.questions(guessed, count=count // _FOR_CLUSTERS)
        ]
        groups = [best[place : place + _FOR_CLUSTERS] for place in range(0, len(best), _FOR_CLUSTERS)]
        extras = [[one] for one in drawn]
        for one in chain.from_iterable(chain(*both) for both in zip_longest(groups, extras, fillvalue=())):
            if frozenset((one.first, one.second)) not in asked:
                asked.add(frozenset((one.first, one.second)))
                yield one

    def _with_guesses(self, answers: RowAnswers) -> Constraints:
        """Return the constraints with the model's answers to pairs for which a person could not tell."""
        guesses: dict[bool, list[Pair]] = {True: [], False: []}
        for first, second in answers.undecided:
            guesses[self._probabilities.between(first, second) >= 0.5].append((first, second))
        return Constraints((*answers.same, *guesses[True]), (*answers.different, *guesses[False]), self._names)


def photograph_confidences(probabilities: PairProbabilities, labels: np.ndarray) -> np.ndarray:
    """Return the confidence that each photograph belongs to its cluster, float64, shape (N,), as in `Grouping`.

    Args:
        probabilities: Pair probabilities of N photographs.
        labels: Cluster of each photograph, int64, shape (N,).
    """
    confidences = np.ones(len(labels))
    for row, label in enumerate(labels):
        values = probabilities.row(row)
        mates = np.flatnonzero(labels == label)
        mates = mates[mates != row]
        confidences[row] = values[mates].mean() if len(mates) else 1.0 - values.max(initial=0.0)
    return confidences
