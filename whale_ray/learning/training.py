"""Training: a generator that runs epochs over batches, and the state from which it goes on.

Knows an encoder, a loss and batches; knows neither Ray nor metrics, neither files nor the sweep.

What is random in an epoch depends on the seed and the epoch's number alone, so that training in two sittings
equals training in one, to the last digit on one thread.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from whale_ray.errors import TrainingError
from whale_ray.learning.encoders import Encoder
from whale_ray.learning.layers import settled_norms
from whale_ray.learning.optimiser import PROXY_FACTOR, SCHEDULES, build_optimiser, schedule_factor, set_rates
from whale_ray.learning.precision import working_dtype

if TYPE_CHECKING:
    from whale_ray.data.batches import Batches


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: number (from 1), mean loss an image, images, seconds, last learning rate."""

    number: int
    loss: float
    images: int
    seconds: float
    learning_rate: float


class Training:
    """An encoder, a loss, their optimiser and its schedule; `epoch` counts the finished epochs."""

    def __init__(
        self,
        encoder: Encoder,
        loss: nn.Module,
        optimiser: torch.optim.AdamW,
        *,
        epochs: int,
        steps: int,
        warmup_epochs: float,
        schedule: str,
        clip: float | None,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        self.encoder, self.loss, self.optimiser = encoder, loss, optimiser
        self.epochs, self.steps, self.warmup_epochs = epochs, steps, warmup_epochs
        self.schedule, self.clip = schedule, clip
        self.dtype, self.device, self.seed = dtype, device, seed
        self.epoch = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that training needs to go on, copied to the CPU: a flat dict of tensors.

        Keys: `epoch`, `encoder.<name>`, `loss.<name>`, `optimiser.<encoder or loss>.<name>.<moment>`. It can
        be written by safetensors, or by torch and read under `weights_only`.
        """
        state = {"epoch": torch.tensor(self.epoch)}
        for part, module in (("encoder", self.encoder), ("loss", self.loss)):
            state |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for name, parameter in self._parameters():
            moments = self.optimiser.state.get(parameter, {})
            state |= {f"optimiser.{name}.{moment}": value for moment, value in moments.items()}
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in state.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned; this training must have been started the same way.

        Raises:
            RuntimeError: the state is of another encoder or loss.
        """
        self.encoder.load_state_dict(_under("encoder.", state))
        self.loss.load_state_dict(_under("loss.", state))
        for name, parameter in self._parameters():
            if moments := _under(f"optimiser.{name}.", state):
                self.optimiser.state[parameter] = {key: _like(key, parameter, moments[key]) for key in moments}
        self.epoch = int(state["epoch"])

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, module in (("encoder", self.encoder), ("loss", self.loss)):
            yield from ((f"{part}.{name}", parameter) for name, parameter in module.named_parameters())


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _like(key: str, parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return a moment laid out in memory as its parameter is: another layout changes the last digit."""
    if key == "step":
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def start_training(
    encoder: Encoder,
    loss: nn.Module,
    *,
    epochs: int,
    steps: int,
    learning_rate: float,
    head_learning_rate: float | None = None,
    proxy_learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    warmup_epochs: float = 1,
    schedule: str = "cosine",
    clip: float | None = 10.0,
    precision: str = "auto",
    device: torch.device | str = "cpu",
    seed: int,
) -> Training:
    """Return a training that has not begun; encoder and loss are moved to the device.

    Args:
        encoder: what is trained.
        loss: `(embeddings, labels) -> scalar`; its parameters are the proxies.
        epochs: how many in all; the schedule is laid over them.
        steps: batches an epoch.
        learning_rate: of the trunk (AdamW).
        head_learning_rate: of pooling and neck; None is the trunk's.
        proxy_learning_rate: None is 100 times the trunk's (Kim et al., CVPR 2020).
        weight_decay: of matrices and kernels; biases and normalisations have none.
        warmup_epochs: over which the rates rise from zero, in a line.
        schedule: `cosine` falls to zero at the last step, `constant` stays.
        clip: greatest norm of the gradient, of the encoder and of the proxies each; None or 0 is no limit.
        precision: `auto`, `fp32` or `bf16`, see `working_dtype`.
        device: where the work is done.
        seed: of all that is random in the epochs.

    Raises:
        ValueError: an unknown schedule or precision, or nothing that could be trained.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, but got {schedule!r}")
    place = torch.device(device)
    encoder.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it takes it alone
    loss.to(place)
    rates = [
        (encoder.trunk, learning_rate),
        (encoder.head, learning_rate if head_learning_rate is None else head_learning_rate),
        (loss, PROXY_FACTOR * learning_rate if proxy_learning_rate is None else proxy_learning_rate),
    ]
    return Training(
        encoder,
        loss,
        build_optimiser(rates, weight_decay=weight_decay),
        epochs=epochs,
        steps=steps,
        warmup_epochs=warmup_epochs,
        schedule=schedule,
        clip=clip,
        dtype=working_dtype(precision, place),
        device=place,
        seed=seed,
    )


def train_epochs(training: Training, batches: Batches) -> Iterator[Epoch]:
    """Yield each epoch when it is finished, from the one after `training.epoch` to the last.

    Raises:
        TrainingError: a loss that is not finite; the weights are spoiled then.
    """
    for number in range(training.epoch + 1, training.epochs + 1):
        epoch = _train_epoch(training, batches, number)
        training.epoch = number
        yield epoch


def _train_epoch(training: Training, batches: Batches, number: int) -> Epoch:
    begun = time.perf_counter()
    _seed_everything(training.seed, number)
    training.encoder.train()
    training.loss.train()
    total, images, previous = 0.0, 0, None
    for step, (pictures, labels) in enumerate(batches.epoch(number)):
        set_rates(training.optimiser, _rate_factor(training, (number - 1) * training.steps + step))
        value = _train_step(training, pictures, labels)
        # the loss is read one step late: reading it at once would make the host wait for the device
        total += _finite(previous, number, step)
        previous = (value, len(labels))
        images += len(labels)
    total += _finite(previous, number, step + 1 if previous else 0)
    rate = training.optimiser.param_groups[0]["lr"]
    return Epoch(number, total / max(1, images), images, time.perf_counter() - begun, rate)


def _seed_everything(seed: int, number: int) -> None:
    drawn = np.random.SeedSequence([seed, number]).generate_state(2)
    torch.manual_seed(int(drawn[0]))
    random.seed(int(drawn[1]))
    np.random.seed(int(drawn[1]))


def _rate_factor(training: Training, step: int) -> float:
    warmup, total = training.warmup_epochs * training.steps, training.epochs * training.steps
    return schedule_factor(step, warmup=warmup, total=total, schedule=training.schedule)


def _train_step(training: Training, pictures: Tensor, labels: Tensor) -> Tensor:
    layout = torch.channels_last if pictures.ndim == 4 else torch.preserve_format  # features have no channels
    pictures = pictures.to(training.device, memory_format=layout, non_blocking=True)
    labels = labels.to(training.device, non_blocking=True)
    training.optimiser.zero_grad(set_to_none=True)
    half = training.dtype == torch.bfloat16
    settled = settled_norms(training.encoder) if len(labels) == 1 else nullcontext()
    with torch.autocast(training.device.type, torch.bfloat16, enabled=half), settled:
        embeddings = training.encoder(pictures)
    value: Tensor = training.loss(embeddings.float(), labels)
    norms: list[Tensor] = []
    if value.requires_grad:
        torch.autograd.backward(value)
        norms = _clip_gradients(training)
        training.optimiser.step()
    return torch.stack([value.detach(), *norms])


def _clip_gradients(training: Training) -> list[Tensor]:
    """Limit the gradient's norm, of the encoder and of the proxies each; return what the norms were."""
    limit = training.clip or math.inf
    modules = (list(module.parameters()) for module in (training.encoder, training.loss))
    return [nn.utils.clip_grad_norm_(parameters, limit) for parameters in modules if parameters]


def _finite(step: tuple[Tensor, int] | None, epoch: int, number: int) -> float:
    """Return the step's loss times its images; `number` counts the epoch's steps from 1."""
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
