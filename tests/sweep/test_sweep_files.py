from __future__ import annotations

import re
from pathlib import Path

import pytest

from whale_ray.sweep.spec import load_sweep

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
}


def test_every_sweep_that_is_promised_ships() -> None:
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


def test_the_quickstart_is_a_grid_of_two_encoders_two_losses_and_two_sizes() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "quickstart.yaml")
    assert sweep.fixed["data.root"] == "synthetic"
    assert sweep.grid_cells() == 8


@pytest.mark.parametrize("name", sorted(name for name in SHIPPED if name.startswith("study_")))
def test_a_study_sweep_is_one_trial_at_512_dimensions_half_and_half(name: str) -> None:
    sweep = load_sweep(ROOT / "sweeps" / f"{name}.yaml")
    settings = sweep.settings({})
    assert (settings["model"]["embedding_size"], settings["split"]["kind"]) == (512, "halves")


def test_weights_can_be_given_to_the_photographs_sweep_on_the_command_line() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "photos.yaml", ["model.weights=w/net.pth"], data=Path("my/photos"))
    assert (sweep.fixed["model.weights"], sweep.fixed["data.root"]) == ("w/net.pth", "my/photos")
