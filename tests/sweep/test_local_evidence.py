"""Local features in a sweep and its bundle: gathered once, scored, exported, and answered as they were measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from keypoint_networks import write_matcher, write_network

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.errors import BundleError, InputError
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.kaggle_submission import write_submission
from whale_ray.inference.keypoints.keypoint_matcher import KeypointMatcher, read_named
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.evaluation.calibration import read_calibration
from whale_ray.retrieval.evaluation.encounters.encounter_rankings import ask_encounters
from whale_ray.retrieval.evaluation.encounters.encounter_sets import EncounterSet
from whale_ray.retrieval.evaluation.encounters.fused_encounters import encounter_candidates, held_out_candidates
from whale_ray.retrieval.evaluation.searches.search_runs import SearchRuns
from whale_ray.retrieval.fusion import fusion_model, stranger_cohort
from whale_ray.retrieval.fusion.fusion_model import read_fusion_model
from whale_ray.retrieval.local import shortlists
from whale_ray.retrieval.local.evidence import LocalEvidence
from whale_ray.retrieval.local.feature_store import join_features
from whale_ray.retrieval.local.learned.network_registry import kind_of, matcher_of, network_files
from whale_ray.retrieval.local.local_features import LocalFeatures, no_features
from whale_ray.retrieval.local.shortlists import ShortlistComparison
from whale_ray.retrieval.local.verification import verify
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.per_query_scores import of_settings
from whale_ray.sweep.analysis.rescoring import rescore_for_good
from whale_ray.sweep.execution.export_bundle import make_bundle
from whale_ray.sweep.execution.gather_local_evidence import gather_local_evidence
from whale_ray.sweep.execution.preparation import check_inputs
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.report.example_matches import find_examples
from whale_ray.sweep.report.keypoint_pictures import with_keypoints
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.leaderboard import finished_trials
from whale_ray.sweep.run_folder.local_evidence import (
    evidence_name,
    photographs_to_hold_out,
    read_local_evidence,
    write_local_features,
)
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.run_folder.setting_queries import FILE
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import Scoring, roles

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

FUSED = RetrievalSetting(flip="average", local="sift")
SETTINGS = (RetrievalSetting(flip="average"), FUSED)


@pytest.fixture(scope="module")
def dataset(write_sweep: Any) -> Dataset:
    sweep = write_sweep()
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())


def score_with_keypoints(
    finished: SweepResult, dataset: Dataset, write_sweep: Any, run: Path, *, local: str = "sift"
) -> None:
    """Scores one trial of a finished sweep with local features in another run folder, and makes its bundle."""
    trial = next(one for one in finished_trials(finished.table) if not one.startswith("baseline"))
    folder = shutil.copytree(finished.folder / "trials" / trial, run / "trials" / trial)
    said: list[str] = []
    for _ in range(2):
        gather_local_evidence(write_sweep(f"retrieval.local=[none,{local}]"), dataset, run, say=said.append)
    assert len(said) == 1
    rescore_for_good(read_record(folder), Scoring((dataclasses.replace(FUSED, local=local),), "recall@1"))
    make_bundle(read_record(folder), dataset, run=run, examples=0, thumbnails=False)


@pytest.fixture(scope="module", autouse=True)
def fewest_candidates() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_model, "FEWEST", 3)  # there are 17 known queries
        yield


@pytest.fixture(scope="module")
def run(finished: SweepResult, dataset: Dataset, write_sweep: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one trial, scored with local features, and its bundle."""
    run = tmp_path_factory.mktemp("local")
    score_with_keypoints(finished, dataset, write_sweep, run)
    return run


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("networks") / "grid.onnx")


@pytest.fixture(scope="module")
def run_of_shortlists(
    finished: SweepResult,
    dataset: Dataset,
    write_sweep: Any,
    network: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The same with the keypoints of a network, and with shortlists, as of a large gallery."""
    run = tmp_path_factory.mktemp("shortlists")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlists, "WHOLE_GALLERY_UP_TO", 0)
        patch.setattr(shortlists, "SHORTLIST", 9)
        score_with_keypoints(finished, dataset, write_sweep, run, local=str(network))
    return run


@pytest.fixture(scope="module")
def networks(network: Path) -> str:
    """The setting with the keypoint network and a match network."""
    return f"{network}+{write_matcher(network.with_name('glue.onnx'))}"


@pytest.fixture(scope="module")
def run_of_matcher(
    finished: SweepResult, dataset: Dataset, write_sweep: Any, networks: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same with the keypoints of a network, matched by a network."""
    run = tmp_path_factory.mktemp("matcher")
    score_with_keypoints(finished, dataset, write_sweep, run, local=networks)
    return run


@pytest.fixture(scope="module")
def run_of_cohort(
    finished: SweepResult, dataset: Dataset, write_sweep: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same with enough unknown animals for a cohort."""
    run = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stranger_cohort, "FEWEST", 2)
        score_with_keypoints(finished, dataset, write_sweep, run)
    return run


def only_trial(run: Path) -> Record:
    return read_record(next((run / "trials").iterdir()))


@pytest.fixture
def record(run: Path) -> Record:
    return only_trial(run)


def test_a_sweep_without_local_features_gathers_nothing(dataset: Dataset, write_sweep: Any, tmp_path: Path) -> None:
    gather_local_evidence(write_sweep(), dataset, tmp_path, say=pytest.fail)
    assert not [*tmp_path.iterdir()]


def test_the_setting_is_chosen_and_its_fusion_kept(record: Record) -> None:
    assert record.result["local"] == "sift"
    assert read_fusion_model(record.result["fusion"])
    table = pd.read_csv(record.folder / "retrieval.csv")
    assert table["local"].tolist() == ["sift"]


def with_measured_gallery(bundle: Bundle, table: pd.DataFrame) -> Bundle:
    """The bundle with the gallery that its trial was scored with: the photographs of the training part."""
    parts = table.set_index("image")["part"]
    rows = np.flatnonzero((parts[bundle.images] == "train").to_numpy())
    assert bundle.contents.keypoints is not None
    gallery, strangers = bundle.contents.keypoints.gallery.subset(rows), bundle.contents.cohort
    if strangers is not None:
        strangers = strangers[(table.loc[table["individual"] == "new_whale", "part"] == "train").to_numpy()]
    return Bundle(
        dataclasses.replace(
            bundle.contents,
            gallery=bundle.contents.gallery[rows],
            table=bundle.contents.table.iloc[rows].reset_index(drop=True),
            keypoints=bundle.contents.keypoints._replace(gallery=gallery),
            cohort=strangers,
        )
    )


@pytest.mark.parametrize(
    ("folder", "size"), [("run", 0), ("run_of_shortlists", 9), ("run_of_matcher", 0), ("run_of_cohort", 0)]
)
def test_the_bundle_ranks_as_the_trial_was_scored_to_the_last_digit(
    request: pytest.FixtureRequest, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, folder: str, size: int
) -> None:
    run: Path = request.getfixturevalue(folder)
    bundle, record = Bundle.load(run / "best"), only_trial(run)
    assert bundle.keypoints is not None
    assert bundle.keypoints.shortlist == size
    scored = dataclasses.replace(FUSED, local=record.result["local"])
    assert bundle.setting == dataclasses.replace(FUSED, local=kind_of(scored.local))
    assert bundle.threshold == record.result["threshold"]
    views, table = read_embeddings(record.folder)
    options = {"table": table, "unknown_label": "new_whale"}
    evidence = read_local_evidence(run, [scored.local], **options)
    monkeypatch.setattr(stranger_cohort, "FEWEST", 2 if folder == "run_of_cohort" else stranger_cohort.FEWEST)
    splits = table["split"].to_numpy()
    held = SearchRuns(views, [scored], splits=splits, evidence=evidence, **roles(table, record.settings))
    candidates = held.candidates(scored)
    expected = candidates.ranked(read_fusion_model(record.result["fusion"]).scores(candidates.features))
    calibration, strangers = read_calibration(record.result["calibration"]), held.outcome(scored).strangers
    assert calibration.has_strangers == (folder == "run_of_cohort")
    new = calibration.of_new(expected.cosines, strangers=strangers)
    measured = with_measured_gallery(bundle, table)
    assert measured.decision is not None
    new = measured.decision.of_new(new)
    stored = {image: row for row, image in enumerate(bundle.images)}
    assert measured.keypoints is not None
    asked = [place for place, row in enumerate(held.rows) if table["image"].iloc[row] in stored]
    assert len(asked) > 10
    for place in asked:
        image = table["image"].iloc[held.rows[place]]
        vector = normalize_rows(bundle.contents.gallery[[stored[image]]])
        local = measured.keypoints.extract(dataset.catalog.decode(image))
        (answer,) = measured.rank(vector, top=50, local=[local])
        count = len(answer.candidates)
        names = measured.gallery.searcher.index.names[expected.individuals[place, :count]].tolist()
        assert [one.individual for one in answer.candidates] == names
        assert [one.score for one in answer.candidates] == expected.cosines[place, :count].tolist()
        assert answer.new_individual.probability == new[place]
        for one in answer.candidates:
            cosines = measured.contents.gallery.astype(np.float32) @ vector[0]
            nearest = cosines[np.array(measured.individuals) == one.individual].max()
            assert one.distance == pytest.approx(1 - nearest, abs=2e-3)


@pytest.mark.parametrize("folder", ["run", "run_of_shortlists", "run_of_cohort"])
def test_the_bundle_ranks_encounters_as_a_trial_is_scored_to_the_last_digit(
    request: pytest.FixtureRequest, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    run: Path = request.getfixturevalue(folder)
    monkeypatch.setattr(stranger_cohort, "FEWEST", 2 if folder == "run_of_cohort" else stranger_cohort.FEWEST)
    bundle, record = Bundle.load(run / "best"), only_trial(run)
    scored = dataclasses.replace(FUSED, local=record.result["local"])
    views, table = read_embeddings(record.folder)
    evidence = read_local_evidence(run, [scored.local], table=table, unknown_label="new_whale")
    splits = table["split"].to_numpy()
    held = SearchRuns(views, [scored], splits=splits, evidence=evidence, **roles(table, record.settings))
    asking = [rows.to_numpy()[:3] for rows in held_groups(held, table)]
    (asked,) = ask_encounters(held, scored, EncounterSet(tuple(asking), np.zeros(len(asking), dtype=bool)))
    candidates = encounter_candidates(asked, scored)
    expected = candidates.ranked(read_fusion_model(record.result["fusion"]).scores(candidates.features))
    measured = with_measured_gallery(bundle, table)
    assert measured.keypoints is not None
    measured.keypoints = KeypointMatcher(measured.setting, record.result["fusion"], None, measured.cohort)
    for place, rows in enumerate(asking):
        stored = [bundle.images.index(table["image"].iloc[row]) for row in rows]
        local = [measured.keypoints.extract(dataset.catalog.decode(bundle.images[row])) for row in stored]
        mean = normalize_rows(normalize_rows(bundle.contents.gallery[stored]).sum(axis=0)[None])
        (answer,) = measured.rank(mean, top=50, photographs=[len(rows)], local=[local])
        count = len(answer.candidates)
        names = measured.gallery.searcher.index.names[expected.individuals[place, :count]].tolist()
        assert [one.individual for one in answer.candidates] == names
        assert [one.score for one in answer.candidates] == expected.cosines[place, :count].tolist()
        assert {type(one.matched_points) for one in answer.candidates} == {int}


@pytest.mark.parametrize("folder", ["run", "run_of_shortlists"])
def test_known_encounters_are_compared_without_the_photographs_of_their_individual(
    request: pytest.FixtureRequest, folder: str
) -> None:
    run: Path = request.getfixturevalue(folder)
    record = only_trial(run)
    scored = dataclasses.replace(FUSED, local=record.result["local"])
    views, table = read_embeddings(record.folder)
    evidence = read_local_evidence(run, [scored.local], table=table, unknown_label="new_whale")
    splits = table["split"].to_numpy()
    held = SearchRuns(views, [scored], splits=splits, evidence=evidence, **roles(table, record.settings))
    images = photographs_to_hold_out(table, unknown_label="new_whale")[0]
    rows = [one.to_numpy() for one in held_groups(held, table) if table["image"].iloc[one].isin(images).all()]
    assert rows
    (asked,) = ask_encounters(held, scored, EncounterSet(tuple(rows), np.zeros(len(rows), dtype=bool)))
    whole, without = encounter_candidates(asked, scored), held_out_candidates(asked, scored)
    assert without is not None
    assert (whole.individuals == asked.truth[:, None]).any(axis=1).all()
    assert not (without.individuals == asked.truth[:, None]).any()
    assert np.isfinite(without.features[without.individuals >= 0]).all()
    source = evidence[scored.local][0]
    if isinstance(source, LocalEvidence):
        older = dataclasses.replace(source, held_out=None)
        old = SearchRuns(
            views, [scored], splits=splits, evidence={scored.local: {0: older}}, **roles(table, record.settings)
        )
        (asked,) = ask_encounters(old, scored, EncounterSet(tuple(rows), np.zeros(len(rows), dtype=bool)))
        assert held_out_candidates(asked, scored) is None


def held_groups(held: SearchRuns, table: pd.DataFrame) -> list[pd.Series]:
    """Rows of the queries of each named individual that has several."""
    rows = pd.Series(held.rows)
    named = rows[table["individual"].iloc[held.rows].ne("new_whale").to_numpy()]
    groups = [one for _, one in named.groupby(table["individual"].iloc[named].to_numpy())]
    return [one for one in groups if len(one) > 1]


def test_a_bundle_has_a_cohort_if_its_fusion_weighs_one(run: Path, run_of_cohort: Path, dataset: Dataset) -> None:
    contents = [read_bundle(folder / "best") for folder in (run, run_of_cohort)]
    assert [read_fusion_model(one.manifest["fusion"]).has_cohort for one in contents] == [False, True]
    without, stored = (one.cohort for one in contents)
    assert without is None
    unknown = int((dataset.table["individual"] == "new_whale").sum())
    assert stored is not None
    assert stored.shape == (unknown, contents[1].gallery.shape[1])
    with pytest.raises(BundleError, match="needs the cohort of the bundle"):
        KeypointMatcher(FUSED, contents[1].manifest["fusion"])


def test_photographs_are_identified_and_submitted_with_their_keypoints(
    run: Path, dataset: Dataset, photographs: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(run / "best")
    images = bundle.images[:3]
    answers = bundle.identify([photographs / "train" / image for image in images], top=5)
    assert [answer.candidates[0].individual for answer in answers] == bundle.individuals[:3]
    for image in images:
        shutil.copy(photographs / "train" / image, tmp_path)
    write_submission(bundle, tmp_path, tmp_path / "out.csv")
    first = pd.read_csv(tmp_path / "out.csv").set_index("Image")["Id"].str.split().str[:2]
    for image, individual in zip(images, bundle.individuals, strict=False):
        assert individual in first[image]
    assert bundle.identify([]) == []


def test_a_photograph_without_keypoints_is_answered(run: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 32), (9, 90, 120)).save(tmp_path / "sea.png")
    (answer,) = Bundle.load(run / "best").identify([tmp_path / "sea.png"])
    assert len(answer.candidates) == 5


@pytest.mark.parametrize("kind", ["no keypoints", "two keypoints", "one individual"])
def test_a_gallery_that_tells_little_is_ranked(run: Path, photographs: Path, kind: str) -> None:
    bundle = Bundle.load(run / "best")
    assert bundle.contents.keypoints is not None
    store, table = bundle.contents.keypoints.gallery, bundle.contents.table
    few = [no_features("sift")] * len(store)
    if kind == "two keypoints":
        few[:2] = [LocalFeatures(one.points[:1], one.descriptors[:1]) for one in map(store.of, (0, 1))]
    if kind == "one individual":
        table = table.assign(individual="w_1")
    gallery = store if kind == "one individual" else join_features(few, "sift")
    keypoints = bundle.contents.keypoints._replace(gallery=gallery)
    poor = Bundle(dataclasses.replace(bundle.contents, keypoints=keypoints, table=table))
    paths = [photographs / "train" / image for image in bundle.images[:2]]
    read = [read_named(path, poor.geometry, poor.keypoints) for path in paths]
    vectors, local = poor.embed([array for array, _ in read]), [one for _, one in read if one is not None]
    mean = normalize_rows(vectors.sum(axis=0)[None])
    answers = [*poor.identify(paths), *poor.rank(mean, photographs=[2], local=[local])]
    assert [len(answer.candidates) for answer in answers] == [1 if kind == "one individual" else 5] * 3
    assert all(np.isfinite(one.score) for answer in answers for one in answer.candidates)


def test_ranking_without_the_keypoints_of_a_query_or_the_gallery_is_refused(run: Path) -> None:
    bundle = Bundle.load(run / "best")
    vectors = normalize_rows(bundle.contents.gallery[:2])
    for local in (None, [None, None]):
        with pytest.raises(InputError, match="of the queries are missing"):
            bundle.rank(vectors, local=local)
    gallery = dataclasses.replace(bundle.gallery, keypoints=None)
    assert bundle.keypoints is not None
    with pytest.raises(InputError, match="of the gallery are missing"):
        bundle.rank(vectors[:0], gallery=gallery, local=[])


@pytest.mark.parametrize("file", ["local.npz", "golden/local.npz"])
@pytest.mark.parametrize("fault", ["missing", "damaged", "other_kind", "fewer_rows"])
def test_a_fault_in_a_keypoint_file_is_named(run: Path, tmp_path: Path, file: str, fault: str) -> None:
    folder = Path(shutil.copytree(run / "best", tmp_path / "bundle"))
    path = folder / file
    contents = read_bundle(folder)
    assert contents.keypoints is not None
    store = contents.keypoints.gallery if file == "local.npz" else contents.keypoints.golden
    if fault == "missing":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    elif fault == "other_kind":
        halved = dataclasses.replace(store, kind="orb", descriptors=np.repeat(store.descriptors, 2, axis=1))
        halved.save(path)
    else:
        store.subset(range(len(store) - 1)).save(path)
    with pytest.raises(BundleError, match=file):
        read_bundle(folder)
    if fault != "missing":  # and with a hash that fits
        from whale_ray.inference.bundle_files import file_hashes

        manifest = json.loads((folder / "bundle.json").read_text())
        hashes = {name: one for name, one in file_hashes(folder).items() if name != "bundle.json"}
        (folder / "bundle.json").write_text(json.dumps(manifest | {"files": hashes}))
        with pytest.raises(BundleError, match=file):
            read_bundle(folder)


def test_golden_images_with_other_keypoints_are_refused(run: Path) -> None:
    contents = read_bundle(run / "best")
    assert contents.keypoints is not None
    golden = contents.keypoints.golden
    other = dataclasses.replace(golden, descriptors=np.roll(golden.descriptors, 7, axis=1))
    moved = dataclasses.replace(contents, keypoints=contents.keypoints._replace(golden=other))
    bundle = Bundle(moved)
    from whale_ray.inference.golden_images import check_golden_images

    with pytest.raises(BundleError, match="90% of their sift keypoints"):
        check_golden_images(moved, runtime="torch", difference=bundle.golden_difference)


@pytest.mark.parametrize("fusion", [None, {}, {"intercept": 0.0, "weights": {"cosine": 1.0}}])
def test_a_bundle_with_a_damaged_fusion_is_refused(run: Path, fusion: Any) -> None:
    contents = read_bundle(run / "best")
    with pytest.raises(BundleError, match="fusion model"):
        Bundle(dataclasses.replace(contents, manifest=contents.manifest | {"fusion": fusion}), runtime=None)


def test_a_bundle_of_another_setting_has_no_keypoint_files(
    record: Record, dataset: Dataset, tmp_path: Path, run: Path
) -> None:
    folder = shutil.copytree(record.folder, tmp_path / "trials" / record.trial)
    rescore_for_good(read_record(folder), Scoring(SETTINGS[:1], "recall@1"))
    plain = read_record(folder)
    assert "fusion" not in plain.result
    made = make_bundle(plain, dataset, run=tmp_path, examples=0, thumbnails=False)
    assert not [*made.rglob("local.npz")]
    assert Bundle.load(made).keypoints is None
    assert "Keypoints" not in (made / "README.md").read_text()
    assert "- Keypoints: sift" in (run / "best" / "README.md").read_text()
    assert made.name != (run / "best").resolve().name


def test_the_network_is_in_the_bundle_and_its_path_is_not(run_of_shortlists: Path, network: Path) -> None:
    best, kind = run_of_shortlists / "best", kind_of(str(network))
    assert (best / "local.onnx").read_bytes() == network.read_bytes()
    assert json.loads((best / "bundle.json").read_text())["retrieval"]["local"] == kind
    assert f"- Keypoints: {kind}" in (best / "README.md").read_text()
    assert (run_of_shortlists / "local-grid.onnx.npz").exists()


def test_both_networks_are_in_the_bundle_and_their_paths_are_not(run_of_matcher: Path, networks: str) -> None:
    best, kind = run_of_matcher / "best", kind_of(networks)
    for name, file in zip(("local.onnx", "local-matcher.onnx"), network_files(networks), strict=True):
        assert (best / name).read_bytes() == file.read_bytes()
    manifest = json.loads((best / "bundle.json").read_text())
    assert manifest["retrieval"]["local"] == kind
    assert manifest["fusion"]["weights"]["confidence_value"] != 0
    assert (run_of_matcher / "local-grid.onnx+glue.onnx.npz").exists()


def test_shortlists_of_a_run_are_compared_by_the_match_network(
    run_of_matcher: Path, networks: str, tmp_path: Path
) -> None:
    contents = read_bundle(run_of_matcher / "best")
    assert contents.keypoints is not None
    store, images = contents.keypoints.gallery, [f"{row}.jpg" for row in range(len(contents.table))]
    matcher = network_files(networks)[1]
    options: dict[str, Any] = {"images": images, "shortlist": 4, "made_from": "these"}
    write_local_features(tmp_path, networks, store, matcher=matcher, **options)
    table = pd.DataFrame({"image": images, "individual": contents.table["individual"], "part": "train", "split": 0})
    table = pd.concat([table, table.iloc[:3].assign(part="val")])
    source = read_local_evidence(tmp_path, [networks], table=table, unknown_label="new_whale")[networks][0]
    assert isinstance(source, ShortlistComparison)
    found = source.compare(np.tile(np.arange(4), (3, 1)))
    assert found.confidences is not None
    matched = np.flatnonzero(found.scores[0] > 0)
    for place in matched:
        expected = verify(store.of(0), store.of(int(place)), matcher=matcher_of(kind_of(networks)))
        assert (found.inliers[0, place], found.confidences[0, place]) == (
            expected.inliers,
            np.float32(expected.confidence),
        )
    assert found.confidences[0, matched].any()


@pytest.mark.parametrize("file", ["local.onnx", "local-matcher.onnx"])
@pytest.mark.parametrize("fault", ["missing", "damaged", "another"])
def test_a_fault_in_a_network_of_a_bundle_is_named(run_of_matcher: Path, tmp_path: Path, fault: str, file: str) -> None:
    from whale_ray.inference.bundle_files import file_hashes

    folder = Path(shutil.copytree(run_of_matcher / "best", tmp_path / "bundle"))
    (folder / file).unlink()
    if fault == "damaged":
        (folder / file).write_bytes(b"no model")
    elif fault == "another":
        (write_network if file == "local.onnx" else write_matcher)(folder / file, seed=1)
    with pytest.raises(BundleError, match=file):
        read_bundle(folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    hashes = {name: one for name, one in file_hashes(folder).items() if name != "bundle.json"}
    (folder / "bundle.json").write_text(json.dumps(manifest | {"files": hashes}))
    with pytest.raises(BundleError, match=file):
        read_bundle(folder)


def test_another_network_of_the_same_name_is_refused(
    run_of_shortlists: Path, dataset: Dataset, write_sweep: Any, tmp_path: Path
) -> None:
    sweep = write_sweep(f"retrieval.local=[{write_network(tmp_path / 'grid.onnx', seed=1)}]")
    with pytest.raises(InputError, match=r"grid\.onnx must stay the file .* another name"):
        gather_local_evidence(sweep, dataset, run_of_shortlists, say=pytest.fail)


@pytest.mark.parametrize("is_matcher", [False, True])
def test_a_file_that_is_no_network_is_refused_before_photographs_are_decoded(
    write_sweep: Any, network: Path, tmp_path: Path, is_matcher: bool
) -> None:
    lost = str(tmp_path / "lost.onnx")
    with pytest.raises(InputError, match=rf"lost\.onnx cannot {'match' if is_matcher else 'find'} keypoints"):
        check_inputs(write_sweep(f"retrieval.local=[sift,{f'{network}+{lost}' if is_matcher else lost}]"))


def test_a_report_without_the_file_of_the_network_has_no_pictures_of_keypoints(
    record: Record, photographs: Path, tmp_path: Path
) -> None:
    pictures = Photographs(photographs / "train")
    examples = find_examples(record, pictures)
    assert with_keypoints(examples, str(tmp_path / "lost.onnx"), pictures) == examples


@pytest.mark.parametrize("kept", ["run", "run_of_shortlists", "run_of_matcher"])
@pytest.mark.parametrize("fault", ["missing", "damaged", "other_photographs"])
def test_missing_evidence_is_named_with_the_remedy(
    request: pytest.FixtureRequest, tmp_path: Path, fault: str, kept: str
) -> None:
    run: Path = request.getfixturevalue(kept)
    record = only_trial(run)
    folder = shutil.copytree(record.folder, tmp_path / "trials" / record.trial)
    path = tmp_path / f"local-{evidence_name(record.result['local'])}.npz"
    if fault == "damaged":
        path.write_bytes((run / path.name).read_bytes()[:200])
    elif fault == "other_photographs":
        with np.load(run / path.name) as stored:
            np.savez(path, **{name: value[1:] if name.endswith("images") else value for name, value in stored.items()})
    setting = dataclasses.replace(FUSED, local=record.result["local"])
    with pytest.raises(InputError, match=r"sweep\s+again"):
        rescore_for_good(read_record(folder), Scoring((setting,), "recall@1"))


def test_scores_of_each_setting_are_the_same_when_computed_again(record: Record, run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "local-sift.npz", tmp_path)
    folder = Path(shutil.copytree(record.folder, tmp_path / "trials" / record.trial))
    rescore_for_good(read_record(folder), Scoring(SETTINGS, "map@5"))
    kept = of_settings(read_record(folder), SETTINGS, "map@5")
    (folder / FILE).unlink()
    images, scores = of_settings(read_record(folder), SETTINGS, "map@5")
    assert images.equals(kept[0])
    np.testing.assert_array_equal(scores, kept[1])
    assert (scores[:, 0] != scores[:, 1]).any()


def test_examples_of_the_report_show_the_matched_keypoints(record: Record, photographs: Path) -> None:
    pictures = Photographs(photographs / "train")
    examples = find_examples(record, pictures)
    assert with_keypoints(examples, "none", pictures) == examples
    shown = with_keypoints(examples, "sift", pictures)
    for one in (*shown.mistakes, *shown.right):
        assert [(each.role, each.individual) for each in one.keypoints] == [
            (answer.role, answer.individual) for answer in one.answers[: len(one.keypoints)]
        ]
        assert one.keypoints[0].data.startswith("data:image/jpeg;base64,")
    assert all(len(one.keypoints) == len(one.answers) for one in shown.mistakes)
    assert [len(one.keypoints) for one in shown.right] == [1] * len(shown.right)


def test_the_report_draws_the_matches_of_the_match_network(
    run_of_matcher: Path, networks: str, photographs: Path
) -> None:
    pictures = Photographs(photographs / "train")
    examples = find_examples(only_trial(run_of_matcher), pictures)
    both, alone = (with_keypoints(examples, each, pictures) for each in (networks, str(network_files(networks)[0])))
    points = [[one.inliers for each in found.right for one in each.keypoints] for found in (both, alone)]
    assert any(points[0])
    assert points[0] != points[1]


def test_examples_without_photographs_have_no_keypoints(record: Record, tmp_path: Path) -> None:
    pictures = Photographs(tmp_path)
    shown = with_keypoints(find_examples(record, pictures), "sift", pictures)
    assert not any(one.keypoints for one in (*shown.mistakes, *shown.right))
