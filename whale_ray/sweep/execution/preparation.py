"""What comes before the first trial: everything is checked, the photographs are decoded, the inputs written down.

Knows the sweep, its data and its run folder; starts no trial and knows no Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.planning.dataset import Dataset, catalog_of, open_dataset, pixel_cache, write_split
from whale_ray.sweep.planning.trial_settings import check_encoders, first_settings, geometries
from whale_ray.sweep.trials.pseudo_labels import check_unknown
from whale_ray.sweep.trials.trackers import check_tracking


def check_inputs(sweep: Sweep) -> None:
    """Raises InputError with everything that is wrong about data, encoders and tracking, before the long work."""
    checks: tuple[Callable[[], object], ...] = (
        lambda: catalog_of(first_settings(sweep)["data"]),
        lambda: check_encoders(sweep),
        lambda: check_tracking(sweep.fixed["tracking.wandb"]),
    )
    faults = [fault for fault in map(_fault_of, checks) if fault is not None]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise InputError("\n".join(map(str, faults)))


def _fault_of(check: Callable[[], object]) -> InputError | None:
    try:
        check()
    except InputError as fault:
        return fault
    return None


def prepare_dataset(sweep: Sweep, progress: Progress) -> Dataset:
    """The photographs of the sweep, audited, split and decoded at every geometry that its trials need."""
    settings = first_settings(sweep)
    first, *others = geometries(sweep)
    watched = progress.console.is_terminal
    dataset = open_dataset(settings["data"], settings["split"], geometry=first, cache=pixel_cache(), progress=watched)
    check_unknown(sweep, dataset)
    for geometry in others:
        dataset.pixels(geometry, progress=watched)
    for line in dataset.audit.lines():
        progress.say(line)
    return dataset


def write_inputs(sweep: Sweep, dataset: Dataset, folder: Path) -> None:
    """Writes sweep.yaml, split.csv and audit.json into the run folder."""
    write_atomically(folder / "sweep.yaml", sweep.to_yaml())
    write_split(dataset, folder / "split.csv")
    dataset.audit.write(folder / "audit.json")
