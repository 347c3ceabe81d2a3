"""Export of the best trial: the bundle ranks as the trial was scored."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.catalog import Catalog
from whale_ray.data.decoding.thumbnails import THUMBNAIL_SIDE
from whale_ray.errors import BundleError
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.golden_images import golden_distance
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.execution.bundle_pictures import gallery_thumbnails
from whale_ray.sweep.execution.export_bundle import make_best_bundle, make_bundle
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.run_folder.leaderboard import finished_trials
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

OPTIONS: dict[str, Any] = {"examples": 3, "thumbnails": True}


@pytest.fixture(scope="module")
def dataset(finished: SweepResult, write_sweep: Any) -> Dataset:
    sweep = write_sweep()
    settings = first_settings(sweep)
    return open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())


@pytest.fixture
def record(finished: SweepResult, tmp_path: Path) -> Record:
    """The best trial, in a folder of its own."""
    trial = finished_trials(finished.table)[0]
    return read_record(shutil.copytree(finished.folder / "trials" / trial, tmp_path / "trials" / trial))


def change_weights(record: Record, change: Any) -> None:
    path = record.folder / "checkpoint" / "encoder.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


def test_the_bundle_is_immutable_and_best_points_to_it(record: Record, dataset: Dataset, tmp_path: Path) -> None:
    first = make_bundle(record, dataset, run=tmp_path, **OPTIONS)
    before = (first / "bundle.json").stat().st_mtime_ns
    assert first.parent == tmp_path / "bundles"
    assert (tmp_path / "best").is_symlink()
    assert (tmp_path / "best").resolve() == first
    assert make_bundle(record, dataset, run=tmp_path, **OPTIONS) == first
    assert (first / "bundle.json").stat().st_mtime_ns == before


def test_another_threshold_is_another_bundle_and_the_old_one_stays(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    first = make_bundle(record, dataset, run=tmp_path, **OPTIONS)
    changed = dataclasses.replace(record, result=record.result | {"threshold": 0.123})
    second = make_bundle(changed, dataset, run=tmp_path, **OPTIONS)
    assert second != first
    assert Bundle.load(tmp_path / "best").threshold == 0.123
    assert Bundle.load(first).threshold == record.result["threshold"]


def test_the_gallery_is_every_named_photograph_and_the_card_says_what_was_measured(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    contents = read_bundle(make_bundle(record, dataset, run=tmp_path, **OPTIONS))
    named = dataset.table[dataset.table["individual"] != "new_whale"]
    assert contents.table["image"].tolist() == named["image"].tolist()
    assert contents.table["individual"].tolist() == named["individual"].tolist()
    assert contents.manifest["images"] == len(named)
    assert contents.manifest["measured_gallery"] == (named["part"] == "train").sum() < len(named)
    card = (tmp_path / "best" / "README.md").read_text()
    assert f"with the {contents.manifest['measured_gallery']} named training photographs as gallery" in card


def test_the_bundle_uses_the_setting_and_threshold_of_the_trial(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, **OPTIONS))
    assert (bundle.setting.vote, bundle.setting.neighbours) == (record.result["vote"], record.result["neighbours"])
    assert bundle.threshold == record.result["threshold"]
    assert bundle.card["scores"]["recall@1"] == record.result["recall@1"]
    assert bundle.card["settings"] == record.settings


def test_thumbnails_are_small_jpegs_of_the_gallery_and_examples_of_validation(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    contents = read_bundle(make_bundle(record, dataset, run=tmp_path, **OPTIONS))
    assert sorted(contents.thumbnails) == list(range(len(contents.table)))
    with Image.open(io.BytesIO(contents.thumbnails[0])) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= THUMBNAIL_SIDE
    validation = dataset.table.loc[dataset.table["part"] == "val", "individual"]
    assert len(contents.examples) == 3
    assert {one.individual for one in contents.examples} <= set(validation)
    without = make_bundle(record, dataset, run=tmp_path / "other", examples=0, thumbnails=False)
    assert not (without / "thumbnails").exists()
    assert not (without / "examples").exists()
    assert Bundle.load(without).contents.thumbnails == {}


def test_thumbnails_come_from_the_pixel_cache_and_equal_those_of_the_photographs(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = dataset.table["image"].tolist()[::-3]
    afresh = gallery_thumbnails(dataclasses.replace(dataset, decoded={}), images)
    monkeypatch.setattr(Catalog, "decode", lambda *_: pytest.fail("a photograph is decoded again"))
    assert gallery_thumbnails(dataset, images) == afresh
    assert list(afresh) == list(range(len(images)))


def test_of_rows_with_boxes_the_gallery_names_the_box_and_pictures_show_it(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    plain = read_bundle(make_bundle(record, dataset, run=tmp_path, **OPTIONS)).table
    assert list(plain) == ["image", "individual"]
    table = dataset.catalog.table.assign(x0=8.0, y0=4.0, x1=40.0, y1=28.0)
    table.loc[table.index[-1], ["x0", "y0", "x1", "y1"]] = np.nan
    boxed = dataclasses.replace(dataset, catalog=Catalog(table, dataset.catalog.folder, "new_whale"), decoded={})
    contents = read_bundle(make_bundle(record, boxed, run=tmp_path / "boxed", **OPTIONS))
    assert list(contents.table) == ["image", "individual", "file", "x0", "y0", "x1", "y1"]
    assert contents.table.loc[0, ["x0", "y0", "x1", "y1"]].tolist() == ["8.0", "4.0", "40.0", "28.0"]
    for data in (contents.thumbnails[0], contents.golden[0], contents.examples[0].data):
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (32, 24)


def test_the_bundle_contains_no_path_of_the_photographs(record: Record, dataset: Dataset, tmp_path: Path) -> None:
    """Pictures are written anew: positions and dates of the camera stay behind."""
    folder = make_bundle(record, dataset, run=tmp_path, **OPTIONS)
    for path in (*folder.rglob("*.jpg"), *folder.rglob("*.png")):
        with Image.open(path) as picture:
            assert not picture.getexif()


def test_a_collapsed_encoder_cannot_become_a_bundle(record: Record, dataset: Dataset, tmp_path: Path) -> None:
    change_weights(record, torch.zeros_like)
    with pytest.raises(BundleError, match="must tell its golden images apart"):
        make_bundle(record, dataset, run=tmp_path, **OPTIONS)
    assert not (tmp_path / "best").exists()
    assert not (tmp_path / "bundles").exists()


def test_a_trial_knows_whether_its_encoder_has_collapsed(record: Record) -> None:
    assert record.result["golden_distance"] > 1e-3
    assert not record.has_collapsed
    views, _ = read_embeddings(record.folder)
    same = np.repeat(views["plain"][:1], 20, axis=0)
    few = np.concatenate([views["plain"][:3]] * 5)
    for embeddings, collapsed in ((views["plain"], False), (same, True), (few, True), (same[:1], False)):
        result = {**record.result, "golden_distance": golden_distance(embeddings)}
        assert dataclasses.replace(record, result=result).has_collapsed is collapsed


def test_the_next_trial_becomes_the_bundle_if_the_best_cannot_with_a_notice(
    record: Record, finished: SweepResult, dataset: Dataset, tmp_path: Path
) -> None:
    shutil.rmtree(record.folder / "checkpoint")
    second = read_record(finished.folder / "trials" / finished_trials(finished.table)[1])
    messages: list[str] = []
    found = make_best_bundle([record, second], dataset, run=tmp_path, say=messages.append, **OPTIONS)
    assert found
    assert Bundle.load(found.folder).card["trial"] == found.bundle.card["trial"] == second.trial
    (line,) = [message for message in messages if "cannot" in message]
    assert f"trial {record.trial} cannot become a bundle" in line
    assert "keep_checkpoints" in line
    messages.clear()
    assert make_best_bundle([record] * 2_000, dataset, run=tmp_path, say=messages.append, **OPTIONS) is None
    (line,) = messages
    assert "and 1997 more cannot become a bundle" in line
    messages.clear()
    collapsed = dataclasses.replace(record, result={**record.result, "golden_distance": 1e-6})
    assert make_best_bundle([collapsed, record], dataset, run=tmp_path, say=messages.append, **OPTIONS) is None
    assert ["has collapsed" in line for line in messages] == [True, False]


def test_the_ranking_in_service_is_the_ranking_that_was_scored(
    finished: SweepResult, dataset: Dataset, photographs: Path, tmp_path: Path
) -> None:
    """Identify with the training part alone as gallery, and count recall@1 as the sweep did."""
    trial = finished_trials(finished.table)[0]
    folder = finished.folder / "trials" / trial
    bundle = Bundle.load(finished.folder / "best")
    assert bundle.card["trial"] == trial
    parts = dataset.table.set_index("image")["part"]
    train = (parts[bundle.contents.table["image"]] == "train").to_numpy()
    contents = dataclasses.replace(
        bundle.contents,
        gallery=bundle.contents.gallery[train],
        table=bundle.contents.table[train].reset_index(drop=True),
    )
    queries = pd.read_parquet(folder / "queries.parquet")
    known = queries[queries["known"]]
    answers = Bundle(contents).identify([photographs / "train" / image for image in known["image"]], top=1)
    hits = [
        answer.candidates[0].individual == individual
        for answer, individual in zip(answers, known["individual"], strict=True)
    ]
    table = pd.read_csv(folder / "retrieval.csv")
    setting = bundle.setting
    row = table[(table["vote"] == setting.vote) & (table["flip"] == setting.flip)]
    row = row[row["neighbours"].isna() if setting.neighbours is None else row["neighbours"] == setting.neighbours]
    assert np.mean(hits) == pytest.approx(row["recall@1"].item(), abs=1.5 / len(known))


def test_the_license_is_on_the_card_and_changes_the_bundle_only_if_it_is_named(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    unstated = make_bundle(record, dataset, run=tmp_path, **OPTIONS)
    assert make_bundle(record, dataset, run=tmp_path, license_id="other", **OPTIONS) == unstated
    named = make_bundle(record, dataset, run=tmp_path, license_id="cc-by-4.0", **OPTIONS)
    assert [ModelCard.load(folder / "README.md").data.license for folder in (unstated, named)] == ["other", "cc-by-4.0"]


def test_the_runtime_is_measured_on_validation_photographs_outside_the_gallery(
    record: Record, dataset: Dataset, tmp_path: Path
) -> None:
    bundle = Bundle.load(make_bundle(record, dataset, run=tmp_path, runtime="auto", **OPTIONS))
    named = bundle.card["runtime"]
    assert named["queries"] == record.result["known_queries"]
    assert named["recall@1"]["torch"] < 1.0
    assert bundle.runtime == named["name"]
