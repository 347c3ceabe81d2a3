"""State of a training: its parts, and their serialisation as a flat dict of tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from whale_ray.learning.encoders.registry import Encoder
from whale_ray.learning.training.ema import ExponentialMovingAverage
from whale_ray.learning.training.optim import Schedule
from whale_ray.learning.training.worker_group import SINGLE_WORKER, WorkerGroup


class Training:
    """A training in progress.

    Args:
        encoder: The encoder in training.
        loss: The loss.
        optimiser: The optimizer.
        schedule: The learning-rate schedule.
        average: Moving average of the encoder; None for none.
        clip: Largest gradient norm; None for no limit.
        dtype: Number format of the forward pass.
        device: Device of the training.
        seed: Seed of all randomness in the epochs.
        workers: The workers that train together.

    Attributes:
        epoch: Number of finished epochs.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: nn.Module,
        optimiser: torch.optim.AdamW,
        schedule: Schedule,
        *,
        average: ExponentialMovingAverage | None,
        clip: float | None,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        workers: WorkerGroup = SINGLE_WORKER,
    ) -> None:
        self.encoder, self.loss, self.optimiser, self.schedule = encoder, loss, optimiser, schedule
        self.average, self.clip = average, clip
        self.dtype, self.device, self.seed, self.workers = dtype, device, seed, workers
        self.epoch = 0
        self._trunk = [parameter for parameter in encoder.trunk.parameters() if parameter.requires_grad]

    @property
    def outcome(self) -> Encoder:
        """The encoder to evaluate and keep: the moving average if there is one."""
        return self.encoder if self.average is None else self.average.encoder

    def set_stage(self, epoch: int) -> None:
        """Prepare encoder and loss for an epoch (from 1). During the head epochs the backbone is frozen.

        A frozen backbone takes no gradient, and its batch normalisations learn no statistics.
        """
        alone = epoch <= self.schedule.head_epochs
        for parameter in self._trunk:
            parameter.requires_grad_(not alone)
        self.encoder.train()
        self.loss.train()
        if alone:
            self.encoder.trunk.eval()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state to resume from, copied to the CPU: a flat dict of tensors.

        Keys: `epoch`, `encoder.<name>`, `average.<name>`, `loss.<name>`, `optimiser.<encoder or loss>.<name>.<moment>`.
        It can be written by safetensors, or by torch and read under `weights_only`.
        """
        state = {"epoch": torch.tensor(self.epoch)}
        for part, module in self._parts():
            state |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for name, parameter in self._parameters():
            moments = self.optimiser.state.get(parameter, {})
            state |= {f"optimiser.{name}.{moment}": value for moment, value in moments.items()}
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in state.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. The training must have been started with the same arguments.

        Raises:
            RuntimeError: If the state belongs to another encoder or loss.
        """
        for part, module in self._parts():
            module.load_state_dict(_with_prefix(f"{part}.", state))
        for name, parameter in self._parameters():
            if moments := _with_prefix(f"optimiser.{name}.", state):
                self.optimiser.state[parameter] = {key: _in_layout_of(key, parameter, moments[key]) for key in moments}
        self.epoch = int(state["epoch"])

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield from (("encoder", self.encoder), ("loss", self.loss))
        if self.average is not None:
            yield "average", self.average.encoder

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for part, module in (("encoder", self.encoder), ("loss", self.loss)):
            yield from ((f"{part}.{name}", parameter) for name, parameter in module.named_parameters())


def _with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _in_layout_of(key: str, parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return a moment in the memory layout of its parameter: another layout would change the last digit."""
    if key == "step":
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
