"""A sweep over the four families of encoders, from the command to the answer over HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from saved_models import save_swin
from services import plain_server, web_service

from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.execution.driver import run_sweep

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip

SWEEP = """
name: families
data: {root: ROOT, image_size: 32x64, val_fraction: 0.4}
model:
  encoder: [tiny, "torchvision:squeezenet1_1", "hf:ROOT_OF_MODELS/vit", "timm:ROOT_OF_MODELS/swin"]
  weights: random
  embedding_size: 16
loss: {name: arcface}
train: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
search: {strategy: grid, objective: map@5}
bundle: {examples: 2, runtime: torch}
"""


@pytest.mark.slow
def test_a_sweep_over_four_families_ends_with_a_leaderboard_a_bundle_and_an_answer(
    photographs: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_swin(tmp_path / "swin")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    text = SWEEP.replace("ROOT_OF_MODELS", str(tmp_path)).replace("ROOT", str(photographs))
    (tmp_path / "families.yaml").write_text(text)
    result = run_sweep(load_sweep(tmp_path / "families.yaml"), runs=tmp_path / "runs", in_process=True)
    assert result.exit_code == 0
    trials = result.table[~result.table["trial"].str.startswith("baseline-")]
    assert {name.partition(":")[0] for name in trials["model.encoder"]} == {"tiny", "torchvision", "hf", "timm"}
    assert trials["map@5"].notna().all()
    best = result.folder / "best"
    known = Bundle.load(best).images[0]
    with plain_server(web_service(best)) as address:
        photo = (photographs / "train" / known).read_bytes()
        answer = httpx.post(f"{address}/v1/identify", content=photo, headers={"content-type": "image/jpeg"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["candidates"]
