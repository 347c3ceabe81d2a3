"""Hints about missing image files: the near file that exists and the one remedy for all."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from whale_ray.data.hints.missing_files import explain_missing_files

NFC, NFD = (unicodedata.normalize(form, "Müller_é") for form in ("NFC", "NFD"))


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "train").mkdir(parents=True, exist_ok=True)
    return root / "train"


@pytest.mark.parametrize(
    ("there", "name", "remedy"),
    [
        ("train/{}.jpg", "{}", "append .jpg to each name in the image column"),
        ("train/{}.jpg.jpg", "{}.jpg", "append .jpg to each name in the image column"),
        ("train/{}.png", "{}.jpg", "write .png for .jpg in the image column"),
        ("train/{}.JPG", "{}.jpg", "write .JPG for .jpg in the image column"),
        ("train/img_{}.jpg", "IMG_{}.JPG", "write capital and small letters as the files have them"),
        (f"train/{NFD}_{{}}.jpg", f"{NFC}_{{}}.jpg", "write accents in the Unicode form NFD"),
        (f"train/{NFC}_{{}}.jpg", f"{NFD}_{{}}.jpg", "write accents in the Unicode form NFC"),
        ("train/a {}.jpg", "a%20{}.jpg", "write characters as they are"),
        ("train/é{}.jpg", "%C3%A9{}.jpg", "write characters as they are"),
        ("train/{}.jpg", "{} .jpg", "write blanks, hyphens and underscores as the files have them"),
        ("train/IMG-{}.jpg", "IMG_{}.jpg", "write blanks, hyphens and underscores as the files have them"),
        ("train/IMG {}.JPG", "img_{}.jpg", "write each name as its file has it"),
        ("train/000{}.jpg", "{}.jpg", "write the zeros at the start of the name"),
        ("train/a/{}.jpg", "a\\{}.jpg", r"write / for \ in the image column"),
        ("train/{}.jpg", "train/{}.jpg", "add --set data.image_folder=."),
        ("train/{}.jpg", "train\\{}.jpg", r"add --set data.image_folder=., and write / for \ in the image column"),
        ("train/train/{}.jpg", "{}.jpg", "add --set data.image_folder=train/train"),
        ("my photos/{}.jpg", "{}.jpg", "add --set 'data.image_folder=my photos'"),
        ("my photos/{}.jpg", "{}", "add --set 'data.image_folder=my photos', and append .jpg to each name"),
        ("train/{}.jpg", "fotos/{}.jpg", "leave out fotos/ in the image column"),
        ("train/a/{}.jpg", "b/{}.jpg", "write a/ instead of b/ in the image column"),
        ("train/{}.jpg", "/home/anna/{}.jpg", "leave out the start of absolute paths"),
        ("train/{}.jpg", "C:\\photos\\{}.jpg", "leave out the start of absolute paths"),
        ("train/{}.jpg", "./{}.JPG", "write .jpg for .JPG in the image column"),
    ],
)
def test_the_near_file_and_the_remedy_for_all_are_named(tmp_path: Path, there: str, name: str, remedy: str) -> None:
    folder = files(tmp_path, *(there.format(number) for number in range(11, 14)))
    (line,) = explain_missing_files([name.format(number) for number in range(11, 14)], folder)
    start = f"all 3 missing files are there under another name, as {name.format(11)} at {there.format(11)}: "
    assert unicodedata.normalize("NFC", line).startswith(unicodedata.normalize("NFC", start))
    assert remedy in line


def test_the_file_in_the_named_folder_is_nearest(tmp_path: Path) -> None:
    folder = files(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/b/1.txt", "other/b/1.jpg")
    (line,) = explain_missing_files(["b/1.JPG"], folder)
    assert "as b/1.JPG at train/b/1.jpg: " in line


def test_names_of_several_spellings_have_one_remedy(tmp_path: Path) -> None:
    folder = files(tmp_path, "train/1.jpg", "train/2a.jpg", "train/3.jpg", "train/4.png")
    (line,) = explain_missing_files(["1.JPG", "2A.JPG", "3.JPG"], folder)
    assert line.endswith("write capital and small letters as the files have them in the image column")
    (line,) = explain_missing_files(["1", "3", "4"], folder)
    assert line.endswith("write the ending of each file in the image column")
    (line,) = explain_missing_files(["1.gif", "4.gif"], folder)
    assert line.endswith("write the ending of each file in the image column")


def test_files_in_many_folders_have_one_remedy(tmp_path: Path) -> None:
    folder = files(tmp_path, *(f"train/{number}/{number}.jpg" for number in range(9)))
    (line,) = explain_missing_files([f"{number}.jpg" for number in range(9)], folder)
    assert line.startswith("all 9 missing files are there")
    assert "write the folder of each file" in line or "data.image_folder" in line


def test_the_setting_counts_from_the_root_of_the_data_set(tmp_path: Path) -> None:
    files(tmp_path / "data", "pictures/1.jpg")
    (line,) = explain_missing_files(["1.jpg"], tmp_path / "data", root=tmp_path / "data")
    assert line.endswith("add --set data.image_folder=pictures")


def test_names_without_a_near_file_are_counted(tmp_path: Path) -> None:
    folder = files(tmp_path, "train/1.jpg", "train/2.jpg")
    assert explain_missing_files(["1.png", "x.jpg", "y.jpg"], folder)[-1] == "2 missing files have no near name"
    (line,) = explain_missing_files(["x.jpg", "y.jpg"], folder)
    assert "train holds 2 files, such as 1.jpg, but none with a name like the 2 missing ones" in line
    (line,) = explain_missing_files(["x.jpg"], tmp_path / "nowhere")
    assert "nowhere holds no file: copy the photographs there" in line
