"""Training loop: `start_training` and the generator `train_epochs`.

The randomness of an epoch depends on the seed and its number alone. A resumed training equals an uninterrupted one, to
the last digit on one thread.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from whale_ray.errors import TrainingError
from whale_ray.learning.encoders.layers import settled_norms
from whale_ray.learning.encoders.registry import Encoder
from whale_ray.learning.training.ema import ExponentialMovingAverage
from whale_ray.learning.training.optim import SCHEDULES, Rates, Schedule, build_optimizer, set_rates
from whale_ray.learning.training.precision import training_dtype
from whale_ray.learning.training.state import Training
from whale_ray.learning.training.worker_group import SINGLE_WORKER, WorkerGroup

if TYPE_CHECKING:
    from whale_ray.data.batches import Batches

__all__ = ["Epoch", "Training", "start_training", "train_epochs"]


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Attributes:
        number: Number of the epoch, from 1.
        loss: Mean loss per image.
        images: Number of images.
        seconds: Duration in seconds.
        learning_rate: Learning rate of the last step.
    """

    number: int
    loss: float
    images: int
    seconds: float
    learning_rate: float


def start_training(
    encoder: Encoder,
    loss: nn.Module,
    *,
    epochs: int,
    steps: int,
    warmup_epochs: float = 1,
    head_epochs: int = 0,
    schedule: str = "cosine",
    ema: float = 0.0,
    clip: float | None = 10.0,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    seed: int,
    workers: WorkerGroup = SINGLE_WORKER,
    **rates: Unpack[Rates],
) -> Training:
    """Return a training that has not begun. Encoder and loss are moved to the device.

    Args:
        encoder: The encoder to train.
        loss: `(embeddings, labels) -> scalar`; its parameters are the proxies.
        epochs: Number of epochs that the schedule spans.
        steps: Batches per epoch.
        warmup_epochs: Epochs in which the rates rise linearly from zero.
        head_epochs: First epochs in which the backbone is frozen; a separate warm-up follows.
        schedule: `cosine` falls to zero at the last step, `constant` stays.
        ema: Decay of the moving average, which is then the `outcome`; 0 for none.
        clip: Largest gradient norm, of the encoder and of the proxies separately; None or 0 for no limit.
        precision: `auto`, `fp32` or `bf16`, see `training_dtype`.
        device: Device of the training.
        seed: Seed of all randomness in the epochs.
        workers: The workers that train together. All of them must be given the same weights and arguments.
        **rates: Learning rates and weight decay, see `build_optimizer`.

    Raises:
        ValueError: If schedule or precision is unknown, or there is nothing to train.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, but got {schedule!r}")
    place = torch.device(device)
    encoder.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it takes it alone
    loss.to(place)
    return Training(
        encoder,
        loss,
        build_optimizer(encoder, loss, **rates),
        Schedule(epochs, steps, warmup_epochs, head_epochs, schedule),
        average=ExponentialMovingAverage(encoder, ema) if ema else None,
        clip=clip,
        dtype=training_dtype(precision, place, encoder),
        device=place,
        seed=seed,
        workers=workers,
    )


def train_epochs(training: Training, batches: Batches) -> Iterator[Epoch]:
    """Yield each epoch when it is finished, from the one after `training.epoch` to the last.

    Args:
        training: The training to continue.
        batches: The batches of the training set.

    Raises:
        TrainingError: If the loss is not finite; the weights are unusable then.
    """
    for number in range(training.epoch + 1, training.schedule.epochs + 1):
        epoch = _train_epoch(training, batches, number)
        training.epoch = number
        yield epoch


def _train_epoch(training: Training, batches: Batches, number: int) -> Epoch:
    begun = time.perf_counter()
    _seed_everything(training.seed, number, training.workers.rank)
    training.set_stage(number)
    total, images, previous = 0.0, 0, None
    done = (number - 1) * training.schedule.steps
    for step, (pictures, labels) in enumerate(batches.epoch(number)):
        set_rates(training.optimiser, training.schedule, done + step)
        value = _train_step(training, pictures, labels)
        if training.average is not None:
            training.average.update(training.encoder, done + step)
        # the loss is read one step late: reading it at once would make the host wait for the device
        total += _finite(previous, number, step)
        previous = (value, len(labels))
        images += len(labels)
    total += _finite(previous, number, step + 1 if previous else 0)
    rate = training.optimiser.param_groups[0]["lr"]
    return Epoch(number, total / max(1, images), images, time.perf_counter() - begun, rate)


def _seed_everything(seed: int, number: int, rank: int) -> None:
    """Seed the process for an epoch; each further worker of a training drops out other activations."""
    drawn = np.random.SeedSequence([seed, number, *([rank] if rank else [])]).generate_state(2)
    torch.manual_seed(int(drawn[0]))
    random.seed(int(drawn[1]))
    np.random.seed(int(drawn[1]))


def _train_step(training: Training, pictures: Tensor, labels: Tensor) -> Tensor:
    layout = torch.channels_last if pictures.ndim == 4 else torch.preserve_format  # features have no channels
    pictures = pictures.to(training.device, memory_format=layout, non_blocking=True)
    labels = labels.to(training.device, non_blocking=True)
    training.optimiser.zero_grad(set_to_none=True)
    half, workers = training.dtype == torch.bfloat16, training.workers
    workers.check_batch(len(labels))
    settled = settled_norms(training.encoder) if len(labels) == 1 else nullcontext()
    with torch.autocast(training.device.type, torch.bfloat16, enabled=half), settled, workers.synchronized_norms():
        embeddings = training.encoder(pictures)
    value: Tensor = training.loss(workers.gather_embeddings(embeddings.float(), len(labels)), labels)
    norms: list[Tensor] = []
    if value.requires_grad:
        torch.autograd.backward(value)
        workers.sum_gradients(training.encoder, training.loss)
        norms = _clip_gradients(training)
        training.optimiser.step()
    return torch.stack([value.detach(), *norms])


def _clip_gradients(training: Training) -> list[Tensor]:
    """Limit the gradient's norm, of the encoder and of the proxies each; return what the norms were."""
    limit = training.clip or math.inf
    modules = (list(module.parameters()) for module in (training.encoder, training.loss))
    return [nn.utils.clip_grad_norm_(parameters, limit) for parameters in modules if parameters]


def _finite(step: tuple[Tensor, int] | None, epoch: int, number: int) -> float:
    """Return the step's loss times its number of images; `number` counts the steps of the epoch from 1."""
    if step is None:
        return 0.0
    loss, *norms = step[0].tolist()
    if not all(map(math.isfinite, (loss, *norms))):
        found = f"the loss is {loss:g}" + "".join(f", a norm of the gradient {norm:g}" for norm in norms)
        raise TrainingError(
            f"the loss and its gradient must be finite, but at step {number} of epoch {epoch} {found}. "
            "Lower train.learning_rate or the loss's scale, or lengthen train.warmup_epochs."
        )
    return float(loss) * step[1]
