from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_models import SWIN, change_config, random_model, save_swin

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbone_families import check_encoder_name
from whale_ray.learning.encoders.registry import build_encoder

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip


def build(folder: Path, **options: object) -> object:
    return build_encoder(f"timm:{folder}", **{"embedding_size": 8, "image_size": (64, 64), **options})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 7}, "has window_size in its config.json, which timm would ignore"),
        ({"model_arg": {"depths": [2, 2, 2, 2]}}, "has model_arg in its config.json.*Did you mean `model_args`"),
        ({"pretrained_cfg": {"patch": 8}}, "has patch in its pretrained_cfg"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "must not set checkpoint_path in model_args"),
        ({"num_features": 96}, "states num_features 96 .* has 128"),
        ({"global_pool": "max"}, "states global_pool 'max' .* has 'avg'"),
        (
            {"architecture": "swin_tiny_patch4_window7_225"},
            "timm does not have.*`swin_tiny_patch4_window7_224`",
        ),
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": {}, "num_features": None},
            "do not fit its architecture vit_tiny",
        ),
        ({"model_args": SWIN | {"embed_dim": 24}}, "do not fit its architecture swin_tiny"),
        ({"model_args": {"no_such_argument": 1}}, "cannot be built: TypeError"),
        (
            {"model_type": "vit", "architecture": None},
            "a config of timm or MiewID.*model_type 'vit'. Write hf:",
        ),
        ({"architecture": None}, "must have a config of timm or MiewID.*no architecture"),
    ],
)
def test_a_config_that_means_another_network_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    save_swin(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(EncoderError, match=message):
        build(tmp_path)


def test_the_names_of_older_swin_checkpoints_are_read(tmp_path: Path) -> None:
    save_swin(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    plain = build(tmp_path, embedding_size=None, neck="none").eval()
    (tmp_path / "model.safetensors").unlink()
    old = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    for name, part in tensors.items():  # until timm 0.9 a stage ended with what now begins the next one
        stage = re.match(r"layers.(\d).downsample", name)
        old[name.replace(stage[0], f"layers.{int(stage[1]) - 1}.downsample") if stage else name] = part
    torch.save(old, tmp_path / "pytorch_model.bin")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(build(tmp_path, embedding_size=None, neck="none").eval()(images), plain(images))


def test_the_flat_config_of_older_versions_is_read(tmp_path: Path) -> None:
    save_swin(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    facts = {"architecture": "resnet10t", "num_features": 512, **config["pretrained_cfg"], "num_classes": 0}
    facts |= {"classifier": "fc", "first_conv": "conv1.0", "fixed_input_size": False}
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(facts))
    torch.save(random_model("resnet10t").state_dict(), folder / "pytorch_model.bin")
    assert build(folder).recipe["mean"] == config["pretrained_cfg"]["mean"]


def test_weights_in_pickle_alone_are_refused_and_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    save_swin(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"weights as tensors in model.safetensors or pytorch_model.bin"):
        build(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(EncoderError, match=r"pytorch_model.bin cannot be read as tensors"):
        build(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_from_a_file_may_have_other_classes_and_must_fit_else(tmp_path: Path) -> None:
    save_swin(tmp_path)
    head = {"head.fc.weight": torch.ones(5, 128), "head.fc.bias": torch.ones(5)}
    torch.save(load_file(tmp_path / "model.safetensors") | head, tmp_path / "tuned.pth")
    tuned = build(tmp_path, weights=str(tmp_path / "tuned.pth"), embedding_size=None, neck="none").eval()
    plain = build(tmp_path, embedding_size=None, neck="none").eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(tuned(images), plain(images))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "layers.3" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=r"do not fit its architecture.*Missing key"):
        build(tmp_path)


def test_a_timm_config_under_hf_names_the_family_that_loads_it(tmp_path: Path) -> None:
    save_swin(tmp_path)
    with pytest.raises(EncoderError, match=rf"its config is one of timm. Write timm:{tmp_path}"):
        build_encoder(f"hf:{tmp_path}", embedding_size=8)


def test_a_transformers_config_under_timm_names_the_family_that_loads_it(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=rf"model_type 'vit'. Write hf:{tmp_path}"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:swin_tiny_patch4_window7",
            "timm has no model 'swin_tiny_patch4_window7'.*`swin_tiny_patch4",
        ),
        ("timm:resnet18.a9_in1k", "timm has no weights 'resnet18.a9_in1k'.*`resnet18.a1_in1k`"),
        ("timm:BVRA/MegaDescriptor-T-224", "write timm:hf-hub:BVRA/MegaDescriptor-T-224"),
        ("timm:./nowhere", "there is no such folder"),
        ("timm:hf-hub:./nowhere", "there is no such folder"),
        ("timm:hf-hub:a model", "must be a hub id"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused(name: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        build_encoder(name, embedding_size=8, weights="random")
    if "hf-hub" not in name and "swin" in name:
        with pytest.raises(EncoderError, match=message):
            check_encoder_name(name)


@pytest.mark.parametrize("name", ["timm:swin_tiny_patch4_window7_224", "timm:hf-hub:BVRA/MegaDescriptor-T-224"])
def test_a_name_is_checked_without_the_hub(name: str) -> None:
    check_encoder_name(name)
