import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from whale_ray.retrieval.evaluation.open_set_metrics import auroc, open_set_scores


def draw(queries=200, seed=0):
    random = np.random.default_rng(seed)
    known = random.random(queries) < 0.6
    cosines = np.round(random.normal(np.where(known, 0.7, 0.5), 0.15), 2)  # rounded: ties
    return cosines, known, random


def test_auroc_is_that_of_scikit_learn_with_ties_and_with_weights():
    cosines, known, random = draw()
    weights = random.integers(0, 4, (3, len(cosines))).astype(float)
    assert auroc(cosines, known)[0] == pytest.approx(roc_auc_score(known, cosines), abs=1e-12)
    expected = [roc_auc_score(known, cosines, sample_weight=row) for row in weights]
    assert auroc(cosines, known, weights) == pytest.approx(expected, abs=1e-12)


def test_auroc_of_one_class_is_undefined():
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True]))).all()
    assert np.isnan(auroc(np.zeros(0), np.zeros(0, dtype=bool))).all()


def test_baks_and_baus_count_each_individual_once():
    cosines, known, random = draw()
    clusters = np.where(known, random.integers(0, 12, len(known)), 100 + random.integers(0, 20, len(known))).astype(str)
    said_new = cosines < 0.6
    right = known & ~said_new & (random.random(len(known)) < 0.8)
    scores = open_set_scores(cosines, right, said_new, known=known, clusters=clusters)
    # A label is right for the individual or `?`: scikit-learn's balanced accuracy is the mean recall of its classes.
    answers = np.where(right, clusters, "?")
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(clusters[known], answers[known])
    assert scores["baks"] == pytest.approx(expected)
    shares = [said_new[(clusters == name) & ~known].mean() for name in np.unique(clusters[~known])]
    assert scores["baus"] == pytest.approx(np.mean(shares))
    for name in ("auroc", "baks", "baus"):
        assert scores[f"{name}_low"] < scores[name] < scores[f"{name}_high"]


def test_the_interval_of_auroc_resamples_individuals_and_not_photographs():
    cosines, known, _ = draw(400)
    alone = np.arange(len(known)).astype(str)
    few = np.where(known, np.arange(len(known)) % 8, 100 + np.arange(len(known)) % 8).astype(str)
    shifted = cosines + 0.2 * (np.arange(len(known)) % 8) / 8  # what an individual's photographs share
    wide, narrow = (open_set_scores(shifted, known, None, known=known, clusters=clusters) for clusters in (few, alone))
    assert wide["auroc"] == narrow["auroc"]
    assert wide["auroc_high"] - wide["auroc_low"] > narrow["auroc_high"] - narrow["auroc_low"]


@pytest.mark.parametrize("everyone", [True, False])
def test_without_known_or_without_new_queries_there_is_no_open_set_score(everyone):
    known = np.full(8, everyone)
    scores = open_set_scores(np.linspace(0, 1, 8), known, ~known, known=known, clusters=np.arange(8).astype(str))
    assert set(scores.values()) == {None}


def test_few_individuals_have_scores_without_an_interval():
    cosines, known = np.array([0.9, 0.8, 0.3]), np.array([True, True, False])
    scores = open_set_scores(cosines, known, ~known, known=known, clusters=np.array(["a", "b", "c"]))
    assert (scores["auroc"], scores["baks"], scores["baus"]) == (1.0, 1.0, 1.0)
    assert scores["auroc_low"] is scores["baks_low"] is scores["baus_high"] is None
