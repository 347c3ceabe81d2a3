"""Viewpoints and species from the table to the answer of a bundle, on drawn photographs with random viewpoints."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.errors import InputError
from whale_ray.inference.bundle import read_gallery_table
from whale_ray.inference.predictions import AnimalTraits, SearchedPool
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.analysis.rescoring import rescore_for_good, score_again
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.export_bundle import make_bundle
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import Scoring

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

SIDES = """
name: sides
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4, view_column: Side, species_column: Species}
model: {encoder: tiny, neck: none, embedding_size: null}
loss: {name: none}
train: {epochs: 0}
retrieval: {side: [any, same, weighted], side_penalty: 0.2}
bundle: {examples: 0, thumbnails: false, runtime: torch}
"""


@pytest.fixture(scope="module")
def root(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn photographs with a viewpoint each and a species for each individual; both are missing for some."""
    root = Path(shutil.copytree(photographs, tmp_path_factory.mktemp("sides") / "data"))
    table = pd.read_csv(root / "train.csv")
    random = np.random.default_rng(0)
    kinds = {name: ("blue", "fin")[place % 2] for place, name in enumerate(sorted(set(table["Id"]) - {"new_whale"}))}
    species = table["Id"].map(kinds).fillna("")
    sides = random.choice(["left", "right", ""], len(table), p=[0.45, 0.45, 0.1])
    table.assign(Side=sides, Species=species).to_csv(root / "train.csv", index=False)
    return root


@pytest.fixture(scope="module")
def sides(root: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "sides.yaml").write_text(SIDES.replace("ROOT", str(root)))
    return run_sweep(load_sweep(folder / "sides.yaml"), runs=folder, in_process=True)


@pytest.fixture(scope="module")
def dataset(sides: SweepResult) -> Dataset:
    sweep = load_sweep(sides.folder / "sweep.yaml", is_recorded=True)
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())


def trial_of(run: Path) -> Path:
    (trial,) = (path for path in (run / "trials").iterdir() if not path.name.startswith("baseline"))
    return trial


@pytest.fixture
def record(sides: SweepResult, tmp_path: Path) -> Record:
    """The trial, scored with `side: same` only."""
    trial = trial_of(sides.folder)
    folder = Path(shutil.copytree(trial, tmp_path / "trials" / trial.name))
    rescore_for_good(read_record(folder), Scoring((RetrievalSetting(side="same"),), "recall@1"))
    return read_record(folder)


def on_training_photographs(bundle: Bundle, dataset: Dataset) -> Bundle:
    """Return the bundle with the gallery of its scores, the training part."""
    parts = dataset.table.set_index("image")["part"]
    train = (parts[bundle.contents.table["image"]] == "train").to_numpy()
    table = bundle.contents.table[train].reset_index(drop=True)
    return Bundle(dataclasses.replace(bundle.contents, gallery=bundle.contents.gallery[train], table=table))


def test_every_side_is_scored_on_the_same_queries(sides: SweepResult) -> None:
    table = pd.read_csv(trial_of(sides.folder) / "retrieval.csv")
    assert table["side"].tolist() == ["any", "same", "weighted"]
    assert table["side_penalty"].fillna(0).tolist() == [0, 0, 0.2]
    result = read_record(trial_of(sides.folder)).result
    assert result["side"] in ("any", "same", "weighted")
    assert {row["species"] for row in result["by_species"]} == {"", "blue", "fin"}
    assert result["queries"] == sum(row["queries"] for row in result["by_species"])


def test_the_report_has_a_row_for_each_species(sides: SweepResult) -> None:
    page = (sides.folder / "report.html").read_text()
    table = page.partition("<h3>By species</h3>")[2].partition("</table>")[0]
    assert all(f"<td>{name}</td>" in table for name in ("unknown", "blue", "fin"))
    assert table.count("(common)") == 3
    assert "side same" in page or "side weighted" in page


def test_no_answer_is_of_another_species(sides: SweepResult, dataset: Dataset) -> None:
    queries = pd.read_parquet(trial_of(sides.folder) / "queries.parquet")
    species = dataset.table.set_index("image")["species"]
    known = queries[queries["species"] != ""]
    assert len(known) > 10
    assert set(known["species"]) == {"blue", "fin"}
    assert known["species"].tolist() == species[known["image"]].tolist()
    assert (species[known["nearest_image"]].to_numpy() == known["species"]).all()


def test_the_bundle_ranks_each_query_as_its_trial_with_the_same_side(
    record: Record, dataset: Dataset, root: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False))
    assert bundle.setting == RetrievalSetting(side="same")
    bundle = on_training_photographs(bundle, dataset)
    gallery = bundle.contents.table
    queries = pd.read_parquet(record.folder / "queries.parquet")
    same = 0
    for query in queries.to_dict("records"):
        viewpoint, species = query["viewpoint"], query["species"]
        (answer,) = bundle.identify([root / "train" / query["image"]], top=50, viewpoint=viewpoint, species=species)
        pool = gallery[gallery["species"].isin([species, ""]) | (species == "")]
        pool = pool[pool["viewpoint"].isin([viewpoint, ""]) | (viewpoint == "")]
        assert answer.pool == SearchedPool(viewpoint or None, species or None, len(pool), pool["individual"].nunique())
        assert {one.image for one in answer.candidates} <= set(pool["image"])
        ranked = [candidate.individual for candidate in answer.candidates]
        rank = ranked.index(query["individual"]) + 1 if query["individual"] in ranked else 0
        same += answer.candidates[0].image == query["nearest_image"] and rank == query["rank"]
    assert same >= len(queries) - 2, "an embedding may differ in its last digits, and turn a tie"


def test_from_equal_vectors_the_ranking_is_equal_to_the_last_place(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    bundle = on_training_photographs(
        Bundle.load(make_bundle(record, dataset, run=tmp_path, examples=0, thumbnails=False)), dataset
    )
    views, table = read_embeddings(record.folder)
    rows = {image: row for row, image in enumerate(table["image"])}
    queries = pd.read_parquet(record.folder / "queries.parquet")
    vectors = normalize_rows(views["plain"][[rows[image] for image in queries["image"]]])
    traits = [AnimalTraits(*one) for one in queries[["viewpoint", "species"]].to_numpy()]
    for answer, query in zip(bundle.rank(vectors, top=50, traits=traits), queries.to_dict("records"), strict=True):
        ranked = [candidate.individual for candidate in answer.candidates]
        assert (ranked.index(query["individual"]) + 1 if query["individual"] in ranked else 0) == query["rank"]
        assert answer.candidates[0].image == query["nearest_image"]
        assert answer.candidates[0].score == pytest.approx(query["cosine"], abs=2e-6)


def test_the_gallery_of_a_bundle_keeps_viewpoints_and_species(sides: SweepResult, dataset: Dataset) -> None:
    assert sides.bundle is not None
    _, gallery = read_gallery_table(sides.bundle)
    columns = ["viewpoint", "species"]
    expected = dataset.table.set_index("image").loc[gallery["image"], columns]
    assert gallery[columns].to_numpy().tolist() == expected.to_numpy().tolist()
    bundle = Bundle.load(sides.bundle)
    assert (
        "| species | individuals | queries | recall@1 | map@5 | threshold |" in (sides.bundle / "README.md").read_text()
    )
    older = Bundle(dataclasses.replace(bundle.contents, table=gallery.drop(columns=columns)))
    assert older.rank(bundle.contents.gallery[:1].astype(np.float32))[0].pool is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"viewpoint": "Left"}, r"view is one of left, right here, but got 'Left'. Did you mean `left`\?"),
        ({"species": "sperm"}, "species is one of blue, fin here, but got 'sperm'. Name one of them, or leave it out"),
    ],
)
def test_an_unknown_viewpoint_or_species_is_refused(sides: SweepResult, asked: dict[str, Any], message: str) -> None:
    assert sides.bundle is not None
    bundle = Bundle.load(sides.bundle)
    with pytest.raises(InputError, match=message):
        bundle.identify([], **asked)
    table = bundle.contents.table[["image", "individual"]]
    with pytest.raises(InputError, match=r"the gallery has no (view|species), but got"):
        Bundle(dataclasses.replace(bundle.contents, table=table)).identify([], **asked)


def test_the_threshold_of_a_species_decides_if_the_animal_is_new(sides: SweepResult) -> None:
    assert sides.bundle is not None
    contents = Bundle.load(sides.bundle).contents
    manifest = contents.manifest | {"threshold": -1.0, "species_thresholds": {"fin": 1.5}}
    bundle = Bundle(dataclasses.replace(contents, manifest=manifest))
    traits = [AnimalTraits(species=species) for species in ("", "blue", "fin")]
    answers = bundle.rank(np.repeat(contents.gallery[:1], 3, axis=0).astype(np.float32), traits=traits)
    assert [answer.new_individual.decision for answer in answers] == ["known", "known", "new"]


def test_a_run_of_an_earlier_version_gets_them_from_the_data_set(sides: SweepResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sides.folder, tmp_path / "sides", symlinks=True))
    path = trial_of(run) / "embeddings.npz"
    with np.load(path) as stored:
        older = {name: stored[name] for name in stored if name not in ("viewpoint", "species")}
    np.savez(path, **older)
    with pytest.raises(InputError, match=r"retrieval.side needs viewpoints, but trial .* has none"):
        score_again(run, ["side=[any, same]"])
    before = pd.read_csv(trial_of(run) / "retrieval.csv")
    (trial_of(run) / "retrieval.csv").unlink()
    run_sweep(load_sweep(run / "sweep.yaml"), runs=tmp_path, in_process=True)
    pd.testing.assert_frame_equal(pd.read_csv(trial_of(run) / "retrieval.csv"), before)
    with np.load(path) as stored, np.load(trial_of(sides.folder) / "embeddings.npz") as whole:
        assert stored["viewpoint"].tolist() == whole["viewpoint"].tolist()
        np.testing.assert_array_equal(stored["plain"], whole["plain"])


def test_a_side_without_viewpoints_is_refused_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sides.yaml").write_text(SIDES.replace("ROOT", str(root)))
    sweep = load_sweep(tmp_path / "sides.yaml", ["data.view_column=null"])
    with pytest.raises(InputError, match=r"`retrieval.side: same and weighted` needs the viewpoint of photographs"):
        run_sweep(sweep, runs=tmp_path, in_process=True)
    assert not list(tmp_path.glob("sides/trials/*"))
