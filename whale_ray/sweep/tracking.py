"""Where a trial's curves are also written: Weights & Biases, offline or online, or nowhere.

Knows wandb alone; wandb is imported only where it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from whale_ray.errors import InputError


class Tracker(Protocol):
    """What a trial tells of itself."""

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        """Writes the figures of one epoch."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Writes the final figures."""

    def close(self) -> None:
        """Writes what is left: the trial is over, however it ended."""


class _Nowhere:
    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        pass

    def summarise(self, figures: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class _WeightsAndBiases:
    def __init__(self, mode: str, *, project: str, sweep: str, trial: str, settings: Mapping[str, Any], folder: Path):
        import wandb

        self._folder = folder / "wandb"
        self._run = wandb.init(
            mode="online" if mode == "online" else "offline",
            project=project,
            group=sweep,
            id=f"{sweep}-{trial}",
            name=trial,
            resume="allow",
            config=dict(settings),
            dir=str(folder),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        if not self._folder.is_dir():
            raise InputError(f"wandb must write below {folder}, but made no folder there. Set tracking.wandb: off")

    def log(self, figures: Mapping[str, Any], *, epoch: int) -> None:
        self._run.log(dict(figures), step=epoch)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        self._run.finish()


def open_tracker(
    mode: str, *, project: str, sweep: str, trial: str, settings: Mapping[str, Any], folder: Path
) -> Tracker:
    """The tracker of one trial: `off` writes nothing, `offline` below `folder`, `online` also sends."""
    if mode == "off":
        return _Nowhere()
    return _WeightsAndBiases(mode, project=project, sweep=sweep, trial=trial, settings=settings, folder=folder)


def check_tracking(mode: str) -> None:
    """Raises InputError where `online` is asked for and there is no key to sign in with."""
    if mode != "online":
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise InputError(
            "tracking.wandb: online needs a key, but there is none. "
            "Type `wandb login`, set WANDB_API_KEY, or say tracking.wandb: offline"
        )
