"""Strangers in a sweep and its bundle: the probability of a new animal with a cohort, answered as it was measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.errors import BundleError
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.evaluation.calibration import Calibration, LogisticModel, read_calibration
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import EncounterCalibration
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion import stranger_cohort
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.rescoring import rescore_for_good
from whale_ray.sweep.execution.export_bundle import make_bundle
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.run_folder.leaderboard import finished_trials
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import Scoring, roles

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

SETTINGS = [RetrievalSetting(), RetrievalSetting("centroid", flip="average", whiten="pca", whitened_size=8)]


@pytest.fixture(scope="module")
def dataset(write_sweep: Any) -> Dataset:
    sweep = write_sweep()
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())


@pytest.fixture
def scored(finished: SweepResult, tmp_path: Path, request: pytest.FixtureRequest) -> Record:
    """A trial of a finished sweep, scored with one retrieval setting."""
    trial = next(one for one in finished_trials(finished.table) if not one.startswith("baseline"))
    record = read_record(shutil.copytree(finished.folder / "trials" / trial, tmp_path / "trials" / trial))
    rescore_for_good(record, Scoring((getattr(request, "param", SETTINGS[0]),), "recall@1"))
    return read_record(record.folder)


@pytest.fixture
def few_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stranger_cohort, "FEWEST", 2)


@pytest.mark.usefixtures("few_strangers")
@pytest.mark.parametrize("scored", SETTINGS, indirect=True, ids=str)
def test_the_bundle_says_new_as_the_trial_was_scored_to_the_last_digit(
    scored: Record, dataset: Dataset, tmp_path: Path
) -> None:
    setting = RetrievalSetting(**{one.name: scored.result[one.name] for one in dataclasses.fields(RetrievalSetting)})
    calibration = read_calibration(scored.result["calibration"])
    assert calibration.has_strangers
    bundle = Bundle.load(make_bundle(scored, dataset, run=tmp_path, examples=0, thumbnails=False))
    views, table = read_embeddings(scored.folder)
    held = SearchRuns(views, [setting], splits=table["split"].to_numpy(), **roles(table, scored.settings))
    outcome, (run,) = held.outcome(setting), held.runs
    train, unknown = (table["part"] == "train").to_numpy(), (table["individual"] == "new_whale").to_numpy()
    assert bundle.contents.cohort is not None
    assert len(bundle.contents.cohort) == unknown.sum()
    kept = train[~unknown]
    contents = dataclasses.replace(
        bundle.contents,
        gallery=bundle.contents.gallery[kept],
        table=bundle.contents.table[kept].reset_index(drop=True),
        cohort=bundle.contents.cohort[train[unknown]],
    )
    measured = Bundle(contents)
    assert measured.decision is not None
    expected = measured.decision.of_new(calibration.of_new(outcome.cosines, strangers=outcome.strangers))
    vectors = run.searcher(setting.transform)[0]
    answers = measured.rank(vectors)
    assert [one.new_individual.probability for one in answers] == expected.tolist()
    assert len({*expected.tolist()}) > 10
    (alone,) = measured.rank(vectors[:1])
    assert alone == answers[0]


@pytest.mark.usefixtures("few_strangers")
def test_encounters_are_new_by_the_strangers_of_their_mean(scored: Record, dataset: Dataset, tmp_path: Path) -> None:
    base = Calibration(LogisticModel(-1.0, 2.0, 3.0, 0.5), LogisticModel(1.0, -3.0, 0.0, 0.0, 5.0))
    encounters = EncounterCalibration(base, match_slope=0.1, new_slope=0.2, threshold=0.4)
    result = scored.result | {"encounter_calibration": json.loads(json.dumps(encounters.written()))}
    record = dataclasses.replace(scored, result=result)
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False))
    assert bundle.encounters == encounters
    assert bundle.cohort is not None
    assert bundle.decision is not None
    vectors = normalize_rows(bundle.contents.gallery[:4].reshape(2, 2, -1).sum(axis=1))
    answers = bundle.rank(vectors, photographs=[2, 3])
    for answer, vector, count in zip(answers, vectors, (2, 3), strict=True):
        strangers = bundle.cohort.stranger_cosines(vector[None])[0]
        logit = 1.0 - 3.0 * answer.candidates[0].score + 5.0 * strangers + 0.2 * np.log(count)
        expected = bundle.decision.of_new(np.array(1 / (1 + np.exp(-logit))))
        assert answer.new_individual.probability == pytest.approx(float(expected))


@pytest.mark.usefixtures("few_strangers")
def test_a_bundle_without_the_cohort_that_it_needs_is_refused(scored: Record, dataset: Dataset, tmp_path: Path) -> None:
    contents = read_bundle(make_bundle(scored, dataset, run=tmp_path, examples=0, thumbnails=False))
    with pytest.raises(BundleError, match="needs the cohort of the bundle"):
        Bundle(dataclasses.replace(contents, cohort=None))


def test_without_enough_strangers_a_bundle_has_no_cohort(scored: Record, dataset: Dataset, tmp_path: Path) -> None:
    made = make_bundle(scored, dataset, run=tmp_path, examples=0, thumbnails=False)
    assert not (made / "cohort.npy").exists()
    assert {*scored.result["calibration"]["new"]} == {"intercept", "cosine", "lead", "first"}
    assert Bundle.load(made).cohort is None
