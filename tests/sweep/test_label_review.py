"""Label review: findings of the best trial, preserved entries, and the section of the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.catalog import Catalog
from whale_ray.data.formats.animal_rows import complete_rows
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
from whale_ray.data.review.apply_review import COLUMNS
from whale_ray.sweep.report.review import label_votes, near_identical
from whale_ray.sweep.report.review.label_review import QUESTIONS, read_review, show_review, write_review
from whale_ray.sweep.report.review.label_votes import choose_voters, matcher_vote, read_votes
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.records import Record

pytestmark = pytest.mark.integration

NASTY = "=w<03>"


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((160, 90), Image.Resampling.BICUBIC)


def photographs_in(folder: Path) -> Photographs:
    """Photographs of a table with the 116 files of `record`, in any folder."""
    rows = complete_rows(pd.DataFrame({"image": [f"{row:03}.png" for row in range(116)], "individual": "w"}))
    return Photographs(folder, Catalog(rows, folder, "new_whale"))


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    """20 individuals with 5 photographs, 15 unknown animals; the first photograph is there again, cropped."""
    folder = tmp_path / "train"
    folder.mkdir()
    for row in range(115):
        picture(row).save(folder / f"{row:03}.png")
    picture(0).crop((6, 5, 156, 86)).save(folder / "115.png")
    return photographs_in(folder)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    random = np.random.default_rng(0)
    animals = np.append(np.repeat(np.arange(35), [5] * 20 + [1] * 15), 0)
    vectors = random.normal(size=(35, 48))[animals] + 0.2 * random.normal(size=(116, 48))
    vectors[115] = vectors[0]
    names = np.array([f"w{animal:02}" if animal < 20 else "new_whale" for animal in animals], dtype="U12")
    names[names == "w03"] = NASTY
    names[16] = "w07"
    folder = tmp_path / "run" / "trials" / "best"
    folder.mkdir(parents=True)
    np.savez(
        folder / "embeddings.npz",
        plain=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16),
        image=np.array([f"{row:03}.png" for row in range(116)]),
        individual=names,
        part=np.where((np.arange(116) % 5 == 4) | (np.arange(116) == 115), "val", "train"),
        group=np.full(116, ""),
    )
    return Record("best", folder, "trial", {}, {"data": {}}, "", {"status": "finished"})


def test_wrong_labels_and_copies_across_the_split_are_listed(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    table = read_review(run)
    assert tuple(table.columns) == COLUMNS
    rows = table.set_index("kind")
    assert sorted(rows.index) == ["mislabelled", "near_identical"]
    assert rows.loc["near_identical", ["image", "other_image", "parts"]].tolist() == [
        "115.png",
        "000.png",
        "val, train",
    ]
    assert rows.loc["mislabelled", ["image", "individual", "suggested"]].tolist() == ["016.png", "w07", NASTY]
    assert (table["confirm"] == "").all()


def test_no_cell_of_the_review_is_a_formula(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    cells = pd.read_csv(run / "review.csv", dtype=str, keep_default_na=False).to_numpy().ravel()
    assert f"'{NASTY}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_entries_of_a_person_survive_a_rewritten_review(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    table = read_review(run)
    table.loc[table["kind"] == "mislabelled", "confirm"] = "yes"
    gone = dict.fromkeys(COLUMNS, "") | {"kind": "mislabelled", "image": "020.png", "parts": "train, train"}
    pd.concat([table, pd.DataFrame([gone | {"confirm": "no"}])]).to_csv(run / "review.csv", index=False)
    (run / "review.json").unlink()
    write_review(record, run, photographs)
    again = read_review(run).set_index("image")["confirm"]
    assert again.to_dict() == {"115.png": "", "016.png": "yes", "020.png": "no"}


def test_entries_saved_with_semicolons_survive_a_rewritten_review(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    table = read_review(run).assign(confirm="yes")
    table.to_csv(run / "review.csv", index=False, sep=";", decimal=",")
    assert (read_review(run)["confirm"] == "yes").all()
    (run / "review.json").unlink()
    write_review(record, run, photographs)
    assert (read_review(run)["confirm"] == "yes").all()


def test_a_review_that_a_person_has_edited_is_shown(record: Record, photographs: Photographs) -> None:
    """With a decimal comma, without some columns, and with empty last cells left out."""
    run = record.folder.parents[1]
    (run / "review.csv").write_text("kind;image;individual;confidence;confirm\nmislabelled;016.png;w;0,75\n")
    (finding,) = show_review(run, photographs)["mislabelled"].findings
    assert (finding["confidence"], finding["confirm"]) == (0.75, "")
    (run / "review.csv").write_text("image,kind\n016.png,mislabelled\n")
    assert show_review(run, photographs)["mislabelled"].findings[0]["confidence"] == 0.0


def test_the_review_of_the_same_trial_is_not_made_twice(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    shutil.rmtree(record.folder)
    write_review(record, run, photographs)
    assert len(read_review(run)) == 2


def test_the_page_shows_both_pictures_and_counts_all(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    assert show_review(run, photographs) == {}
    write_review(record, run, photographs)
    shown = show_review(run, photographs)
    assert list(shown) == list(QUESTIONS)
    assert (shown["near_identical"].count, shown["near_identical"].across) == (1, 1)
    (finding,) = shown["mislabelled"].findings
    assert finding["pictures"][0].image == "016.png"
    assert all(each.data.startswith("data:image/jpeg") for each in finding["pictures"])
    assert shown["recognised"].count == 0


def test_copies_that_the_audit_found_are_listed_too(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    (run / "audit.json").write_text(json.dumps({"twins": [["020.png", "050.png"]]}))
    write_review(record, run, photographs)
    pairs = read_review(run).query("kind == 'near_identical'")[["image", "other_image"]].to_numpy().tolist()
    assert pairs == [["115.png", "000.png"], ["050.png", "020.png"]]


def test_without_photographs_the_review_notes_that_copies_are_not_checked(record: Record, tmp_path: Path) -> None:
    run = record.folder.parents[1]
    nowhere = photographs_in(tmp_path / "nowhere")
    write_review(record, run, nowhere)
    shown = show_review(run, nowhere)
    assert f"none of the photographs can be read in {tmp_path / 'nowhere'}" in shown["near_identical"].reason
    assert shown["mislabelled"].count == 1


def test_without_the_table_of_photographs_the_review_notes_it(record: Record, tmp_path: Path) -> None:
    run = record.folder.parents[1]
    write_review(record, run, Photographs(tmp_path))
    assert "their table cannot be read" in show_review(run, Photographs(tmp_path))["near_identical"].reason


def test_copies_are_found_in_the_pixel_cache_without_a_photograph(
    record: Record, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert photographs.catalog is not None
    decode_images(photographs.catalog, Geometry(32, 48), cache=pixel_cache())
    monkeypatch.setattr(near_identical, "decode_images", None)
    settings = {"data": {"image_size": "32x48", "resize": "pad"}, "train": {"affine": 0.0}}
    cached = dataclasses.replace(record, settings=settings)
    write_review(cached, record.folder.parents[1], photographs)
    assert "near_identical" in read_review(record.folder.parents[1])["kind"].tolist()


def test_the_number_of_compared_pairs_is_bounded(
    record: Record, photographs: Photographs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = record.folder.parents[1]
    (run / "audit.json").write_text(json.dumps({"twins": [["020.png", "050.png"]]}))
    monkeypatch.setattr(near_identical, "_MAX_PAIRS", 1)
    write_review(record, run, photographs)
    assert read_review(run).query("kind == 'near_identical'")["image"].tolist() == ["050.png"]
    assert "copies are sought among the 1 most similar of" in caplog.text


def another(
    record: Record, name: str, *, recall: float = 0.5, loss: str = "arcface", status: str = "finished", **changes: Any
) -> Record:
    """Return a finished trial with the embeddings of `record`, noisier."""
    folder = record.folder.with_name(name)
    shutil.copytree(record.folder, folder)
    result = {**record.result, "recall@1": recall, "status": status}
    settings = {**record.settings, "loss": {"name": loss}}
    return dataclasses.replace(record, trial=name, folder=folder, result=result, settings=settings, **changes)


def test_the_best_trial_of_each_other_loss_votes_unless_it_is_weak(record: Record) -> None:
    best = another(record, "first", recall=0.6)
    records = [
        best,
        another(record, "same", recall=0.6),
        another(record, "triplet", loss="triplet"),
        another(record, "weak", recall=0.44, loss="supcon"),
        another(record, "frozen", loss="none", kind="baseline"),
        another(record, "failed", loss="cosface", status="failed"),
    ]
    assert [one.trial for one in choose_voters(best, records)] == ["first", "triplet"]
    (records[2].folder / "embeddings.npz").unlink()
    assert choose_voters(best, records) == [best]


def test_votes_are_of_the_same_photographs_in_one_order(record: Record) -> None:
    shuffled, fewer = another(record, "shuffled"), another(record, "fewer")
    order = np.random.default_rng(0).permutation(116)
    for one, rows in ((shuffled, order), (fewer, order[:50])):
        with np.load(record.folder / "embeddings.npz") as stored:
            arrays = {name: stored[name][rows] for name in stored.files}
        np.savez(one.folder / "embeddings.npz", **arrays)
    rows, vectors = read_votes([record, shuffled, fewer])
    assert rows.images.tolist() == [f"{row:03}.png" for row in range(116)]
    assert len(vectors) == 2
    np.testing.assert_allclose(vectors[0] @ vectors[0].T, vectors[1] @ vectors[1].T, atol=2e-3)


def test_another_vote_makes_the_review_again(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs)
    first = json.loads((run / "review.json").read_text())
    write_review(record, run, photographs, records=[record, another(record, "triplet", loss="triplet")])
    second = json.loads((run / "review.json").read_text())
    assert (first["votes"], second["votes"]) == ("best", "best, triplet")
    assert "mislabelled" in set(read_review(run)["kind"])


def test_keypoints_vote_where_the_sweep_has_them(record: Record, photographs: Photographs) -> None:
    run = record.folder.parents[1]
    write_review(record, run, photographs, keypoints="orb")
    assert json.loads((run / "review.json").read_text())["votes"] == "best, orb"
    assert "016.png" in set(read_review(run)["image"])


@pytest.mark.parametrize(
    ("kind", "most", "reason"),
    [
        ("none", 3000, "no retrieval setting of the sweep uses keypoints"),
        ("orb", 100, "keypoints of at most 100 photographs are compared, but there are 116"),
    ],
)
def test_keypoints_do_not_vote_with_a_reason(
    kind: str, most: int, reason: str, record: Record, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_votes, "MOST_COMPARED", most)
    vectors, found = matcher_vote(read_votes([record])[0], kind, photographs.catalog)
    assert vectors is None
    assert found.startswith(reason)


def test_keypoints_of_photographs_that_cannot_be_read_do_not_vote(record: Record) -> None:
    assert matcher_vote(read_votes([record])[0], "orb", None) == (None, "the photographs cannot be read")
