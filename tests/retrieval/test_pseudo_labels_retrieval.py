"""Pseudo-labels of unknown photographs: accuracy and calibration of their probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from whale_ray.retrieval.label_quality.pseudo_labels import PseudoLabels, adjust_to_share, propose_labels
from whale_ray.retrieval.search.gallery_index import GalleryIndex


def clusters(seed: int = 0, *, known: int = 80, strangers: int = 80, noise: float = 0.75) -> dict[str, np.ndarray]:
    """Unit-free vectors of known individuals and of strangers: gallery, held and unknown photographs."""
    numbers = np.random.default_rng(seed)
    centres = numbers.normal(size=(known + strangers, 24))

    def photographs(individuals: np.ndarray) -> np.ndarray:
        return centres[individuals] + noise * numbers.normal(size=(len(individuals), 24))

    everyone = np.arange(known)
    gallery, held = np.repeat(everyone, 2), np.repeat(everyone, 2)
    unknown = np.concatenate([everyone[:40], known + np.tile(np.arange(strangers), 4)])
    return {
        "gallery": photographs(gallery),
        "individuals": gallery.astype(str),
        "held": photographs(held),
        "names": held.astype(str),
        "unknown": photographs(unknown),
        "truth": unknown.astype(str),
    }


def guessed(parts: dict[str, np.ndarray]) -> PseudoLabels:
    index = GalleryIndex(parts["gallery"], parts["individuals"])
    return propose_labels(parts["unknown"], index, held=parts["held"], names=parts["names"])


def test_the_pseudo_label_is_the_nearest_individual() -> None:
    parts = clusters()
    unit = {key: parts[key] / np.linalg.norm(parts[key], axis=1, keepdims=True) for key in ("gallery", "unknown")}
    nearest = parts["individuals"][(unit["unknown"] @ unit["gallery"].T).argmax(axis=1)]
    assert (guessed(parts).individuals == nearest).mean() > 0.99  # float16 may turn a near tie


def test_probabilities_are_calibrated_although_most_unknown_animals_are_new() -> None:
    predicted, happened = [], []
    for seed in range(6):
        parts = clusters(seed)
        guesses = guessed(parts)
        sure = guesses.probabilities >= 0.8
        predicted += guesses.probabilities[sure].tolist()
        happened += (guesses.individuals == parts["truth"])[sure].tolist()
    assert len(predicted) > 30
    assert abs(np.mean(happened) - np.mean(predicted)) < 0.1


@pytest.mark.parametrize("held", [0, 4])
def test_no_probability_with_too_few_held_out_photographs(held: int) -> None:
    parts = clusters()
    parts |= {"held": parts["held"][:held], "names": parts["names"][:held]}
    guesses = guessed(parts)
    assert np.isnan(guesses.probabilities).all()
    assert len(guesses.individuals) == len(parts["unknown"])


def test_without_unknown_photographs_there_are_no_pseudo_labels() -> None:
    parts = clusters()
    assert len(guessed(parts | {"unknown": parts["unknown"][:0]}).individuals) == 0


@pytest.mark.parametrize("truth", [0.05, 0.2, 0.4])
def test_the_share_of_right_answers_is_estimated_if_smaller_than_in_training(truth: float) -> None:
    numbers = np.random.default_rng(1)
    right = numbers.random(20_000) < truth
    score = numbers.normal(np.where(right, 1.0, -1.0))
    at_half = 1 / (1 + np.exp(-2 * score))  # Bayes for two such bells, each as frequent as the other
    adjusted = adjust_to_share(at_half, 0.5)
    exact = truth * at_half / (truth * at_half + (1 - truth) * (1 - at_half))
    assert adjusted.mean() == pytest.approx(truth, abs=0.02)
    assert np.abs(adjusted - exact).max() < 0.06


def test_the_estimated_share_never_exceeds_that_of_training() -> None:
    probabilities = np.array([0.9, 0.99, 0.95, 0.97])
    assert adjust_to_share(probabilities, 0.3).tolist() == pytest.approx(probabilities.tolist())
