"""Audit: unusable photographs, duplicates and contradictory labels."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from whale_ray.data.audit import Audit, audit_photographs
from whale_ray.data.catalog import Catalog
from whale_ray.data.hints.audit_lines import describe_findings
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import decode_images
from whale_ray.errors import DataError

DataFolder = Callable[[dict[str, tuple[str, bytes | Image.Image]]], Catalog]


def drawn(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture
def audited(data_folder: DataFolder, tmp_path: Path) -> Callable[..., Audit]:
    def audit(photographs: dict[str, tuple[str, bytes | Image.Image]], **settings: str) -> Audit:
        catalog = data_folder(photographs)
        pixels = decode_images(catalog, Geometry(64, 64), cache=tmp_path / "cache")
        return audit_photographs(catalog, pixels, **settings)

    return audit


def test_a_valid_data_set_is_counted(audited: Callable[..., Audit]) -> None:
    names = ["w", "w", "w", "v", "v", "u", "new_whale"]
    audit = audited({f"{place}.png": (name, drawn(place, (90 + place, 60))) for place, name in enumerate(names)})
    assert audit.usable.all()
    assert (audit.twins == "").all()
    found = audit.findings
    assert (found["photographs"], found["individuals"], found["singletons"], found["unknown"]) == (7, 3, 1, 1)
    assert found["images_per_individual"] == {"1": 1, "2": 1, "3": 1}
    assert found["widths"] == {"smallest": 90, "median": 93, "largest": 96}
    assert found["set_aside"] == found["twins"] == found["conflicts"] == found["identical_files"] == []
    assert audit.lines() == [
        "7 photographs: 6 of 3 named individuals (1 with one photograph), 1 of unknown ones",
        "nothing wrong was found",
    ]


def test_unusable_photographs_are_set_aside_and_listed(
    hostile: dict[str, bytes], audited: Callable[..., Audit]
) -> None:
    good = {"good.png": ("w", drawn(5)), "also.png": ("w", drawn(6))}
    audit = audited(good | {name: ("v", content) for name, content in hostile.items()})
    shown = {row["image"]: row["status"] for row in audit.findings["set_aside"]}
    assert shown == {
        "text.jpg": "wrong_type",
        "truncated.jpg": "damaged",
        "vast.png": "too_large",
        "animated.gif": "wrong_type",
        "empty.jpg": "empty",
    }
    assert audit.usable.sum() == 5
    text = "\n".join(audit.lines())
    assert "5 photographs cannot be used and are set aside:" in text
    assert all(name in text for name in shown)
    assert all(row["reason"] for row in audit.findings["set_aside"])


def test_unusable_photographs_are_an_error_on_request(hostile: dict[str, bytes], audited: Callable[..., Audit]) -> None:
    photographs = {"a.png": ("w", drawn(1)), "b.png": ("w", drawn(2)), "text.jpg": ("w", hostile["text.jpg"])}
    with pytest.raises(DataError, match=r"1 of 3 are not:\n  text\.jpg: wrong_type.*\n.*set_aside to continue"):
        audited(photographs, on_bad_image="error")


def test_a_data_set_without_a_usable_photograph_is_an_error(audited: Callable[..., Audit]) -> None:
    with pytest.raises(DataError, match="2 of 2 are not"):
        audited({"a.png": ("w", b"text"), "b.png": ("w", b"text")})


def test_the_same_picture_saved_again_smaller_and_worse_is_a_twin(audited: Callable[..., Audit]) -> None:
    picture = drawn(1)
    audit = audited(
        {
            "a.png": ("w", picture),
            "other.png": ("w", drawn(2)),
            "worse.jpg": ("w", saved(picture, 40)),
            "small.png": ("w", picture.resize((80, 60), Image.Resampling.BICUBIC)),
        }
    )
    assert audit.findings["twins"] == [["a.png", "worse.jpg", "small.png"]]
    assert audit.twins[0] == audit.twins[2] == audit.twins[3] != ""
    assert audit.twins[1] == ""
    assert audit.findings["conflicts"] == []
    assert audit.lines()[1:] == [
        "1 picture is there more than once; the split keeps the copies together:",
        "  a.png, worse.jpg, small.png",
    ]


def test_the_same_picture_under_two_individuals_is_a_conflict(audited: Callable[..., Audit]) -> None:
    audit = audited(
        {
            "a.png": ("w", drawn(1)),
            "b.png": ("w", drawn(2)),
            "c.jpg": ("v", saved(drawn(1), 90)),
            "d.png": ("v", drawn(4)),
        }
    )
    assert audit.findings["conflicts"] == [{"images": ["a.png", "c.jpg"], "individuals": ["v", "w"]}]
    assert audit.lines()[1].startswith("1 picture has two individuals")
    assert audit.lines()[2:] == ["  v and w: a.png, c.jpg"]


def test_counts_are_of_usable_photographs_and_no_individual_is_lost(audited: Callable[..., Audit]) -> None:
    photographs = {"a.png": ("w", drawn(1)), "b.png": ("w", b"text"), "c.png": ("v", b"text"), "d.png": ("u", drawn(2))}
    audit = audited(photographs)
    found = audit.findings
    assert (found["photographs"], found["individuals"], found["singletons"]) == (4, 2, 2)
    assert found["without_photograph"] == ["v"]
    assert (
        audit.lines()[0]
        == "4 photographs: 2 of 2 named individuals (2 with one photograph), 0 of unknown ones, 2 unusable"
    )
    assert audit.lines()[-2:] == ["1 individual has no photograph that can be used:", "  v"]


def test_a_near_name_of_missing_files_is_a_hint(data_folder: DataFolder, tmp_path: Path) -> None:
    catalog = data_folder({f"{number}.png": ("w", drawn(number)) for number in range(3)})
    for name in ("0.png", "1.png"):
        (catalog.folder / name).rename(catalog.folder / name.replace(".png", ".PNG"))
    audit = audit_photographs(catalog, decode_images(catalog, Geometry(64, 64), cache=tmp_path / "cache"))
    hint = "all 2 missing files are there under another name, as 0.png at train/0.PNG: write .PNG for .png"
    assert audit.findings["hints"] == [f"{hint} in the image column"]
    assert audit.lines()[-1] == f"hint: {hint} in the image column"


def test_if_all_files_are_missing_the_error_names_the_near_ones(data_folder: DataFolder, tmp_path: Path) -> None:
    catalog = data_folder({f"{number}.png": ("w", drawn(number)) for number in range(3)})
    catalog.folder.rename(tmp_path / "data" / "pictures")
    catalog.folder.mkdir()
    pixels = decode_images(catalog, Geometry(64, 64), cache=tmp_path / "cache")
    with pytest.raises(DataError, match="some photograph must be readable, but 3 of 3 are not") as caught:
        audit_photographs(catalog, pixels)
    assert str(caught.value).endswith("as 0.png at pictures/0.png: add --set data.image_folder=pictures")
    assert "set_aside" not in str(caught.value)


def test_another_label_of_unknown_animals_is_a_hint(audited: Callable[..., Audit]) -> None:
    names = ["w", "w", "New_Whale", "New_Whale", "New_Whale"]
    audit = audited({f"{place}.png": (name, drawn(place)) for place, name in enumerate(names)})
    (hint,) = audit.findings["hints"]
    assert "'New_Whale' in 3 rows" in hint
    assert audit.lines()[1:] == [f"hint: {hint}"]


def test_an_individual_of_two_species_is_listed(data_folder: DataFolder, tmp_path: Path) -> None:
    names = ["w", "w", "v", "v", "new_whale", "new_whale"]
    catalog = data_folder({f"{place}.png": (name, drawn(place)) for place, name in enumerate(names)})
    table = catalog.table.assign(species=["fin", "blue", "fin", "", "fin", "blue"])
    catalog = dataclasses.replace(catalog, table=table)
    audit = audit_photographs(catalog, decode_images(catalog, Geometry(64, 64), cache=tmp_path / "cache"))
    assert audit.findings["several_species"] == [{"individual": "w", "species": ["blue", "fin"]}]
    lines = audit.lines()
    heading = "1 individual has two species or more, so that a label is wrong:"
    assert lines[lines.index(heading) + 1] == "  w: blue, fin"


def test_a_long_list_is_cut_only_where_audit_json_has_the_rest(audited: Callable[..., Audit]) -> None:
    audit = audited({f"{n:02}.png": ("w", b"text") for n in range(12)} | {"x.png": ("w", drawn(1))})
    assert audit.lines()[-1] == "  and 2 more in audit.json"
    assert audit.lines(most=None)[-1].startswith("  11.png: ")


@pytest.mark.parametrize("side", [64, 128, 200])
def test_twins_are_the_same_at_every_picture_size(side: int, data_folder: DataFolder, tmp_path: Path) -> None:
    photographs = {"wide.png": ("w", drawn(1, (640, 40))), "worse.jpg": ("w", saved(drawn(1, (640, 40)), 30))}
    catalog = data_folder(photographs | {"other.png": ("w", drawn(3))})
    pixels = decode_images(catalog, Geometry(side, side, margin=0.125), cache=tmp_path / "cache")
    assert audit_photographs(catalog, pixels).findings["twins"] == [["wide.png", "worse.jpg"]]


def test_identical_files_are_listed(audited: Callable[..., Audit]) -> None:
    audit = audited({"a.png": ("w", drawn(1)), "b.png": ("w", drawn(1)), "c.png": ("w", drawn(2))})
    assert audit.findings["identical_files"] == [["a.png", "b.png"]]


def test_images_with_equal_hashes_but_different_pixels_are_no_twins(audited: Callable[..., Audit]) -> None:
    """A perceptual hash sees no brightness; the comparison of pixels does."""
    dark = ImageEnhance.Brightness(drawn(1)).enhance(0.5)
    audit = audited({"a.png": ("w", drawn(1)), "b.png": ("w", dark)})
    hashes = [int(audit_hash, 16) for audit_hash in _hashes(drawn(1), dark)]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 6
    assert audit.findings["twins"] == []


def _hashes(*images: Image.Image) -> list[str]:
    import imagehash

    return [str(imagehash.phash(image)) for image in images]


def test_grey_padding_does_not_make_wide_pictures_alike(audited: Callable[..., Audit]) -> None:
    wide = drawn(1, (640, 40))
    paler = ImageEnhance.Brightness(wide).enhance(0.7)
    assert audited({"a.png": ("w", wide), "b.png": ("w", paler)}).findings["twins"] == []


def test_hundreds_of_blank_pictures_are_one_group(audited: Callable[..., Audit]) -> None:
    blank = Image.new("RGB", (20, 20), "black")
    audit = audited({f"{number}.png": ("w", blank) for number in range(150)} | {"a.png": ("v", drawn(1))})
    assert [len(group) for group in audit.findings["twins"]] == [150]


def test_the_audit_is_written_as_json(audited: Callable[..., Audit], tmp_path: Path) -> None:
    audit = audited({"a.png": ("w", drawn(1)), "b.png": ("w", drawn(1)), "c.png": ("v", b"text")})
    audit.write(tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text()) == audit.findings


def findings_of(number: int) -> dict[str, Any]:
    """Return findings with `number` rows of every kind."""
    names = [f"{place}.png" for place in range(number)]
    return {
        **dict.fromkeys(("photographs", "individuals", "groups"), number),
        "animals": number + 2,
        "unknown": 0,
        "singletons": 0,
        "hints": [],
        "set_aside": [{"image": name, "status": "missing", "reason": "there is no such file"} for name in names],
        "without_photograph": names,
        "twins": [[name, "copy.png"] for name in names],
        "conflicts": [{"images": [name, "other.png"], "individuals": ["v", "w"]} for name in names],
        "several_species": [{"individual": name, "species": ["blue", "fin"]} for name in names],
        "remarks": [{"image": name, "remark": "truncated"} for name in names],
        "encounters": [{"images": [name, "copy.png"]} for name in names],
        "same_day": {"known": 2 * number, "dated": number, "same_day": number},
    }


@pytest.mark.parametrize("number", [1, 2])
def test_numbers_and_their_words_agree(number: int) -> None:
    """A number before a word that does not fit it, as in "1 pictures are" or "2 picture has", in any line."""
    text = "\n".join(describe_findings(findings_of(number)))
    plural = r"photographs|pictures|individuals|named individuals|animals|encounters"
    singular = r"photograph|picture|individual|named individual|animal|encounter"
    assert len(re.findall(rf"^{number} .*:$", text, flags=re.MULTILINE)) == 6
    assert f"{number} of {2 * number} known queries (50%) {'has' if number == 1 else 'have'} a photograph" in text
    assert not re.findall(rf"\b1 (?:{plural})\b|\b[02-9] (?:{singular})\b", text)
    verbs = [re.findall(r"\b(is|are|has|have|was|were)\b", line)[0] for line in text.splitlines() if line.endswith(":")]
    assert set(verbs) <= ({"is", "has", "was"} if number == 1 else {"are", "have", "were"})
