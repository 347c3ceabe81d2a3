"""Keypoint scores of the pairs of a discovery: kept in its folder, and computed again for other photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.discovery.pair_model import default_pair_model
from whale_ray.discovery.pair_probabilities import compare_photographs
from whale_ray.discovery.photograph_grouper import NamedPhotographs, PhotographGrouper, calibrate_pairs
from whale_ray.discovery.photographs import keypoint_scores
from whale_ray.discovery.photographs.keypoint_scores import score_keypoints
from whale_ray.discovery.session import RowAnswers

NO_ANSWERS = RowAnswers((), (), ())


@pytest.fixture(scope="module")
def catalog(photographs: Path) -> Catalog:
    """Twelve named photographs of several individuals."""
    whole = read_catalog(photographs)
    rows = whole.table[whole.table["individual"] != "new_whale"].sort_values("individual").head(12)
    return Catalog(rows.reset_index(drop=True), whole.folder, whole.unknown_label)


@pytest.fixture(scope="module")
def folder(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keypoints")
    score_keypoints(catalog, np.arange(12), kind="sift", folder=folder)
    return folder


def test_pairs_of_an_individual_have_larger_scores(catalog: Catalog, folder: Path) -> None:
    scores = score_keypoints(catalog, np.arange(12), kind="sift", folder=folder)
    assert (scores.shape, scores.dtype) == ((12, 12), np.float32)
    assert not scores.diagonal().any()
    names = catalog.table["individual"].to_numpy()
    same = names[:, None] == names[None, :]
    np.fill_diagonal(same, False)
    assert scores[same].mean() > 3 * scores[names[:, None] != names[None, :]].mean()


def test_scores_are_kept_until_the_photographs_change(
    catalog: Catalog, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, computed = shutil.copytree(folder, tmp_path / "keypoints"), []
    gather = keypoint_scores.gather_evidence

    def count(*arguments: object, **options: object) -> object:
        computed.append(1)
        return gather(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(keypoint_scores, "gather_evidence", count)
    score_keypoints(catalog, np.arange(12), kind="sift", folder=copied)
    assert computed == []
    fewer = Catalog(catalog.table.head(5), catalog.folder, catalog.unknown_label)
    assert score_keypoints(fewer, np.arange(5), kind="sift", folder=copied).shape == (5, 5)
    assert computed == [1]
    files = sorted(path.name for path in copied.glob("*.npz"))
    assert len(files) == 2, "the keypoints of the earlier photographs are erased"
    (copied / "scores.npz").write_bytes(b"damaged")
    assert score_keypoints(fewer, np.arange(5), kind="sift", folder=copied).shape == (5, 5)
    assert sorted(path.name for path in copied.glob("*.npz")) == files


def test_photographs_without_keypoints_have_scores_of_0(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (64, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "train.csv").write_text("Image,Id\n0.png,a\n1.png,a\n2.png,b\n")
    catalog = read_catalog(tmp_path, image_folder=".")
    assert not score_keypoints(catalog, np.arange(3), kind="sift", folder=tmp_path / "keypoints").any()


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors that say nothing, four photographs per individual, and scores that part the individuals."""
    generator = np.random.default_rng(seed)
    individuals = np.repeat(np.arange(count // 4), 4).astype(str)
    same = individuals[:, None] == individuals[None, :]
    scores = np.where(same, generator.gamma(4.0, 1.0, same.shape), generator.gamma(1.0, 0.05, same.shape))
    np.fill_diagonal(scores, 0.0)
    return generator.normal(size=(count, 16)), individuals, scores.astype(np.float32)


@pytest.mark.integration
def test_keypoints_of_named_photographs_are_learned_and_join_others() -> None:
    vectors, individuals, scores = drawn(40, 0)
    named = [NamedPhotographs("others", *drawn(40, 1))]
    calibration = calibrate_pairs(vectors, named, local_scores=scores)
    assert calibration.uses_keypoints
    with_keypoints = PhotographGrouper(vectors, [""] * 40, calibration, local_scores=scores)
    labels = with_keypoints(NO_ANSWERS).labels
    assert len({(label, name) for label, name in zip(labels.tolist(), individuals, strict=True)}) == 10
    assert len(set(labels.tolist())) == 10
    without = calibrate_pairs(vectors, [NamedPhotographs("others", *drawn(40, 1)[:2])], local_scores=scores)
    assert not without.uses_keypoints, "those of the named photographs are unknown"
    PhotographGrouper(vectors, [""] * 40, without, local_scores=scores)
    assert not calibrate_pairs(vectors, named).uses_keypoints


def test_without_names_a_larger_score_is_a_larger_probability() -> None:
    vectors, individuals, scores = drawn(40, 0)
    model = default_pair_model(vectors, local_scores=scores)
    assert model.is_default
    found = np.asarray(compare_photographs(vectors, model, local_scores=scores).matrix)
    same = individuals[:, None] == individuals[None, :]
    np.fill_diagonal(same, False)
    assert found[same].mean() > 3 * found[individuals[:, None] != individuals[None, :]].mean()
