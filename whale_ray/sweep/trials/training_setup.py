"""Batches, loss and training state of a trial, built from the `train` and `loss` settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from whale_ray.sweep.trials.embedder import TrialEmbedder

if TYPE_CHECKING:
    from torch import nn

    from whale_ray.data.batches import Batches
    from whale_ray.learning.encoders.registry import Encoder
    from whale_ray.learning.training.loop import Training
    from whale_ray.learning.training.worker_group import WorkerGroup

_AUGMENTATIONS = ("affine", "colour", "blur", "erasing")
_OPTIMIZATION = (
    *("epochs", "learning_rate", "head_learning_rate", "proxy_learning_rate", "layer_decay", "weight_decay"),
    *("warmup_epochs", "head_epochs", "schedule", "ema", "clip", "precision"),
)


def trains_on_features(encoder: Encoder, train: Mapping[str, Any]) -> bool:
    """Return whether features are computed once: the trunk is frozen and images are not augmented.

    Args:
        encoder: The encoder.
        train: The `train` settings.
    """
    return encoder.is_frozen and not any(train.get(name) for name in _AUGMENTATIONS)


def build_batches(
    encoder: Encoder,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    train: Mapping[str, Any],
    seed: int,
    embedder: TrialEmbedder,
    workers: WorkerGroup,
) -> Batches:
    """Return the batches of a training, made of images or of features.

    Args:
        encoder: The encoder to train.
        rows: Rows of the photographs, int64, shape (N,).
        labels: Class of each row, -1 for an unknown individual, int64, shape (N,).
        train: The `train` settings.
        seed: Seed of order and augmentation.
        embedder: Gives pixels, features and device.
        workers: The workers that share each batch.
    """
    from whale_ray.data.batches import Batches, FeatureBatches

    source: Callable[..., Batches] = partial(Batches, embedder.pixels.array)
    if trains_on_features(encoder, train):
        source = partial(FeatureBatches, *(embedder.features(encoder, flipped=flipped) for flipped in (False, True)))
    return source(
        embedder.pixels.geometry,
        rows,
        labels,
        batch_size=train["batch_size"],
        images_per_individual=None if train["sampler"] == "shuffle" else train["images_per_individual"],
        evenly=train["sampler"] == "balanced",
        negatives_share=train["negatives_share"],
        flip=train["flip"],
        **{name: train[name] for name in _AUGMENTATIONS},
        seed=seed,
        device=embedder.device,
        on_batch=embedder.on_batch,
        rank=workers.rank,
        workers=workers.size,
    )


def build_training_loss(batches: Batches, *, loss: Mapping[str, Any], embedding_size: int, memory: int) -> nn.Module:
    """Return the loss for the classes of the batches.

    Args:
        batches: The batches.
        loss: The `loss` settings: name and parameters.
        embedding_size: Dimension of the embeddings.
        memory: Number of earlier embeddings that the loss also compares with; 0 for none.
    """
    from whale_ray.learning.losses.registry import build_loss

    return build_loss(
        num_classes=batches.num_classes,
        class_counts=batches.class_counts,
        embedding_size=embedding_size,
        memory=memory,
        **loss,
    )


def begin_training(
    encoder: Encoder,
    loss: nn.Module,
    batches: Batches,
    *,
    train: Mapping[str, Any],
    seed: int,
    device: Any,
    workers: WorkerGroup,
) -> Training:
    """Return a training before its first epoch.

    Args:
        encoder: The encoder.
        loss: The loss.
        batches: The batches.
        train: The `train` settings.
        seed: Seed of the training.
        device: Device of the encoder.
        workers: The workers that train together.
    """
    from whale_ray.learning.training.loop import start_training

    return start_training(
        encoder,
        loss.to(device),
        steps=batches.steps,
        device=device,
        seed=seed,
        workers=workers,
        **{name: train[name] for name in _OPTIMIZATION},
    )
