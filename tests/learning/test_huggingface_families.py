"""Families of vision models on the hub, each as a tiny random model: registers, towers of CLIP and SigLIP, DINOv3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from whale_ray.learning.encoders.registry import build_encoder, rebuild_encoder

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TOWER = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 60, "max_position_embeddings": 8, "eos_token_id": 2}
REGISTERS = {**SMALL, "image_size": 56, "patch_size": 14, "num_register_tokens": 4, "mlp_ratio": 2}


def clip() -> Any:
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=16))


def siglip() -> Any:
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=TOWER, text_config=TEXT))


MODELS: dict[str, Callable[[], Any]] = {
    "dinov2 with registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**REGISTERS)
    ),
    "dinov3 vit": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**SMALL, image_size=32, patch_size=8, num_register_tokens=4)
    ),
    "dinov3 convnext": lambda: transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1])
    ),
    "clip": clip,
    "clip vision": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER)),
    "siglip": siglip,
    "siglip vision": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER)),
}
PATCHES = {"dinov2 with registers": (14, 5), "dinov3 vit": (8, 5), "clip": (8, 1), "siglip": (8, 0)}
SIZES = {"square": (56, 56), "not square": (56, 112), "odd": (58, 60)}


def pictures(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().eval().save_pretrained(root / name)
    return root


def baseline(folder: Path, name: str, **options: object) -> Any:
    return build_encoder(f"hf:{folder / name}", **{"embedding_size": None, "neck": "none", **options}).eval()


@pytest.mark.integration
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_any_shape_are_embedded_and_the_encoder_is_rebuilt(
    folder: Path, name: str, size: tuple[int, int]
) -> None:
    encoder = baseline(folder, name, image_size=size)
    again = rebuild_encoder(json.loads(json.dumps(encoder.recipe))).eval()
    again.load_state_dict(encoder.state_dict())
    assert encoder(pictures(*size)).shape == (2, 32)
    assert torch.equal(encoder(pictures(*size)), again(pictures(*size)))


@pytest.mark.parametrize("name", PATCHES)
def test_the_average_leaves_class_token_and_registers_out(folder: Path, name: str) -> None:
    patch, prefix = PATCHES[name]
    encoder = baseline(folder, name, pool="avg", image_size=(56, 112))
    tokens = encoder.trunk((pictures(56, 112) - encoder.mean) / encoder.std)
    assert tokens.shape == (2, prefix + (56 // patch) * (112 // patch), 32)
    assert encoder.trunk.prefix == prefix


@pytest.mark.parametrize("name", ["dinov2 with registers", "dinov3 vit", "dinov3 convnext", "clip", "clip vision"])
def test_the_embedding_is_the_models_own_pooled_output(folder: Path, name: str) -> None:
    size = (56, 56) if "dinov2" in name else (32, 32)
    encoder = baseline(folder, name, image_size=size)
    model = transformers.AutoModel.from_pretrained(folder / name).eval()
    tower = model.vision_model if name == "clip" else model
    with torch.no_grad():
        expected = tower(pixel_values=(pictures(*size) - encoder.mean) / encoder.std).pooler_output
        torch.testing.assert_close(encoder(pictures(*size)), expected, atol=1e-4, rtol=1e-4)
    assert encoder.recipe["pool"] == "cls"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_of_a_model_of_pictures_and_text_the_tower_of_pictures_is_taken(folder: Path, name: str) -> None:
    encoder, alone = (
        baseline(folder, name, image_size=(32, 32)),
        baseline(folder, f"{name} vision", image_size=(32, 32)),
    )
    assert encoder.recipe["config"]["model_type"] == f"{name}_vision_model"
    assert set(encoder.state_dict()) == set(alone.state_dict())
    assert not any("text" in key for key in encoder.state_dict())
