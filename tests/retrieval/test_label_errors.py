"""Label errors: planted errors are found, correct labels are not listed, and an empty result has a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from whale_ray.retrieval.label_quality.label_errors import KINDS, LabelErrors, find_label_errors
from whale_ray.retrieval.label_quality.match_vectors import match_vectors
from whale_ray.retrieval.label_quality.nearest_pairs import nearest_pairs
from whale_ray.retrieval.label_quality.united_findings import joined_vectors, unite_findings

NEW = "new_whale"


@dataclass(frozen=True)
class LabelledSet:
    """Vectors of drawn animals: 20 with 5 photographs, 40 unknown ones with one."""

    vectors: np.ndarray
    images: np.ndarray
    individuals: np.ndarray
    parts: np.ndarray

    def doubts(self, **options: float) -> LabelErrors:
        return find_label_errors(
            self.vectors,
            images=self.images,
            individuals=self.individuals,
            parts=self.parts,
            unknown_label=NEW,
            **options,
        )

    def relabelled(self, **names: str) -> LabelledSet:
        individuals = self.individuals.copy()
        for image, name in names.items():
            individuals[self.images == image] = name
        return replace(self, individuals=individuals)


@pytest.fixture
def correct() -> LabelledSet:
    return drawn(noise=0.1)


def drawn(noise: float, scale: float = 1.0) -> LabelledSet:
    """scale: how much of a vector is its own; the rest is common to all, so that all cosines are near to 1."""
    random = np.random.default_rng(0)
    animals = np.repeat(np.arange(60), [5] * 20 + [1] * 40)
    common = random.normal(size=48)
    vectors = random.normal(size=(60, 48))[animals] + noise * random.normal(size=(len(animals), 48)) * np.sqrt(48) / 4
    vectors = scale * vectors + (1 - scale) * 8 * common
    images = np.array([f"{'w' if animal < 20 else 'n'}{animal:02}_{row}" for row, animal in enumerate(animals)])
    individuals = np.array([f"w{animal:02}" if animal < 20 else NEW for animal in animals])
    parts = np.where(np.arange(len(animals)) % 5 == 4, "val", "train")
    return LabelledSet(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), images, individuals, parts)


def found(doubts: LabelErrors, kind: str) -> list[tuple[str, str, str]]:
    rows = doubts.table[doubts.table["kind"] == kind]
    return [(row["image"], row["other_image"], row["suggested"]) for row in rows.to_dict("records")]


def test_correct_labels_give_no_finding(correct: LabelledSet) -> None:
    doubts = correct.doubts()
    assert doubts.table.empty
    assert doubts.reasons == {}


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_wrong_label_is_found_whatever_the_scale_of_the_encoder(scale: float) -> None:
    wrong = drawn(noise=0.1, scale=scale).relabelled(w03_15="w07", w11_59="w02")
    rows = found(wrong.doubts(), "mislabelled")
    assert {(image, suggested) for image, _, suggested in rows} == {("w03_15", "w03"), ("w11_59", "w11")}
    assert all(other.startswith(suggested) for _, other, suggested in rows)


def test_the_cosines_of_the_last_case_are_all_near_to_one() -> None:
    vectors = drawn(noise=0.1, scale=0.3).vectors
    assert (vectors @ vectors.T).min() > 0.7


def test_an_encoder_that_separates_no_individuals_gives_no_confident_finding() -> None:
    noise = drawn(noise=8.0).relabelled(w03_15="w07", w11_59="w02")
    assert noise.doubts().table.empty


def test_an_unknown_photograph_of_a_named_individual_is_found(correct: LabelledSet) -> None:
    assert [row[::2] for row in found(correct.relabelled(w05_27=NEW).doubts(), "recognised")] == [("w05_27", "w05")]


def test_one_animal_under_two_names_is_found(correct: LabelledSet) -> None:
    doubts = correct.relabelled(w05_25="again", w05_26="again").doubts()
    (row,) = doubts.table[doubts.table["kind"] == "same_individual"].to_dict("records")
    assert (row["individual"], row["other_individual"], row["suggested"]) == ("again", "w05", "w05")
    assert row["image"] in ("w05_25", "w05_26")
    assert row["other_image"].startswith("w05_")


def test_two_photographs_of_an_unknown_animal_are_found_and_get_an_unused_name(correct: LabelledSet) -> None:
    twice = correct.relabelled(
        **{f"w09_{row}": NEW for row in range(45, 50)}, **{f"w01_{row}": "new_0001" for row in range(5, 10)}
    )
    rows = found(twice.doubts(), "new_individual")
    assert rows
    assert all(one.startswith("w09") and other.startswith("w09") for one, other, _ in rows)
    assert "new_0001" not in {name for *_, name in rows}


def test_a_higher_confidence_lists_fewer_findings_the_surest_first(correct: LabelledSet) -> None:
    wrong = drawn(noise=1.2).relabelled(w03_15="w07", w11_59="w02", w12_60="w01")
    all_of_them, few = (wrong.doubts(least=least).table for least in (0.3, 0.99))
    assert len(few) < len(all_of_them)
    for _, rows in all_of_them.groupby("kind"):
        assert rows["confidence"].is_monotonic_decreasing
        assert rows["confidence"].between(0.3, 1.0).all()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["w", "w", NEW, "w"], "there is one individual only"),
        ([NEW] * 4, "every photograph is of an unknown animal"),
        (["w", "w", "v", "u"], r"learned from photographs .*, at least 10, but there are 0"),
    ],
)
def test_a_review_without_findings_gives_the_reason(names: list[str], reason: str) -> None:
    columns = {"images": np.array(list("abcd")), "parts": np.array(["train"] * 4)}
    doubts = find_label_errors(np.eye(4), individuals=np.array(names), unknown_label=NEW, **columns)
    assert doubts.table.empty
    assert set(doubts.reasons) == set(KINDS)
    assert all(re.search(reason, found) for found in doubts.reasons.values())


def test_without_unknown_animals_the_reason_says_so(correct: LabelledSet) -> None:
    named = correct.individuals != NEW
    columns = {
        "images": correct.images[named],
        "individuals": correct.individuals[named],
        "parts": correct.parts[named],
    }
    doubts = find_label_errors(correct.vectors[named], **columns, unknown_label=NEW)
    assert set(doubts.reasons) == {"recognised", "new_individual"}


def test_nearest_pairs_are_each_named_once_the_nearest_first() -> None:
    angles = np.array([0.0, 0.01, 1.0, 1.02, 3.0])
    pairs = nearest_pairs(np.stack([np.cos(angles), np.sin(angles)], axis=1), depth=1)
    assert pairs.tolist() == [[0, 1], [2, 3], [3, 4]]
    assert nearest_pairs(np.ones((1, 2))).shape == (0, 2)


def united(labelled: LabelledSet, encoders: list[np.ndarray], matcher: np.ndarray | None) -> LabelErrors:
    columns = {"images": labelled.images, "individuals": labelled.individuals, "parts": labelled.parts}
    return unite_findings(encoders, matcher, **columns, unknown_label=NEW)


def memorized(labelled: LabelledSet) -> np.ndarray:
    """Return vectors of an encoder that has learned every label by heart, the wrong ones too."""
    named = np.flatnonzero(labelled.individuals != NEW)
    vectors = labelled.vectors.copy()
    centers = {
        name: labelled.vectors[labelled.individuals == name].mean(axis=0) for name in labelled.individuals[named]
    }
    vectors[named] = 0.3 * vectors[named] + np.stack([centers[name] for name in labelled.individuals[named]])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def match_scores(labelled: LabelledSet, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of a matcher, large for photographs of one animal, and the rows of the gallery."""
    gallery = np.flatnonzero(labelled.individuals != NEW)
    animals = np.array([image[:3] for image in labelled.images])
    random = np.random.default_rng(seed)
    scores = random.exponential(0.1, (len(animals), len(gallery)))
    scores += (animals[:, None] == animals[gallery]) * random.exponential(6.0, scores.shape)
    scores[gallery, np.arange(len(gallery))] = 0.0
    return scores, gallery


def test_one_encoder_alone_gives_its_own_findings(correct: LabelledSet) -> None:
    wrong = correct.relabelled(w03_15="w07", w05_27=NEW, w09_45="again", w09_46="again")
    assert united(wrong, [wrong.vectors], None).table.equals(wrong.doubts().table)


def test_encoders_together_find_what_each_alone_is_unsure_of() -> None:
    wrong = drawn(noise=1.2).relabelled(w03_15="w07", w11_59="w02")
    noise = np.random.default_rng(5).normal(size=(3, *wrong.vectors.shape)) * 0.13
    encoders = [wrong.vectors + one for one in noise]
    encoders = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in encoders]
    together = found(united(wrong, encoders, None), "mislabelled")
    alone = [found(united(wrong, [one], None), "mislabelled") for one in encoders]
    assert len(together) >= max(map(len, alone))
    assert {image for image, *_ in together} <= {"w03_15", "w11_59"}


def test_joined_vectors_have_the_mean_of_the_cosines() -> None:
    random = np.random.default_rng(0)
    ones, others = random.normal(size=(6, 5)), random.normal(size=(6, 3))
    ones, others = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (ones, others))
    both = joined_vectors([ones, others])
    np.testing.assert_allclose(both @ both.T, (ones @ ones.T + others @ others.T) / 2)


def test_a_matcher_finds_the_wrong_labels_that_an_encoder_has_learned_by_heart(correct: LabelledSet) -> None:
    wrong = correct.relabelled(w03_15="w07", w11_59="w02", w14_74="w00")
    encoder = memorized(wrong)
    assert not found(united(wrong, [encoder], None), "mislabelled")
    matcher = match_vectors(*match_scores(wrong))
    rows = found(united(wrong, [encoder], matcher), "mislabelled")
    assert {(image, suggested) for image, _, suggested in rows} == {
        ("w03_15", "w03"),
        ("w11_59", "w11"),
        ("w14_74", "w14"),
    }


def test_with_a_matcher_correct_labels_give_no_finding(correct: LabelledSet) -> None:
    assert united(correct, [correct.vectors], match_vectors(*match_scores(correct))).table.empty


def test_each_finding_is_listed_once_and_a_double_name_explains_its_photographs(correct: LabelledSet) -> None:
    wrong = correct.relabelled(w03_15="w07", w05_25="again", w05_26="again", w08_40=NEW)
    doubts = united(wrong, [wrong.vectors], match_vectors(*match_scores(wrong)))
    assert [(row["kind"], row["image"][:3]) for row in doubts.table.to_dict("records")] == [
        ("mislabelled", "w03"),
        ("recognised", "w08"),
        ("same_individual", "w05"),
    ]


def test_match_vectors_keep_the_order_of_the_matches(correct: LabelledSet) -> None:
    scores, gallery = match_scores(correct)
    vectors = match_vectors(scores, gallery)
    assert len(vectors) == len(correct.images)
    assert vectors.shape[1] <= 128
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    cosines = vectors @ vectors[gallery].T
    cosines[gallery, np.arange(len(gallery))] = -1.0
    animals = np.array([image[:3] for image in correct.images])
    known = np.isin(animals, animals[gallery])
    assert (animals[gallery][cosines.argmax(axis=1)] == animals)[known].mean() > 0.95


@pytest.mark.parametrize("scores", [np.zeros((4, 3)), np.full((4, 3), 7.0)])
def test_scores_that_tell_nothing_give_finite_vectors(scores: np.ndarray) -> None:
    vectors = match_vectors(scores, np.array([0, 1, 3]))
    assert np.isfinite(vectors).all()
