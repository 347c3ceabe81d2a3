"""Checkpoints of a trial: training state to resume from, and weights to deploy.

They hold tensors, numbers and JSON only; reading them executes nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whale_ray.atomic_files import replaced_atomically, write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

    from whale_ray.learning.encoders.registry import Encoder
    from whale_ray.learning.training.loop import Training

WEIGHTS = "encoder.safetensors"
RECIPE = "recipe.json"
STATES = ("state.pt", "best.safetensors", "best_loss.safetensors")
SECOND = "second"  # folder, beside these files, for the second round of training


class CheckpointError(Exception):
    """The state of a trial cannot be read."""


class Checkpoint:
    """Training state of a trial.

    Args:
        folder: The checkpoint folder.
        keep_best: Also keep the weights of the best epoch.
    """

    def __init__(self, folder: Path, *, keep_best: bool) -> None:
        self._state = folder / STATES[0]
        self._best = folder / STATES[1] if keep_best else None

    @property
    def exists(self) -> bool:
        """True if a state was saved."""
        return self._state.exists()

    def load(self, training: Training) -> list[dict[str, Any]]:
        """Load the state into `training` and return the rows of the epochs done; an empty list without a state.

        Raises:
            CheckpointError: If the state is damaged. It is renamed to state.damaged; `training` is unchanged.
        """
        import torch

        if not self._state.exists():
            return []
        try:
            state = torch.load(self._state, weights_only=True, map_location=training.device)
            epochs = list(state["epochs"])
            training.load_state_dict(state["training"])
        except Exception as error:  # torch raises many kinds for a file that is cut or foreign
            aside = self._state.with_suffix(".damaged")
            self._state.replace(aside)
            reason = type(error).__name__
            raise CheckpointError(f"the checkpoint could not be read ({reason}) and lies aside in {aside}") from error
        return epochs

    def save(self, training: Training, epochs: list[dict[str, Any]], *, objective: str) -> None:
        """Write the state, and the weights of the best epoch if the last one is the best so far.

        Args:
            training: The training after the last epoch.
            epochs: Rows of the epochs done.
            objective: Name of the score that decides which epoch is the best.
        """
        import torch

        scores = [row[objective] for row in epochs if row.get(objective) is not None]
        is_best = bool(scores) and epochs[-1].get(objective) == max(scores) and scores.count(max(scores)) == 1
        if self._best is not None and is_best:
            _save_tensors(training.outcome.state_dict(), self._best)
            _save_tensors(training.loss.state_dict(), self._best.with_name(STATES[2]))
        with replaced_atomically(self._state) as draft:
            torch.save({"training": training.state_dict(), "epochs": epochs}, draft)

    def restore_best(self, encoder: Encoder, loss: nn.Module) -> None:
        """Load the weights of the best epoch, if they are kept.

        Args:
            encoder: Gets the weights of the encoder.
            loss: Gets the weights of the loss.
        """
        if self._best is not None and self._best.exists():
            encoder.load_state_dict(load_weights(self._best))
            if (proxies := self._best.with_name(STATES[2])).exists():
                loss.load_state_dict(load_weights(proxies))


def keep_weights(encoder: Encoder, folder: Path) -> None:
    """Write weights and recipe of an encoder.

    Args:
        encoder: The trained encoder.
        folder: The checkpoint folder.
    """
    save_weights(encoder.recipe, encoder.state_dict(), folder)


def save_weights(recipe: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> None:
    """Write the weights of an encoder and the recipe that rebuilds it.

    Args:
        recipe: The recipe, as JSON.
        weights: State dict of the encoder.
        folder: The checkpoint folder.
    """
    _save_tensors(weights, folder / WEIGHTS)
    write_atomically(folder / RECIPE, json.dumps(recipe))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def drop_state(folder: Path) -> None:
    """Remove the training state of a trial that has ended; its weights stay."""
    for name in STATES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / SECOND, ignore_errors=True)


def drop_weights(folder: Path) -> None:
    """Remove the checkpoint folder of a trial; its scores and embeddings stay."""
    shutil.rmtree(folder, ignore_errors=True)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    with replaced_atomically(path) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
