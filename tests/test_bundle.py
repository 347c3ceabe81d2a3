"""Bundle: read as written; missing, damaged and forged files are refused and execute nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from whale_ray.errors import BundleError
from whale_ray.inference.bundle import MANIFEST, read_bundle, write_bundle
from whale_ray.inference.model_card import SCORES, card_metadata, model_card
from whale_ray.inference.predictor import Bundle

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

PARTS = (
    "encoder.safetensors",
    "gallery.npy",
    "gallery.csv",
    "README.md",
    "golden/00.png",
    "golden/embeddings.npy",
    "thumbnails/0.jpg",
    "examples/0.jpg",
    "examples/examples.csv",
)


@pytest.fixture
def copied(finished: SweepResult, tmp_path: Path) -> Path:
    """A bundle of its own for every test, to be damaged."""
    assert finished.bundle
    return shutil.copytree(finished.bundle, tmp_path / "bundle")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest, and lists every file as it is now: what a person who forges a bundle would do."""
    manifest = json.loads((folder / MANIFEST).read_text())
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def nothing(manifest: dict[str, Any]) -> None:
    pass


def test_a_bundle_is_read_as_it_was_written(copied: Path, tmp_path: Path) -> None:
    contents = read_bundle(copied)
    again = read_bundle(write_bundle(contents, tmp_path / "again"))
    assert again.manifest == contents.manifest
    assert again.golden == contents.golden
    assert again.thumbnails == contents.thumbnails
    assert again.examples == contents.examples
    assert again.weights.keys() == contents.weights.keys()
    assert all((again.weights[name] == contents.weights[name]).all() for name in contents.weights)
    pd.testing.assert_frame_equal(again.table, contents.table)
    np.testing.assert_array_equal(again.gallery, contents.gallery)
    np.testing.assert_array_equal(again.golden_vectors, contents.golden_vectors)


def test_a_bundle_holds_the_files_of_the_contract(copied: Path) -> None:
    contents = read_bundle(copied)
    assert {path.name for path in copied.iterdir()} == {
        *("bundle.json", "encoder.safetensors", "gallery.npy", "gallery.csv"),
        *("thumbnails", "golden", "examples", "README.md"),
    }
    assert contents.gallery.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(contents.gallery.astype(np.float32), axis=1), 1.0, atol=1e-3)
    assert list(contents.table.columns) == ["image", "individual"]
    assert "new_whale" not in set(contents.table["individual"])
    manifest = contents.manifest
    assert {"settings", "preprocessing", "retrieval", "threshold", "calibration", "scores"} < manifest.keys()
    assert {"data_fingerprint", "libraries", "files", "tolerance"} < manifest.keys()
    assert {"recall@1", "recall@1_low", "recall@1_high", "map@5"} < manifest["scores"].keys()
    assert manifest["libraries"].keys() >= {"torch", "numpy", "whale-ray"}


def test_the_tolerance_is_at_most_a_tenth_of_the_smallest_distance_between_golden_images(copied: Path) -> None:
    contents = read_bundle(copied)
    vectors = contents.golden_vectors
    distances = [1 - float(one @ other) for place, one in enumerate(vectors) for other in vectors[:place]]
    assert len(vectors) >= 2
    assert 0 < contents.manifest["tolerance"] <= min(distances) / 10 + 1e-9


@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_file_is_named(copied: Path, name: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        Bundle.load(copied)


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(copied)


@pytest.mark.parametrize("name", ["more.txt", "golden/99.png", "thumbnails/999.jpg", "deep/er/file"])
def test_an_added_file_is_named(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"not of this bundle")
    with pytest.raises(BundleError, match=f"{name} is not in its list"):
        Bundle.load(copied)


@pytest.mark.parametrize(
    "name",
    [
        *(".gitattributes", ".gitignore", ".git/objects/ab/cdef", ".cache/huggingface/download/x.metadata"),
        *(
            ".huggingface/x",
            ".DS_Store",
            "golden/.DS_Store",
            "thumbnails/Thumbs.db",
            "thumbs.db",
            "examples/desktop.ini",
        ),
        *("._bundle.json", "golden/._00.png", "thumbnails/._0.jpg"),
    ],
)
def test_files_that_hubs_and_desktops_add_are_ignored(copied: Path, name: str) -> None:
    before = read_bundle(copied)
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"not of this bundle")
    contents = read_bundle(copied)
    assert (contents.golden, contents.thumbnails) == (before.golden, before.thumbnails)


@pytest.mark.parametrize("name", ["golden/.gitattributes", "golden/.git/config", ".gitattributes.txt", "x/Thumbs.db/y"])
def test_files_with_a_similar_name_are_refused(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_bytes(b"not of this bundle")
    with pytest.raises(BundleError, match=f"{name} is not in its list"):
        read_bundle(copied)


def test_a_listed_file_is_checked_even_if_its_name_is_one_that_hubs_add(copied: Path) -> None:
    (copied / ".gitattributes").write_text("* text=auto")
    rewrite(copied, nothing)
    read_bundle(copied)
    (copied / ".gitattributes").write_text("* binary")
    with pytest.raises(BundleError, match=r"\.gitattributes is damaged"):
        read_bundle(copied)


@pytest.mark.parametrize("names", [("encoder.safetensors",), ("gallery.npy", "golden/00.png"), (MANIFEST,)])
def test_git_lfs_pointers_are_named_with_the_remedy(copied: Path, names: tuple[str, ...]) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n"
    for name in names:
        (copied / name).write_text(pointer)
    with pytest.raises(BundleError, match=rf"in place of {', '.join(names)}\. Run `git lfs pull`"):
        read_bundle(copied)


def test_all_faults_are_in_one_message(copied: Path) -> None:
    (copied / "gallery.csv").unlink()
    (copied / "README.md").write_text("other")
    (copied / "more").write_text("more")
    with pytest.raises(BundleError, match=r"gallery\.csv is missing; more is not in its list; README\.md is damaged"):
        Bundle.load(copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has none. Name a bundle's folder"),
        ("{", "is not JSON"),
        ("[]", "has format None"),
        ('{"format": 99, "files": {}}', "reads bundles of format 1, but .* has format 99"),
        ('{"format": 1}', "must hold id, .*, files, but does not"),
    ],
)
def test_a_folder_with_another_manifest_is_no_bundle(copied: Path, text: str | None, message: str) -> None:
    (copied / MANIFEST).unlink()
    if text is not None:
        (copied / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=message):
        Bundle.load(copied)


def test_a_missing_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="a bundle is a folder with a"):
        Bundle.load(tmp_path / "nowhere")


def test_a_bundle_is_never_overwritten(copied: Path) -> None:
    with pytest.raises(BundleError, match="never overwritten"):
        write_bundle(read_bundle(copied), copied)


def test_a_write_that_fails_leaves_nothing(copied: Path, tmp_path: Path) -> None:
    contents = read_bundle(copied)
    unwritable = dataclasses.replace(contents, manifest=contents.manifest | {"threshold": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_bundle(unwritable, tmp_path / "other" / "bundle")
    assert list((tmp_path / "other").iterdir()) == []


def test_golden_images_that_give_other_embeddings_are_refused(copied: Path) -> None:
    vectors = np.load(copied / "golden" / "embeddings.npy")
    np.save(copied / "golden" / "embeddings.npy", vectors[::-1])
    rewrite(copied, nothing)
    with pytest.raises(BundleError, match=r"golden images must give their embeddings within .* but .* differs by"):
        Bundle.load(copied)


@pytest.mark.parametrize("value", [float("nan"), 2.0, -1.0, "wide", None])
def test_a_tolerance_above_the_limit_is_refused(copied: Path, value: object) -> None:
    np.save(copied / "golden" / "embeddings.npy", -np.load(copied / "golden" / "embeddings.npy"))
    rewrite(copied, lambda manifest: manifest.update(tolerance=value))
    with pytest.raises(BundleError):
        Bundle.load(copied)


def test_a_bundle_without_golden_images_is_refused(copied: Path) -> None:
    for path in (copied / "golden").glob("*.png"):
        path.unlink()
    rewrite(copied, nothing)
    with pytest.raises(BundleError):
        Bundle.load(copied)


def test_weights_of_another_encoder_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "encoder.safetensors")
    weights["a_tensor_more"] = next(iter(weights.values())).clone()
    save_file(weights, copied / "encoder.safetensors")
    rewrite(copied, nothing)
    with pytest.raises(BundleError, match="do not fit its encoder"):
        Bundle.load(copied)


@pytest.mark.parametrize("name", ["encoder.safetensors", "gallery.npy", "gallery.csv", "golden/embeddings.npy"])
def test_a_forged_file_that_cannot_be_read_is_refused(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"\xff\x00 nothing of the kind")
    rewrite(copied, nothing)
    with pytest.raises(BundleError):
        Bundle.load(copied)


@pytest.mark.parametrize("key", ["id", "encoder", "preprocessing", "retrieval", "threshold", "tolerance", "scores"])
def test_a_manifest_without_a_part_is_refused(copied: Path, key: str) -> None:
    rewrite(copied, lambda manifest: manifest.pop(key))
    with pytest.raises(BundleError, match=key):
        Bundle.load(copied)


class Trap:
    """What a pickle would run when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("name", ["gallery.npy", "golden/embeddings.npy"])
def test_an_array_of_objects_is_refused_and_runs_nothing(copied: Path, tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    (copied / name).write_bytes(buffer.getvalue())
    rewrite(copied, nothing)
    with pytest.raises(BundleError, match="cannot be read as a bundle"):
        Bundle.load(copied)
    assert not (tmp_path / "sprung").exists()


def test_nothing_in_a_bundle_is_pickled(copied: Path) -> None:
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".npy", ".csv", ".jpg", ".png", ".md"}
    for path in files:
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    for path in copied.rglob("*.npy"):
        assert np.load(path, allow_pickle=False).dtype != object


def test_the_model_card_has_scores_data_and_what_was_not_measured(copied: Path) -> None:
    manifest = read_bundle(copied).manifest
    card = (copied / "README.md").read_text()
    scores = manifest["scores"]
    assert f"{scores['map@5']:.3f}, {scores['map@5_low']:.3f} to {scores['map@5_high']:.3f}" in card
    assert f"fingerprint {manifest['data_fingerprint']}" in card
    unmeasured = manifest | {"scores": scores | {"recall@1": None, "reason": "no known query"}}
    assert "| recall@1 | not measured: no known query |" in model_card(unmeasured)
    assert "more probable than not, if 50% of the animals were new" in card
    unmeasured |= {"threshold": None, "decision": None}
    assert "no threshold: nothing in the data was unknown" in model_card(unmeasured)


def test_the_hub_reads_task_scores_and_intervals_from_the_card(copied: Path) -> None:
    manifest, data = read_bundle(copied).manifest, ModelCard.load(copied / "README.md").data
    scores = manifest["scores"]
    assert (data.library_name, data.pipeline_tag, data.model_name) == (
        "whale-ray",
        "image-feature-extraction",
        manifest["id"],
    )
    found = {one.metric_type: (one.metric_value, one.metric_args) for one in data.eval_results}
    interval = {"low": scores["map@5_low"], "high": scores["map@5_high"], "confidence": 0.95}
    assert found["map@5"] == (scores["map@5"], interval)
    assert list(found) == data.metrics == [name for name in SCORES if scores.get(name) is not None]
    assert (data.license, data.base_model) == ("other", None)
    assert card_metadata(manifest | {"license": "cc-by-4.0"}).license == "cc-by-4.0"


@pytest.mark.parametrize(
    ("encoders", "bases"),
    [
        ([("hf:facebook/dinov2-small", "pretrained")], ["facebook/dinov2-small"]),
        ([("hf:facebook/dinov2-small", "pretrained")] * 2 + [("hf:a/b", "random")], ["facebook/dinov2-small"]),
        ([("timm:hf-hub:BVRA/MegaDescriptor-T-224@main", "pretrained")], ["BVRA/MegaDescriptor-T-224"]),
        ([("torchvision:resnet18", "pretrained"), ("hf:./models/vit", "pretrained")], None),
    ],
)
def test_the_card_names_the_pretrained_encoders_of_the_hub(
    copied: Path, encoders: list[tuple[str, str]], bases: list[str] | None
) -> None:
    members = [{"name": name, "weights": weights} for name, weights in encoders]
    manifest = read_bundle(copied).manifest
    unmeasured = manifest | {"scores": dict.fromkeys(manifest["scores"]), "encoder": {"members": members}}
    assert card_metadata(unmeasured).base_model == bases
    assert card_metadata(unmeasured).eval_results is None
