"""Points, baselines and settings of trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whale_ray.data.image_io import Geometry
from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.trial_points import (
    baselines,
    check_encoders,
    encoder_of,
    first_settings,
    frozen_poolings,
    geometries,
    grid_points,
    label,
    longest_training,
    retrieval_settings,
)


def sweep_of(tmp_path: Path, text: str) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path)


CONDITIONAL = """
name: conditional
model: {encoder: tiny, embedding_size: [8, 16], weights: random}
loss:
  - {name: arcface, scale: [16, 32, 64]}
  - {name: proxy_anchor, alpha: [16, 32], margin: 0.2}
  - {name: supcon}
"""


def test_a_grid_varies_an_alternatives_axes_only_where_it_is_chosen(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, CONDITIONAL)
    points = list(grid_points(sweep.axes))
    assert len(points) == sweep.grid_cells() == 2 * (3 + 2 + 1)
    assert len({tuple(sorted(point.items())) for point in points}) == 12
    for point in points:
        own = {name for name in point if name.startswith("loss.") and name != "loss.name"}
        expected = {"arcface": {"loss.arcface.scale"}, "proxy_anchor": {"loss.proxy_anchor.alpha"}, "supcon": set()}
        assert own == expected[point["loss.name"]]
    alphas = [sweep.settings(point)["loss"].get("alpha") for point in points if point["loss.name"] == "proxy_anchor"]
    assert sorted(alphas) == [16, 16, 32, 32]


def test_a_grid_lists_the_steps_of_a_range() -> None:
    axes = [Axis("a", "float", low=0.1, high=0.3, step=0.1), Axis("b", "int", low=1, high=5, step=2)]
    assert [tuple(point.values()) for point in grid_points(axes)] == [
        *((0.1, 1), (0.1, 3), (0.1, 5)),
        *((0.2, 1), (0.2, 3), (0.2, 5)),
        *((0.3, 1), (0.3, 3), (0.3, 5)),
    ]


def test_no_axis_is_one_point() -> None:
    assert list(grid_points([])) == [{}]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({}, ""),
        ({"loss.name": "arcface", "loss.arcface.scale": 16.0}, "loss arcface, scale 16.0"),
        ({"model.encoder": "hf:google/vit.base"}, "encoder hf:google/vit.base"),
    ],
)
def test_a_label_lists_the_values_of_the_axes(point: dict[str, Any], expected: str) -> None:
    assert label(point) == expected
    assert "baseline" in label(point, kind="baseline")


def test_retrieval_settings_omit_keys_without_effect(tmp_path: Path) -> None:
    text = CONDITIONAL + "retrieval: {vote: [softmax, nearest], neighbours: [5, 1], flip: [none, average]}\n"
    settings = retrieval_settings(sweep_of(tmp_path, text))
    assert settings[0] == RetrievalSetting("softmax", 5, 0.05, "none")
    assert [(one.vote, one.neighbours, one.flip) for one in settings if one.vote == "nearest"] == [
        ("nearest", None, "none"),
        ("nearest", None, "average"),
    ]
    assert len(settings) == 4 + 2


def test_every_encoder_has_one_baseline_per_image_size(tmp_path: Path) -> None:
    sweep = sweep_of(
        tmp_path,
        """
name: many
data: {image_size: [32, 64]}
model: {encoder: [tiny, "torchvision:resnet18"], embedding_size: [8, 16], weights: random, neck: [linear, bnneck]}
loss: {name: [arcface, supcon]}
train: {epochs: [1, 5], learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
search: {strategy: random, trials: 3}
""",
    )
    found = baselines(sweep)
    assert sorted((point["model.encoder"], point["data.image_size"]) for point, _ in found) == [
        ("tiny", 32),
        ("tiny", 64),
        ("torchvision:resnet18", 32),
        ("torchvision:resnet18", 64),
    ]
    for _, settings in found:
        assert settings["train"]["epochs"] == 0
        assert settings["model"]["embedding_size"] is None
        assert (settings["model"]["neck"], settings["model"]["freeze"]) == ("none", "trunk")


def test_a_baseline_is_the_trunk_without_a_head(tmp_path: Path) -> None:
    ((_, settings),) = baselines(sweep_of(tmp_path, CONDITIONAL))
    encoder = encoder_of(settings)
    assert not list(encoder.head.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.embedding_size not in (8, 16)


def test_geometries_are_all_image_sizes_with_a_margin_if_images_are_moved(tmp_path: Path) -> None:
    text = CONDITIONAL + 'data: {image_size: [64, "32x64"]}\ntrain: {affine: [0, 0.2, 0.4]}\n'
    found = geometries(sweep_of(tmp_path, text))
    assert set(found) == {
        Geometry(64, 64, "pad", 0.0),
        Geometry(64, 64, "pad", 0.125),
        Geometry(32, 64, "pad", 0.0),
        Geometry(32, 64, "pad", 0.125),
    }
    assert len(found) == 4


def test_the_longest_training_is_the_largest_number_of_epochs(tmp_path: Path) -> None:
    assert longest_training(sweep_of(tmp_path, CONDITIONAL + "train: {epochs: [3, 7, 5]}\n")) == 7
    text = CONDITIONAL + "train: {epochs: {low: 2, high: 9}}\nsearch: {strategy: random}\n"
    assert longest_training(sweep_of(tmp_path, text)) == 9


def test_first_settings_have_the_first_value_of_each_axis(tmp_path: Path) -> None:
    settings = first_settings(sweep_of(tmp_path, CONDITIONAL))
    assert (settings["model"]["embedding_size"], settings["loss"]["name"], settings["loss"]["scale"]) == (
        *(8, "arcface"),
        16,
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{encoder: [tiny, 'torchvision:resnet19'], weights: random}", "resnet19"),
        ("{encoder: tiny, pool: [avg, cls], weights: random}", "no class token"),
        ("{encoder: tiny, weights: FOLDER/other.safetensors}", "do not fit"),
        ("{encoder: tiny, weights: FOLDER/nowhere.safetensors}", "there is no"),
    ],
)
def test_an_encoder_that_cannot_be_built_is_found_before_the_start(tmp_path: Path, model: str, message: str) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    text = f"name: wrong\nmodel: {model.replace('FOLDER', str(tmp_path))}\nloss: {{name: arcface}}\n"
    with pytest.raises(InputError, match=message):
        check_encoders(sweep_of(tmp_path, text))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("{encoder: tiny, freeze: trunk, pool: [avg, gem]}", (("avg", 1), ("gem", 1), ("auto", 1))),
        ("{encoder: tiny, freeze: [none, trunk], pool: gem, layers: [1, 3]}", (("gem", 1), ("gem", 3), ("auto", 1))),
        ("{encoder: tiny, freeze: trunk}", (("auto", 1),)),
        ("{encoder: tiny, pool: [avg, gem]}", ()),
    ],
)
def test_poolings_of_frozen_trials(tmp_path: Path, model: str, wanted: tuple[tuple[str, int], ...]) -> None:
    text = f"name: poolings\nmodel: {model}\nloss: {{name: arcface}}\ndata: {{root: .}}\n"
    assert frozen_poolings(sweep_of(tmp_path, text)) == wanted
