"""Time estimate of a sweep: measures a few training and embedding steps of each encoder on random images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from whale_ray.device import available_device, keep_freed_memory, limit_threads
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.dataset import catalog_of, geometry_of
from whale_ray.sweep.planning.trial_points import (
    Settings,
    baselines,
    check_encoder,
    corner_points,
    encoder_of,
    epochs_of,
    first_settings,
)

if TYPE_CHECKING:
    import torch

    from whale_ray.learning.encoders.registry import Encoder

_PICTURES = 16
_LABELS = 8
_ROUNDS = 2
_BYTES = 4


@dataclass(frozen=True)
class Step:
    """Cost of one image.

    Attributes:
        train: Seconds to train on it, per epoch.
        embed: Seconds to embed it.
        weights: Bytes of the encoder's weights.
    """

    train: float
    embed: float
    weights: int


def estimate(sweep: Sweep, *, trials: int, at_once: int) -> Iterator[str]:
    """Yield time and weights of each encoder, then the time of the sweep, as lines of text.

    Args:
        sweep: The sweep.
        trials: Number of trials that are left to train.
        at_once: Number of trials that run at the same time.
    """
    table = catalog_of(first_settings(sweep)["data"]).table
    images, share = len(table), 1.0 - sweep.fixed["data.val_fraction"]
    names = ("model.encoder", "model.weights", "data.image_size", "train.epochs", "train.batch_size")
    measured: dict[tuple[Any, ...], Step] = {}
    seconds = []
    for point in corner_points(sweep, *names):
        settings = sweep.settings(point)
        key = (settings["model"]["encoder"], settings["data"]["image_size"])
        if key not in measured:
            measured[key] = measure_step(
                settings, threads=max(1, int(sweep.fixed["resources.cpus"])), gpus=sweep.fixed["resources.gpus"]
            )
            yield _encoder_line(*key, measured[key])
        seconds.append(_trial_seconds(settings, measured[key], images=images, share=share))
    frozen = len(baselines(sweep)) * 2 * images * fmean(step.embed for step in measured.values())
    total = (trials * fmean(seconds) + frozen) / max(1, at_once)
    yield (
        f"about {_duration(fmean(seconds))} a trial (from {_duration(min(seconds))} to {_duration(max(seconds))}), "
        f"{_duration(total)} for the {trials} to train on this machine, {max(1, at_once)} at a time; early stopping "
        "and scoring not counted"
    )


def measure_step(settings: Settings, *, threads: int, gpus: float = 0.0) -> Step:
    """Return the cost of one image with these settings: the fastest of a few rounds on random images.

    Args:
        settings: Settings of a trial.
        threads: Threads of a trial.
        gpus: GPU share of a trial; more than 0 measures on the GPU if this machine has one.

    Raises:
        EncoderError: If the encoder cannot be built, or its code fails.
    """
    import torch

    from whale_ray.retrieval.embed import embed

    limit_threads(threads)
    keep_freed_memory()
    device = torch.device(available_device(gpus))
    check_encoder(settings)
    encoder = encoder_of(settings).to(device)
    geometry = geometry_of(settings["data"], settings["train"])
    pixels = np.random.default_rng(0).integers(0, 256, (_PICTURES, *geometry.stored, 3), dtype=np.uint8)
    rows = np.arange(_PICTURES)
    size = min(_PICTURES, settings["train"]["batch_size"])
    rounds = (
        _train_rounds(settings, encoder, pixels, size=size, device=device) if settings["train"]["epochs"] else [0.0]
    )
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        embed(encoder, pixels, geometry, rows, flipped=False, batch_size=size, device=device)
        taken.append((time.perf_counter() - started) / _PICTURES)
    return Step(min(rounds), min(taken), _BYTES * sum(one.numel() for one in encoder.state_dict().values()))


def _train_rounds(
    settings: Settings, encoder: Encoder, pixels: np.ndarray, *, size: int, device: torch.device
) -> list[float]:
    """Return seconds per image of a few epochs, without the first one."""
    from whale_ray.data.batches import Batches
    from whale_ray.learning.losses.registry import build_loss
    from whale_ray.learning.training.loop import start_training, train_epochs

    train, rows = settings["train"], np.arange(len(pixels))
    geometry = geometry_of(settings["data"], train)
    moves = {name: train[name] for name in ("affine", "colour", "blur", "erasing")}
    options = {"batch_size": size, "seed": 0, "device": device, **moves}
    batches = Batches(pixels, geometry, rows, rows % _LABELS, images_per_individual=None, flip="none", **options)
    size, counts = encoder.embedding_size, batches.class_counts
    loss = build_loss(num_classes=_LABELS, class_counts=counts, embedding_size=size, **settings["loss"]).to(device)
    options = {"precision": train["precision"], "learning_rate": 1e-6, "device": device, "seed": 0}
    training = start_training(encoder, loss, epochs=1 + _ROUNDS, steps=batches.steps, **options)
    _, *rounds = [epoch.seconds / epoch.images for epoch in train_epochs(training, batches)]
    return rounds


def _trial_seconds(settings: Settings, step: Step, *, images: int, share: float) -> float:
    train = settings["train"]
    epochs = epochs_of(settings)
    evaluated = epochs / train["evaluate_every"]
    return float(images * (epochs * share * step.train + (evaluated + 2) * step.embed))


def _encoder_line(encoder: str, image_size: Any, step: Step) -> str:
    return (
        f"{encoder} at {image_size}: {1000 * step.train:.1f} ms a picture to train on, {1000 * step.embed:.1f} ms to "
        f"embed; weights {step.weights / 1e6:.0f} MB"
    )


def _duration(seconds: float) -> str:
    """Return a duration as text.

    >>> _duration(42), _duration(200), _duration(8000)
    ('42 s', '3 min', '2 h 13 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
