"""Kaggle submission file."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from whale_ray.errors import DataError
from whale_ray.inference.kaggle_submission import kaggle_command, write_submission
from whale_ray.inference.predictor import Bundle

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult


@pytest.fixture(scope="module")
def bundle(finished: SweepResult) -> Bundle:
    return Bundle.load(finished.folder / "best")


@pytest.fixture
def images(photographs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(photographs / "test", tmp_path / "test")


def rows(path: Path) -> dict[str, list[str]]:
    """Image → labels, as Kaggle reads it; the header and that no image comes twice are checked on the way."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["Image", "Id"]
    assert len({image for image, _ in lines}) == len(lines)
    return {image: labels.split(" ") for image, labels in lines}


def with_threshold(bundle: Bundle, threshold: float | None) -> Bundle:
    return Bundle(dataclasses.replace(bundle.contents, manifest=bundle.card | {"threshold": threshold}))


def test_every_test_image_has_one_row_of_five_distinct_known_labels(
    bundle: Bundle, images: Path, photographs: Path, tmp_path: Path
) -> None:
    written = write_submission(bundle, images, tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert (written.photographs, written.undecodable, written.others) == (len(found), {}, {})
    wanted = pd.read_csv(photographs / "sample_submission.csv")["Image"]
    assert set(found) == set(wanted)
    for labels in found.values():
        assert len(labels) == len(set(labels)) == 5
        assert set(labels) <= {*bundle.individuals, "new_whale"}


def test_the_labels_are_those_that_identify_ranks(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    write_submission(with_threshold(bundle, None), images, tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    for path, answer in zip(sorted(images.iterdir()), bundle.identify(sorted(images.iterdir())), strict=True):
        assert found[path.name] == [candidate.individual for candidate in answer.candidates]


def test_a_label_with_a_space_is_refused(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    table = bundle.contents.table.replace({bundle.individuals[0]: "two words"})
    with pytest.raises(DataError, match=r"free of spaces.*two words"):
        write_submission(Bundle(dataclasses.replace(bundle.contents, table=table)), images, tmp_path / "out.csv")


@pytest.mark.parametrize(("threshold", "place"), [(1.01, 0), (-1.01, None), (None, None)])
def test_new_whale_is_placed_by_the_threshold(
    bundle: Bundle, images: Path, tmp_path: Path, threshold: float | None, place: int | None
) -> None:
    write_submission(with_threshold(bundle, threshold), images, tmp_path / "out.csv")
    for labels in rows(tmp_path / "out.csv").values():
        assert ("new_whale" in labels) == (place is not None)
        assert place is None or labels[place] == "new_whale"


def test_an_image_that_cannot_be_decoded_is_reported_and_has_a_row(
    bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in images.iterdir())
    (images / names[0]).write_bytes(b"a text")
    (images / names[1]).write_bytes((images / names[1]).read_bytes()[:200])
    (images / names[2]).unlink()
    (images / names[2]).symlink_to(images / "nowhere.jpg")
    unreadable = write_submission(bundle, images, tmp_path / "out.csv").undecodable
    assert sorted(unreadable) == names[:3]
    assert all(unreadable.values())
    found = rows(tmp_path / "out.csv")
    assert sorted(found) == names
    frequent = pd.Series(bundle.individuals).value_counts().index[0]
    for name in names[:3]:
        assert found[name][:2] == ["new_whale", frequent]
        assert len(set(found[name])) == 5


def test_only_images_are_read_whatever_their_names(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    first = sorted(images.iterdir())[0]
    first.rename(images / 'a, "b" c.JPG')
    (images / "Thumbs.db").write_bytes(b"")
    (images / "folder.jpg").mkdir()
    written = write_submission(bundle, images, tmp_path / "out.csv")
    assert (written.undecodable, written.others) == ({}, {"Thumbs.db": "the file is empty"})
    found = rows(tmp_path / "out.csv")
    assert 'a, "b" c.JPG' in found
    assert not {"Thumbs.db", "folder.jpg"} & found.keys()


def test_photographs_of_every_name_and_sub_folder_have_a_row(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    first, second, third, *_ = sorted(images.iterdir())
    (images / "sub").mkdir()
    names = {first.rename(images / "photograph"), second.rename(images / "a.HEIC"), third.rename(images / "sub/b.jpe")}
    (images / "notes.txt").write_text("a text")
    written = write_submission(bundle, images, tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert {str(name.relative_to(images)) for name in names} <= found.keys()
    assert (written.photographs, list(written.others)) == (len(found), ["notes.txt"])
    assert written.new == sum(labels[0] == "new_whale" for labels in found.values())


def test_a_folder_without_photographs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="must hold photographs"):
        write_submission(bundle, tmp_path / "empty", tmp_path / "out.csv")
    with pytest.raises(DataError, match="must lie in a folder"):
        write_submission(bundle, tmp_path / "nowhere", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_the_printed_kaggle_command_names_file_and_competition() -> None:
    command = kaggle_command(Path("out.csv"))
    assert command.startswith("kaggle competitions submit -c humpback-whale-identification -f out.csv -m ")
