"""The shipped sweeps of pretrained encoders at reduced size, with random weights from saved folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from saved_models import save_miewid, save_swin

from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip

SWEEPS = Path(__file__).parents[2] / "sweeps"
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SAVED = {  # hub id or torchvision's name in the sweep file → folder of the small model
    "timm:hf-hub:BVRA/MegaDescriptor-T-224": "timm:FOLDER/mega_t",
    "timm:hf-hub:BVRA/MegaDescriptor-L-384": "timm:FOLDER/mega_l",
    "timm:hf-hub:conservationxlabs/miewid-msv3": "timm:FOLDER/miewid",
    "hf:facebook/dinov2-base": "hf:FOLDER/dinov2",
    "hf:google/vit-base-patch16-224": "hf:FOLDER/vit",
    "encoder: torchvision:resnet18": "weights: random, encoder: torchvision:squeezenet1_1",
}
QUICK = (
    *("data.image_size=32x64", "train.epochs=1", "train.batch_size=16", "bundle.examples=2", "bundle.runtime=torch"),
    *("resources.cpus=1", "resources.gpus=0"),
)
TRIALS = {
    "vit_proxy": 2,
    "study_vit_proxy": 1,
    "study_resnet18_arcface": 1,
    "study_resnet18_proxy": 1,
    "foundation": 5,
}
FEWER = {"vit_proxy": ("search.trials=2", "tracking.wandb=off"), "foundation": ("model.freeze=trunk",)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    save_swin(root / "mega_t")
    save_swin(root / "mega_l", classes=3)
    save_miewid(root / "miewid")
    vit = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)
    transformers.ViTModel(vit).save_pretrained(root / "vit")
    dinov2 = transformers.Dinov2Config(**SMALL, mlp_ratio=2, image_size=28, patch_size=14)
    transformers.Dinov2Model(dinov2).save_pretrained(root / "dinov2")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_a_shipped_sweep_of_pretrained_encoders_runs_from_saved_folders(
    name: str, saved: Path, photographs: Path, tmp_path: Path
) -> None:
    text = (SWEEPS / f"{name}.yaml").read_text()
    for published, small in SAVED.items():
        text = text.replace(published, small.replace("FOLDER", str(saved)))
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    options = [*QUICK, *FEWER.get(name, ())]
    result = run_sweep(load_sweep(path, options, data=photographs), runs=tmp_path / "runs", in_process=True)
    assert result.exit_code == 0
    trials = result.table[~result.table["trial"].str.startswith("baseline-")]
    assert set(trials["status"]) <= {"finished", "pruned"}
    assert len(trials) == TRIALS[name]
    assert Bundle.load(result.folder / "best").card["scores"]["map@5"] is not None
