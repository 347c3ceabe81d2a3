from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_models import change_config, save_miewid
from torch import nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.registry import build_encoder, rebuild_encoder

IMAGENET = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def baseline(folder: Path, **options: object) -> nn.Module:
    options = {"embedding_size": None, "neck": "none", "image_size": (64, 96), **options}
    return build_encoder(f"timm:{folder}", **options).eval()


@pytest.mark.parametrize("is_training_checkpoint", [False, True], ids=["published", "training checkpoint"])
def test_embeddings_equal_those_of_the_published_network(tmp_path: Path, is_training_checkpoint: bool) -> None:
    model = save_miewid(tmp_path, is_training_checkpoint=is_training_checkpoint)
    encoder = baseline(tmp_path)
    with torch.no_grad():
        expected = model((pictures() - IMAGENET[0]) / IMAGENET[1])
        found = encoder(pictures())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pictures()), found)
    assert "440x440" in encoder.recipe["preprocessing"]


def test_another_pooling_replaces_gem_and_keeps_the_batch_normalisation(tmp_path: Path) -> None:
    model = save_miewid(tmp_path)
    encoder = baseline(tmp_path, pool="avg")
    with torch.no_grad():
        features = model.backbone.forward_features((pictures() - IMAGENET[0]) / IMAGENET[1])
        expected = model.bn(features.mean((2, 3)))
    torch.testing.assert_close(encoder(pictures()), expected, atol=1e-4, rtol=1e-4)
    assert not any("bn" in name.split(".")[-2] and "body.model.bn" in name for name in encoder.state_dict())


@pytest.mark.parametrize(("lost", "message"), [("bn.weight", "1 missing"), ("backbone.global_pool.p", "1 missing")])
def test_a_checkpoint_without_a_tensor_is_refused(tmp_path: Path, lost: str, message: str) -> None:
    save_miewid(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=f"do not fit timm:.*{message}"):
        baseline(tmp_path)


def test_a_checkpoint_with_a_foreign_tensor_or_of_another_backbone_is_refused(tmp_path: Path) -> None:
    save_miewid(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"neck.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=r"1 not known \(neck.weight\)"):
        baseline(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    change_config(tmp_path, model_name="efficientnet_b0")
    with pytest.raises(EncoderError, match="do not fit timm:"):
        baseline(tmp_path)


def test_a_layer_after_the_normalisation_is_refused(tmp_path: Path) -> None:
    save_miewid(tmp_path)
    change_config(tmp_path, use_fc=True)
    with pytest.raises(EncoderError, match="use_fc: true"):
        baseline(tmp_path)


def test_hf_names_the_family_that_loads_it(tmp_path: Path) -> None:
    save_miewid(tmp_path)
    with pytest.raises(EncoderError, match=rf"its config is one of miewid. Write timm:{tmp_path}"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8)
