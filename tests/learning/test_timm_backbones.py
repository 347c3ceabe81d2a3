from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from saved_models import MEAN, STD, SWIN, SWIN_NAME, VIT, random_model, save_miewid, save_swin, save_timm
from torch import nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.registry import build_encoder, rebuild_encoder
from whale_ray.learning.training.optim import layer_blocks

import timm  # isort: skip

pytestmark = pytest.mark.integration

SIZE = (64, 64)
# Name → architecture, arguments, features, pooled features. Maps NHWC and NCHW, tokens with a class token, with
# registers and without either, a list of tokens, a head wider than the features, a norm after the pooling.
LAYOUTS = {
    "swin": (SWIN_NAME, SWIN, 128),
    "vit": ("vit_tiny_patch16_224", VIT, 32),
    "registers": ("vit_tiny_patch16_224", VIT | {"reg_tokens": 4, "global_pool": "avg"}, 32),
    "attention_pool": ("vit_base_patch16_siglip_224", VIT, 32),
    "eva": ("eva02_tiny_patch14_224", VIT | {"mlp_ratio": 2.0}, 32),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}, 24),
    "resnet": ("resnet10t", {}, 512),
    "mobilenet": ("mobilenetv3_small_050", {}, 1024),
    "efficientvim": ("efficientvim_m1", {}, 960),
}


def pictures(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def baseline(name: str, **options: object) -> nn.Module:
    return build_encoder(name, **{"embedding_size": None, "neck": "none", "image_size": SIZE, **options}).eval()


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_embeddings_equal_the_pooled_features_of_plain_timm(tmp_path: Path, layout: str, classes: int) -> None:
    architecture, arguments, width = LAYOUTS[layout]
    model = random_model(architecture, classes=classes, **arguments)
    encoder = baseline(save_timm(tmp_path, model, architecture, arguments))
    images = pictures(*SIZE)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(normalised(images)), pre_logits=True)
        found = encoder(images)
    assert found.shape == (2, width)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert encoder.recipe["pool"] == "own"
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(images), found)


@pytest.mark.parametrize("layout", ["swin", "vit", "registers", "eva", "convnext", "mobilenet"])
def test_average_and_gem_pool_the_places_of_the_declared_layout(tmp_path: Path, layout: str) -> None:
    architecture, arguments, _ = LAYOUTS[layout]
    model = random_model(architecture, classes=0, **arguments)
    name = save_timm(tmp_path, model, architecture, arguments)
    encoder = baseline(name, pool="avg")
    with torch.no_grad():
        features = model.forward_features(normalised(pictures(*SIZE)))
        prefix = getattr(model, "num_prefix_tokens", 0)
        axes = (2, 3) if features.ndim == 4 else 1
        features = features.permute(0, 3, 1, 2) if layout == "swin" else features
        expected = (features if features.ndim == 4 else features[:, prefix:]).mean(axes)
        if layout in ("registers", "eva", "convnext"):  # a normalisation follows the pooling
            norm = model.head.norm if layout == "convnext" else model.fc_norm
            expected = nn.functional.layer_norm(expected, expected.shape[1:], norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(encoder(pictures(*SIZE)), expected, atol=1e-4, rtol=1e-4)
    assert expected.shape[1] == model.num_features
    assert baseline(name, pool="gem").embedding_size == model.num_features
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pictures(*SIZE)), encoder(pictures(*SIZE)))


def test_the_class_token_is_the_first_token_and_only_where_the_model_has_one(tmp_path: Path) -> None:
    architecture, arguments, _ = LAYOUTS["vit"]
    model = random_model(architecture, classes=0, **arguments)
    encoder = baseline(save_timm(tmp_path / "vit", model, architecture, arguments), pool="cls")
    with torch.no_grad():
        expected = model.forward_features(normalised(pictures(*SIZE)))[:, 0]
    torch.testing.assert_close(encoder(pictures(*SIZE)), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(EncoderError, match="has no class token"):
        baseline(save_swin(tmp_path / "swin"), pool="cls")


@pytest.mark.parametrize("layout", ["efficientvim", "pit"])
def test_features_of_no_known_layout_have_the_models_own_pooling_alone(layout: str) -> None:
    name = {"efficientvim": "timm:efficientvim_m1", "pit": "timm:pit_ti_224"}[layout]
    size = (64, 64) if layout == "efficientvim" else (224, 224)
    with pytest.raises(EncoderError, match="Write pool: auto"):
        baseline(name, weights="random", pool="avg", image_size=size)


def test_a_network_whose_features_have_another_width_than_it_declares_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save_swin(tmp_path)
    monkeypatch.setattr(
        timm.models.SwinTransformer, "output_fmt", property(lambda _: "NCHW", lambda *_: None), raising=False
    )
    with pytest.raises(EncoderError, match=r"declares 128 features, but gives 2: its layout \(1, 2, 2, 128\)"):
        baseline(name, pool="avg")


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (32, 128)])
@pytest.mark.parametrize("layout", ["swin", "vit", "eva", "convnext"])
def test_pictures_of_another_shape_resize_windows_and_position_embeddings(
    tmp_path: Path, layout: str, size: tuple[int, int]
) -> None:
    architecture, arguments, width = LAYOUTS[layout]
    name = save_timm(tmp_path, random_model(architecture, classes=0, **arguments), architecture, arguments)
    encoder = baseline(name, image_size=size)
    assert encoder(pictures(*size)).shape == (2, width)
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pictures(*size)), encoder(pictures(*size)))


def test_the_models_own_preprocessing_is_in_the_recipe(tmp_path: Path) -> None:
    recipe = baseline(save_swin(tmp_path)).recipe
    assert (recipe["mean"], recipe["std"]) == (MEAN, STD)
    note = "data.image_size and data.resize replace input_size 64x64, crop_pct 0.9, interpolation bicubic"
    assert recipe["preprocessing"] == f"pretrained_cfg; {note}"
    assert recipe["config"]["pretrained_cfg"]["crop_pct"] == 0.9


def test_a_gray_model_is_given_gray_pictures(tmp_path: Path) -> None:
    arguments = VIT | {"in_chans": 1}
    model = random_model("vit_tiny_patch16_224", classes=0, **arguments)
    name = save_timm(tmp_path, model, "vit_tiny_patch16_224", arguments)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= {"input_size": [1, 64, 64], "mean": [0.4], "std": [0.2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = baseline(name)
    gray = (pictures(*SIZE) * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pictures(*SIZE)), model((gray - 0.4) / 0.2), atol=1e-4, rtol=1e-4)
    assert encoder.recipe["channels"] == "L"


def test_the_layers_of_a_timm_model_are_the_blocks_of_layer_decay(tmp_path: Path) -> None:
    for layout, blocks in (("swin", 5), ("vit", 3)):
        architecture, arguments, _ = LAYOUTS[layout]
        name = save_timm(tmp_path / layout, random_model(architecture, classes=0, **arguments), architecture, arguments)
        assert len(layer_blocks(baseline(name).trunk)) == blocks


def test_a_frozen_model_keeps_its_own_pooling_and_statistics(tmp_path: Path) -> None:
    save_miewid(tmp_path)
    encoder = build_encoder(f"timm:{tmp_path}", embedding_size=8, image_size=SIZE, freeze="trunk").train()
    assert not any(parameter.requires_grad for parameter in encoder.trunk.parameters())
    assert not any(part.training for part in encoder.trunk.modules())
