"""Checkpoints: resumed training equals uninterrupted training, and loading executes no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whale_ray.data.batches import Batches
from whale_ray.data.image_io import Geometry
from whale_ray.learning.encoders.registry import Encoder, build_encoder, rebuild_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import Training, start_training, train_epochs
from whale_ray.sweep.run_folder.checkpoints import (
    WEIGHTS,
    Checkpoint,
    CheckpointError,
    drop_state,
    drop_weights,
    keep_weights,
    load_weights,
)

GEOMETRY = Geometry(24, 24)


def parts(epochs: int = 3) -> tuple[Training, Batches]:
    torch.manual_seed(0)
    array = np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(4), 4)
    batches = Batches(array, GEOMETRY, np.arange(16), labels, batch_size=8, images_per_individual=2, colour=0.3, seed=3)
    encoder = build_encoder("tiny", embedding_size=8, weights="random", image_size=(24, 24))
    loss = build_loss("arcface", num_classes=batches.num_classes, embedding_size=8)
    training = start_training(encoder, loss, epochs=epochs, steps=batches.steps, learning_rate=1e-2, seed=3)
    return training, batches


def same(one: Encoder, other: Encoder) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == key and torch.equal(value, found) for (name, value), (key, found) in pairs)


def test_without_a_checkpoint_training_starts_at_epoch_one(tmp_path: Path) -> None:
    training, _ = parts()
    assert Checkpoint(tmp_path, keep_best=False).load(training) == []
    assert training.epoch == 0


def test_resumed_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    whole, batches = parts()
    losses = [epoch.loss for epoch in train_epochs(whole, batches)]
    first, batches = parts()
    checkpoint = Checkpoint(tmp_path / "checkpoint", keep_best=False)
    figures: list[dict[str, Any]] = []
    for epoch in train_epochs(first, batches):
        figures.append({"epoch": epoch.number, "loss": epoch.loss, "recall@1": None})
        checkpoint.save(first, figures, objective="recall@1")
        if epoch.number == 2:
            break
    second, batches = parts()
    loaded = checkpoint.load(second)
    assert loaded == figures
    assert second.epoch == 2
    assert [*(row["loss"] for row in loaded), *(epoch.loss for epoch in train_epochs(second, batches))] == losses
    assert same(second.encoder, whole.encoder)


def test_the_best_epoch_is_the_first_with_the_largest_score(tmp_path: Path) -> None:
    training, _ = parts()
    checkpoint = Checkpoint(tmp_path, keep_best=True)
    figures: list[dict[str, Any]] = []
    kept: list[float] = []
    bias = next(parameter for parameter in training.encoder.parameters() if parameter.ndim == 1)
    proxies = next(training.loss.parameters())
    for number, score in enumerate([0.2, 0.6, None, 0.6, 0.1]):
        with torch.no_grad():
            bias.fill_(number)
            proxies.fill_(number)
        figures.append({"epoch": number + 1, "recall@1": score})
        checkpoint.save(training, figures, objective="recall@1")
        kept.append(float(load_weights(tmp_path / "best.safetensors")[name_of(training.encoder, bias)][0]))
    assert kept == [0, 1, 1, 1, 1]
    checkpoint.restore_best(training.encoder, training.loss)
    assert float(bias.detach()[0]) == 1
    assert float(proxies.detach()[0, 0]) == 1


def name_of(encoder: Encoder, wanted: torch.Tensor) -> str:
    return next(name for name, parameter in encoder.named_parameters() if parameter is wanted)


def test_keep_last_keeps_the_last_epoch(tmp_path: Path) -> None:
    training, _ = parts()
    checkpoint = Checkpoint(tmp_path, keep_best=False)
    checkpoint.save(training, [{"epoch": 1, "recall@1": 0.5}], objective="recall@1")
    assert not (tmp_path / "best.safetensors").exists()
    before = {name: value.clone() for name, value in training.encoder.state_dict().items()}
    checkpoint.restore_best(training.encoder, training.loss)
    assert all(torch.equal(before[name], value) for name, value in training.encoder.state_dict().items())


def test_kept_weights_and_recipe_build_the_encoder_again(tmp_path: Path) -> None:
    import json

    encoder = parts()[0].encoder
    keep_weights(encoder, tmp_path)
    again = rebuild_encoder(json.loads((tmp_path / "recipe.json").read_text()))
    again.load_state_dict(load_weights(tmp_path / WEIGHTS))
    assert same(again, encoder)


def test_a_finished_trial_keeps_only_its_weights_until_they_are_deleted(tmp_path: Path) -> None:
    training, _ = parts()
    folder = tmp_path / "checkpoint"
    Checkpoint(folder, keep_best=True).save(training, [{"epoch": 1, "recall@1": 0.5}], objective="recall@1")
    keep_weights(training.encoder, folder)
    drop_state(folder)
    drop_state(folder)
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, "recipe.json"}
    drop_weights(folder)
    drop_weights(folder)
    assert not folder.exists()


def test_a_pickled_state_is_refused(tmp_path: Path) -> None:
    torch.save({"training": pickle.Pickler, "epochs": []}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"\(UnpicklingError\) and lies aside"):
        Checkpoint(tmp_path, keep_best=False).load(parts()[0])
