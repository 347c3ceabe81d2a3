"""The parts of a training, and the state from which it goes on: tensors by name.

Knows an encoder, a loss, their optimiser and the schedule; runs no epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from whale_ray.learning.encoders.registry import Encoder
from whale_ray.learning.training.ema import Average
from whale_ray.learning.training.optim import Schedule


class Training:
    """An encoder, a loss, their optimiser and its schedule; `epoch` counts the finished epochs.

    `average` is the moving average of the encoder, where there is one.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: nn.Module,
        optimiser: torch.optim.AdamW,
        schedule: Schedule,
        *,
        average: Average | None,
        clip: float | None,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        self.encoder, self.loss, self.optimiser, self.schedule = encoder, loss, optimiser, schedule
        self.average, self.clip = average, clip
        self.dtype, self.device, self.seed = dtype, device, seed
        self.epoch = 0
        self._trunk = [parameter for parameter in encoder.trunk.parameters() if parameter.requires_grad]

    @property
    def outcome(self) -> Encoder:
        """The encoder to evaluate and keep: the averaged one, where there is one."""
        return self.encoder if self.average is None else self.average.encoder

    def set_stage(self, epoch: int) -> None:
        """Make encoder and loss ready to train an epoch (from 1); while the head is trained alone, the trunk is still.

        A trunk that is still takes no gradient, and its batch normalisations learn no statistics.
        """
        alone = epoch <= self.schedule.head_epochs
        for parameter in self._trunk:
            parameter.requires_grad_(not alone)
        self.encoder.train()
        self.loss.train()
        if alone:
            self.encoder.trunk.eval()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that training needs to go on, copied to the CPU: a flat dict of tensors.

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
        """Take over what `state_dict` returned; this training must have been started the same way.

        Raises:
            RuntimeError: the state is of another encoder or loss.
        """
        for part, module in self._parts():
            module.load_state_dict(_under(f"{part}.", state))
        for name, parameter in self._parameters():
            if moments := _under(f"optimiser.{name}.", state):
                self.optimiser.state[parameter] = {key: _like(key, parameter, moments[key]) for key in moments}
        self.epoch = int(state["epoch"])

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        yield from (("encoder", self.encoder), ("loss", self.loss))
        if self.average is not None:
            yield "average", self.average.encoder

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
