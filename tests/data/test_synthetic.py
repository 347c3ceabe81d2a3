from __future__ import annotations

import csv
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import SECONDS

from whale_ray.data.catalog import read_catalog
from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.data.synthetic.drawing_record import describe_drawing
from whale_ray.data.synthetic.photo_plan import UNKNOWN, plan_photos
from whale_ray.errors import DataError

SMALL = {"individuals": 12, "images": 90, "size": (32, 64), "workers": 1}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "synthetic"
    draw_dataset(root, **SMALL)
    return root


@pytest.mark.parametrize(("part", "table"), [("train", "train.csv"), ("test", "test_labels.csv")])
def test_tables_and_pictures_are_the_same_set(drawn: Path, part: str, table: str):
    listed = [row["Image"] for row in rows(drawn / table)]
    assert len(listed) == {"train": 90, "test": 18}[part]
    assert sorted(listed) == sorted(path.name for path in (drawn / part).iterdir())
    assert all(re.fullmatch(r"[0-9a-f]{9}\.jpg", name) for name in listed)


def test_pictures_are_rgb_jpegs_no_larger_than_asked(drawn: Path):
    for path in drawn.glob("t*/*.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.width) == ("JPEG", "RGB", 64)
            assert 24 <= picture.height <= 32


def test_labels_have_the_form_of_the_competition(drawn: Path):
    labels = {row["Id"] for row in rows(drawn / "train.csv")}
    assert len(labels) == 13
    assert all(label == UNKNOWN or re.fullmatch(r"w_[0-9a-f]{7}", label) for label in labels)
    assert {row["Id"] for row in rows(drawn / "test_labels.csv")} <= labels


def test_sample_submission_lists_every_test_picture_once_with_five_distinct_labels(drawn: Path):
    sample = rows(drawn / "sample_submission.csv")
    assert sorted(row["Image"] for row in sample) == sorted(path.name for path in (drawn / "test").iterdir())
    assert all(len(set(row["Id"].split())) == 5 for row in sample)


def test_the_catalog_reads_it_with_its_encounters(drawn: Path):
    catalog = read_catalog(drawn, group_column="Encounter")
    assert len(catalog.table) == 90
    assert catalog.table.group.ne("").all()


def test_the_class_balance_is_that_of_the_competition():
    train = [p for p in plan_photos(individuals=5004, images=25361, seed=0) if p.part == "train"]
    named = Counter(p.label for p in train if p.label != UNKNOWN)
    assert len(train) == 25361
    assert len(named) == 5004
    assert len(train) - named.total() == pytest.approx(9664, rel=0.01)
    histogram = Counter(named.values())
    assert histogram[1] == pytest.approx(2073, rel=0.01)
    assert histogram[2] == pytest.approx(1285, rel=0.2)
    assert sum(count for images, count in histogram.items() if images >= 10) == pytest.approx(311, rel=0.4)
    assert 50 <= max(named.values()) <= 110


@pytest.mark.parametrize(("individuals", "images"), [(2, 6), (3, 9), (7, 21), (60, 700), (500, 1501)])
def test_every_individual_is_named_and_every_image_counted(individuals: int, images: int):
    train = [p for p in plan_photos(individuals=individuals, images=images, seed=3) if p.part == "train"]
    named = Counter(p.label for p in train if p.label != UNKNOWN)
    assert (len(train), len(named)) == (images, individuals)
    assert max(named.values()) >= 2


def test_an_encounter_is_of_one_animal_on_one_day_and_two_images_have_two():
    photos = plan_photos(individuals=60, images=700, seed=0)
    met = defaultdict(set)
    encounters, images = defaultdict(set), Counter()
    for photo in photos:
        met[photo.encounter].add((photo.animal, photo.day, photo.part))
        if photo.part == "train" and photo.label != UNKNOWN:
            encounters[photo.label].add(photo.encounter)
            images[photo.label] += 1
    assert all(len(seen) == 1 for seen in met.values())
    assert max(Counter(photo.encounter for photo in photos).values()) == 3
    assert all(len(encounters[label]) >= 2 for label, count in images.items() if count >= 2)


def test_light_and_water_of_a_day_are_shared_by_many_animals():
    animals = defaultdict(set)
    for photo in plan_photos(individuals=60, images=700, seed=0):
        animals[photo.day].add(photo.animal)
    assert min(len(seen) for seen in animals.values()) >= 5


def test_unknown_animals_are_never_named():
    photos = plan_photos(individuals=60, images=700, seed=0)
    named = {p.animal for p in photos if p.label != UNKNOWN}
    assert named.isdisjoint(p.animal for p in photos if p.label == UNKNOWN)


@pytest.mark.integration
def test_bytes_depend_on_the_seed_alone_and_not_on_the_workers(tmp_path: Path):
    shape = {"individuals": 12, "images": 180, "size": (32, 48), "seed": 5}
    for workers in (1, 2, 3):
        draw_dataset(tmp_path / str(workers), **shape, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")
    draw_dataset(tmp_path / "other", **{**shape, "seed": 6}, workers=1)
    assert digests(tmp_path / "other").keys().isdisjoint(name for name in digests(tmp_path / "1") if "jpg" in name)


def nearest_on_raw_pixels(root: Path, difficulty: float) -> float:
    """The share of named images whose nearest image of another encounter, at 16 x 16 pixels, is of the same animal."""
    draw_dataset(root, individuals=12, images=150, size=(64, 128), difficulty=difficulty, workers=1)
    table = [row for row in rows(root / "train.csv") if row["Id"] != UNKNOWN]
    counts = Counter(row["Id"] for row in table)
    pixels = [np.asarray(Image.open(root / "train" / row["Image"]).resize((16, 16)), np.float64) for row in table]
    unit = np.stack([(p - p.mean()).ravel() / np.linalg.norm(p - p.mean()) for p in pixels])
    labels, met = (np.array([row[key] for row in table]) for key in ("Id", "Encounter"))
    cosines = np.where(met[:, None] == met, -2, unit @ unit.T)
    known = np.array([counts[label] > 1 for label in labels])
    return float((labels[cosines.argmax(axis=1)] == labels)[known].mean())


@pytest.mark.integration
def test_difficulty_makes_raw_pixels_useless_for_identification(tmp_path: Path):
    assert nearest_on_raw_pixels(tmp_path / "studio", 0.0) >= 0.95
    assert nearest_on_raw_pixels(tmp_path / "storm", 1.0) <= 0.4


def test_an_empty_folder_and_missing_parents_are_accepted(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b"):
        draw_dataset(root, individuals=2, images=6, size=(32, 32), workers=1)
        assert (root / "train.csv").exists()
        assert [path.name for path in root.parent.glob(".*")] == []


@pytest.mark.parametrize("name", ["photos", "photos/own.txt"])
def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path, name: str):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "own.txt").write_text("mine")
    with pytest.raises(DataError, match=r"empty or does not exist, but .*photos.* is neither; nothing was written"):
        draw_dataset(tmp_path / name, individuals=2, images=6, workers=1)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["photos", "photos/own.txt"]


def test_all_invalid_arguments_are_reported_at_once(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        draw_dataset(tmp_path / "x", individuals=1, images=2, difficulty=1.5, seed=-1, size=(8, 256), workers=-2)
    for rule in (
        "`individuals >= 2` must hold, but got 1",
        "but got 2 images of 1 individuals; draw at least 3",
        "`0 <= difficulty <= 1` must hold, but got 1.5",
        "`seed >= 0` must hold, but got -1",
        "got (8, 256)",
        "`workers >= 0` must hold (0: one a core), but got -2",
    ):
        assert rule in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_drawing_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        draw_dataset(tmp_path / "x", individuals=2, images=6, workers=1)
    assert list(tmp_path.iterdir()) == []


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_kill_leaves_no_half_data_set_and_no_process_and_the_next_call_draws_it(tmp_path: Path):
    root = tmp_path / "data"
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\nfrom whale_ray.data.synthetic.dataset import draw_dataset\n"
        "if __name__ == '__main__':\n"
        f"    draw_dataset(Path({str(root)!r}), individuals=50, images=4000, workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + SECONDS
    while not any(tmp_path.glob(".data.partial/train/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    assert not root.exists()
    while any(map(running, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(running, children))
    draw_dataset(root, individuals=2, images=6, size=(32, 32), workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "draw.py"]
    assert len(list((root / "train").iterdir())) == 6


def test_a_drawn_data_set_says_that_it_is_drawn_and_photographs_do_not(drawn: Path, tmp_path: Path):
    sentence = describe_drawing(drawn)
    assert sentence.startswith("the photographs are drawn by whale-ray synth (individuals 12, images 90, difficulty")
    assert describe_drawing(tmp_path) == describe_drawing(None) == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"x" * 5000], ids=["empty", "no text", "long"])
def test_an_edited_record_still_says_that_photographs_are_drawn(tmp_path: Path, content: bytes):
    (tmp_path / "drawn.txt").write_bytes(content)
    assert len(describe_drawing(tmp_path)) < 500
    assert "drawn by whale-ray synth" in describe_drawing(tmp_path)
