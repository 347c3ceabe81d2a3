"""Tiny models of timm and MiewID with random weights, saved in the layouts in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import timm  # isort: skip

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 4, "img_size": 64}
SWIN_NAME = "swin_tiny_patch4_window7_224"
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 16, "img_size": 64}
EFFICIENTNET = "efficientnet_lite0"  # a small relative of MiewID's efficientnetv2_rw_m


def random_model(architecture: str, *, classes: int = 0, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=classes, **arguments).eval()


def save_timm(folder: Path, model: nn.Module, architecture: str, arguments: dict[str, object]) -> str:
    """Save a model as timm and BVRA do, config.json and model.safetensors, and return the encoder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    size = arguments.get("img_size", 224)
    facts = {"input_size": [3, size, size], "mean": MEAN, "std": STD, "crop_pct": 0.9, "interpolation": "bicubic"}
    facts |= {"fixed_input_size": "img_size" in arguments, "classifier": model.pretrained_cfg["classifier"]}
    config = {"architecture": architecture, "num_classes": model.num_classes, "num_features": model.num_features}
    config |= {"pretrained_cfg": facts, "model_args": {k: v for k, v in arguments.items() if k != "img_size"}}
    config |= {"global_pool": model.global_pool} if isinstance(getattr(model, "global_pool", None), str) else {}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, folder / "model.safetensors")
    return f"timm:{folder}"


def save_swin(folder: Path, *, classes: int = 0) -> str:
    """Save a small Swin in the layout of BVRA/MegaDescriptor-T-224."""
    return save_timm(folder, random_model(SWIN_NAME, classes=classes, **SWIN), SWIN_NAME, SWIN)


def change_config(folder: Path, **changes: object) -> None:
    """Set keys of a saved model's config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


class PublishedMiewId(nn.Module):
    """The network of conservationxlabs/miewid-msv3, written from its published file: names, pooling, classifier."""

    class GeM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.ones(1) * 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x.clamp(min=1e-6).pow(self.p), x.shape[-2:]).pow(1 / self.p)

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.backbone = timm.create_model(architecture, num_classes=0)
        self.backbone.global_pool = self.GeM()
        self.bn = nn.BatchNorm1d(self.backbone.num_features)
        self.final = nn.Linear(self.backbone.num_features, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.bn(self.backbone(images).flatten(1))


def save_miewid(folder: Path, *, is_training_checkpoint: bool = False) -> PublishedMiewId:
    """Save a small MiewID as conservationxlabs/miewid-msv3 is published, or with the names of the training code."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = PublishedMiewId(EFFICIENTNET)
    for part in (model.bn.running_mean, model.bn.running_var, model.backbone.global_pool.p.data):
        part.uniform_(0.5, 3.0)
    auto_map = {"AutoConfig": "configuration_miewid.MiewIdNetConfig", "AutoModel": "modeling_miewid.MiewIdNet"}
    config = {
        "architectures": ["MiewIdNet"],
        "auto_map": auto_map,
        "model_name": EFFICIENTNET,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: part.contiguous() for name, part in model.state_dict().items()}
    if is_training_checkpoint:
        tensors["pooling.p"] = tensors.pop("backbone.global_pool.p")
    save_file(tensors, folder / "model.safetensors")
    return model.eval()
