"""Identity of a sweep outside of its run folder: in W&B, MLflow and a shared Optuna database."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.run_folder.optional_json import read_optional_json


@dataclass(frozen=True)
class SweepIdentity:
    """Names by which other programs know a sweep. Another run folder of the same sweep file has others.

    Attributes:
        id: Eight random hexadecimal digits.
        wandb_prefix: Begins the ID of every W&B run.
    """

    id: str
    wandb_prefix: str


def sweep_identity(folder: Path, name: str) -> SweepIdentity:
    """Return the identity of the sweep in a run folder, drawn and written into identity.json at the first call.

    Versions without identity.json named W&B runs after the sweep and the trial alone. A run folder with such runs
    continues them.

    Args:
        folder: The run folder.
        name: Name of the sweep.

    Raises:
        InputError: If identity.json is damaged.
    """
    path = folder / "identity.json"
    written = read_optional_json(path)
    drawn = str(written.get("id") or secrets.token_hex(4))
    prefix = str(written.get("wandb_prefix") or (name if _has_earlier_runs(folder, name) else f"{name}-{drawn}"))
    identity = SweepIdentity(drawn, prefix)
    if written != asdict(identity):
        write_atomically(path, json.dumps(asdict(identity), indent=1))
    return identity


def _has_earlier_runs(folder: Path, name: str) -> bool:
    """Return whether a trial has a W&B run that is named after the sweep and the trial alone."""
    runs = folder.glob(f"trials/*/wandb/*run-*-{name}-*")
    return any(run.name.endswith(f"-{name}-{run.parents[1].name}") for run in runs)
