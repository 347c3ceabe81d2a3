from __future__ import annotations

import re
from pathlib import Path

import pytest

from whale_ray.inference.kaggle_submission import write_submission
from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.planning.trial_points import retrieval_settings

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sweeps").rglob("*.yaml"))
SHIPPED = {
    "quickstart",
    "vit_proxy",
    "encoders_losses",
    "study_resnet18_arcface",
    "study_resnet18_proxy",
    "study_vit_proxy",
    "photos",
    "foundation",
}


def test_every_documented_sweep_is_shipped() -> None:
    assert {path.stem for path in FILES} >= SHIPPED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load_sweep(path).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_loads_again_from_its_resolved_form(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path)
    resolved = tmp_path / "sweep.yaml"
    resolved.write_text(sweep.to_yaml())
    assert load_sweep(resolved) == sweep


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_opens_with_question_command_cost_and_result(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for word in ("Question", "Run", "Cost", "Result"):
        assert re.search(rf"^# {word}:", head, re.MULTILINE), word
    assert f"sweeps/{path.name}" in head


def test_the_quickstart_is_a_grid_of_two_losses_and_two_lengths_with_and_without_keypoints() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "quickstart.yaml")
    assert sweep.fixed["data.root"] == "synthetic"
    assert sweep.grid_cells() == 4
    assert {setting.local for setting in retrieval_settings(sweep)} == {"none", "sift"}


@pytest.mark.parametrize("name", sorted(name for name in SHIPPED if name.startswith("study_")))
def test_a_study_sweep_is_one_trial_at_512_dimensions_half_and_half(name: str) -> None:
    sweep = load_sweep(ROOT / "sweeps" / f"{name}.yaml")
    settings = sweep.settings({})
    assert (settings["model"]["embedding_size"], settings["split"]["kind"]) == (512, "halves")


def test_weights_can_be_given_to_the_photographs_sweep_on_the_command_line() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "photos.yaml", ["model.weights=w/net.pth"], data=Path("my/photos"))
    assert (sweep.fixed["model.weights"], sweep.fixed["data.root"]) == ("w/net.pth", "my/photos")


LITTLE = {  # of the recipe for the competition, so that two cores run it
    "torchvision:convnext_small": "tiny\n    weights: random",
    "torchvision:efficientnet_v2_s": "torchvision:squeezenet1_1\n    weights: random",
    "embedding_size: 512": "embedding_size: 32",
}
QUICK = (
    *("data.image_size=32x64", "retrieval.whitened_size=[8]", "resources.cpus=1", "resources.gpus=0"),
    *("train.epochs=2", "train.batch_size=16", "train.warmup_epochs=1", "train.evaluate_every=1"),
)


@pytest.mark.slow
def test_the_kaggle_recipe_runs_to_a_submission_with_small_encoders(photographs: Path, tmp_path: Path) -> None:
    text = (ROOT / "sweeps" / "humpback_best.yaml").read_text()
    for large, little in LITTLE.items():
        assert large in text
        text = text.replace(large, little)
    (tmp_path / "recipe.yaml").write_text(text)
    result = run_sweep(
        load_sweep(tmp_path / "recipe.yaml", QUICK, data=photographs), runs=tmp_path / "runs", in_process=True
    )
    assert result.exit_code == 0
    assert set(result.table["status"]) == {"finished"}
    assert sum(name.startswith("ensemble-") for name in result.table["trial"]) == 1
    bundle = Bundle.load(result.folder / "best")
    assert len(bundle.images) > 40  # it was trained again on all
    written = write_submission(bundle, photographs / "test", tmp_path / "submission.csv")
    assert written.undecodable == written.others == {}
    rows = (tmp_path / "submission.csv").read_text().splitlines()[1:]
    assert [len(set(row.split(",")[1].split())) for row in rows] == [5] * 14
