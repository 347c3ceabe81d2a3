"""Predictor: from photographs to ranked individuals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.errors import ImageDecodeError, ImageTypeError
from whale_ray.inference.predictions import Candidate, Identification, NewIndividual
from whale_ray.inference.predictor import Bundle

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult


@pytest.fixture(scope="module")
def bundle(finished: SweepResult) -> Bundle:
    assert finished.bundle
    return Bundle.load(finished.folder / "best")


@pytest.fixture(scope="module")
def test_images(photographs: Path) -> list[Path]:
    return sorted((photographs / "test").glob("*.jpg"))


def with_setting(bundle: Bundle, **retrieval: object) -> Bundle:
    """The same recogniser with another retrieval setting."""
    setting = {"vote": "nearest", "neighbours": None, "temperature": 0.05, "flip": "none"} | retrieval
    return Bundle(dataclasses.replace(bundle.contents, manifest=bundle.card | {"retrieval": setting}))


def test_candidates_are_distinct_individuals_of_the_gallery_ranked_from_one(
    bundle: Bundle, test_images: list[Path]
) -> None:
    for answer in bundle.identify(test_images, top=5):
        names = [candidate.individual for candidate in answer.candidates]
        assert len(names) == len(set(names)) == 5
        assert set(names) <= set(bundle.individuals) - {"new_whale"}
        assert [candidate.rank for candidate in answer.candidates] == [1, 2, 3, 4, 5]
        for candidate in answer.candidates:
            assert bundle.images[candidate.row] == candidate.image
            assert bundle.individuals[candidate.row] == candidate.individual
            assert 0 <= candidate.distance <= 2
            assert candidate.probability is None or 0 <= candidate.probability <= 1


def test_nearest_gives_each_individual_the_cosine_distance_of_its_nearest_image(
    bundle: Bundle, test_images: list[Path]
) -> None:
    nearest = with_setting(bundle)
    vectors = nearest.embed([nearest.prepare(path) for path in test_images])
    gallery = bundle.contents.gallery.astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    for cosines, answer in zip(vectors @ gallery.T, nearest.rank(vectors, top=50), strict=True):
        best = pd.Series(1 - cosines).groupby(bundle.individuals).min().sort_values()
        assert [candidate.individual for candidate in answer.candidates] == best.index.tolist()
        np.testing.assert_allclose([candidate.distance for candidate in answer.candidates], best, atol=1e-5)


def test_a_gallery_photograph_finds_itself(bundle: Bundle, photographs: Path) -> None:
    rows = range(0, len(bundle.images), 7)
    answers = with_setting(bundle).identify([photographs / "train" / bundle.images[row] for row in rows], top=1)
    assert [answer.candidates[0].image for answer in answers] == [bundle.images[row] for row in rows]
    assert max(answer.candidates[0].distance for answer in answers) < 0.01


def test_the_embedding_is_that_of_the_sweep(bundle: Bundle, photographs: Path) -> None:
    """Training's scores hold in service only where both see the same pixels."""
    rows = range(0, len(bundle.images), 5)
    found = bundle.embed([bundle.prepare(photographs / "train" / bundle.images[row]) for row in rows])
    stored = bundle.contents.gallery[list(rows)].astype(np.float32)
    assert (1 - np.sum(found * stored, axis=1)).max() < 5e-3


def test_a_path_bytes_and_a_picture_give_the_same_answer(bundle: Bundle, test_images: list[Path]) -> None:
    path = test_images[0]
    with Image.open(path) as picture:
        answers = bundle.identify([path, str(path), path.read_bytes(), picture])
    assert answers.count(answers[0]) == 4


def test_a_photograph_has_the_same_answer_alone_and_among_others(bundle: Bundle, test_images: list[Path]) -> None:
    together = bundle.identify(test_images, top=3)
    for path, answer in zip(test_images, together, strict=True):
        (alone,) = bundle.identify([path], top=3)
        assert [one.individual for one in alone.candidates] == [one.individual for one in answer.candidates]


def test_the_flipped_view_counts_if_the_setting_averages_it(bundle: Bundle, test_images: list[Path]) -> None:
    plain, average = with_setting(bundle), with_setting(bundle, flip="average")
    array = plain.prepare(test_images[0])
    mirrored = array[:, ::-1]
    assert not np.allclose(plain.embed([array]), plain.embed([mirrored]), atol=1e-4)
    np.testing.assert_allclose(average.embed([array]), average.embed([mirrored]), atol=2e-3)


def test_the_decision_is_new_below_the_threshold_and_known_from_it_on(bundle: Bundle, test_images: list[Path]) -> None:
    (answer,) = bundle.identify(test_images[:1], top=50)
    cosine = 1 - min(candidate.distance for candidate in answer.candidates)
    decisions = []
    for threshold in (cosine - 1e-7, cosine - 0.01, cosine + 1e-7, cosine + 0.01, None):
        other = Bundle(
            dataclasses.replace(bundle.contents, manifest=bundle.card | {"threshold": threshold, "decision": None})
        )
        decisions += [one.new_individual.decision for one in other.identify(test_images[:1], top=1)]
    assert decisions == ["known", "known", "new", "new", "known"]


def test_an_empty_list_of_photographs_has_no_answers(bundle: Bundle) -> None:
    assert bundle.identify([]) == []


@pytest.mark.parametrize("top", [0, 51, -1])
def test_another_number_of_candidates_is_refused(bundle: Bundle, test_images: list[Path], top: int) -> None:
    with pytest.raises(ValueError, match=rf"1 <= top <= 50.*got {top}"):
        bundle.identify(test_images[:1], top=top)


def test_more_candidates_than_individuals_returns_all_individuals(bundle: Bundle, test_images: list[Path]) -> None:
    (answer,) = bundle.identify(test_images[:1], top=50)
    assert {one.individual for one in answer.candidates} == set(bundle.individuals)


def test_a_file_that_is_no_photograph_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ImageTypeError):
        bundle.identify([b"a text"])
    with pytest.raises(ImageDecodeError):
        bundle.identify([b""])


def answer_with(*cosines: float) -> Identification:
    candidates = (
        Candidate(place + 1, name, distance=1 - cosine, score=cosine, probability=None, image="", row=0)
        for place, (name, cosine) in enumerate(zip("abcdef", cosines, strict=False))
    )
    return Identification(NewIndividual(None, "known"), tuple(candidates))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.95, ["new", "a", "b", "c", "d"]),
        (0.75, ["a", "new", "b", "c", "d"]),
        (0.5, ["a", "b", "c", "new", "d"]),
        (0.1, ["a", "b", "c", "d", "e"]),
        (None, ["a", "b", "c", "d", "e"]),
    ],
)
def test_the_unknown_label_comes_before_the_first_candidate_below_the_threshold(
    threshold: float | None, expected: list[str]
) -> None:
    answer = answer_with(0.9, 0.7, 0.6, 0.4, 0.3, 0.2)
    assert answer.labels(unknown_label="new", count=5, threshold=threshold) == expected


def test_with_a_vote_the_first_candidate_below_the_threshold_may_be_nearer_than_a_later_one() -> None:
    """A vote does not order by cosine: it is the first in its order that counts."""
    answer = answer_with(0.5, 0.9, 0.8)
    assert answer.labels(unknown_label="new", threshold=0.6) == ["new", "a", "b", "c"]


def test_the_unknown_label_is_last_if_few_individuals_are_all_above_the_threshold() -> None:
    assert answer_with(0.9, 0.8).labels(unknown_label="new", threshold=0.5) == ["a", "b", "new"]
