"""Preparation of a sweep: checks its inputs, decodes the photographs, writes the inputs into the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.catalog import Catalog
from whale_ray.data.encounters.contact_sheet import write_contact_sheet
from whale_ray.errors import InputError
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.console import Progress
from whale_ray.sweep.execution.gather_local_evidence import check_keypoints
from whale_ray.sweep.planning.dataset import Dataset, catalog_of, open_dataset, write_split
from whale_ray.sweep.planning.pair_positives import check_positives
from whale_ray.sweep.planning.study_storage import check_storage
from whale_ray.sweep.planning.trial_points import check_encoders, first_settings, geometries
from whale_ray.sweep.run_folder.records import read_records, write_result
from whale_ray.sweep.trials.embeddings_io import update_traits
from whale_ray.sweep.trials.pseudo_labels import check_unknown
from whale_ray.sweep.trials.trackers.registry import check_trackers
from whale_ray.sweep.trials.trackers.tracker import Tracking


def check_inputs(sweep: Sweep) -> Catalog:
    """Check data, models, database and trackers before anything that takes long, and return the catalog of photographs.

    Raises:
        InputError: With all faults.
    """
    catalogs: list[Catalog] = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: catalogs.append(catalog_of(first_settings(sweep)["data"])),
        lambda: check_encoders(sweep),
        lambda: check_keypoints(sweep),
        lambda: check_storage(sweep.fixed["search.storage"]),
        lambda: check_trackers(tracking_of(sweep)),
    )
    faults = [fault for fault in map(_fault_of, checks) if fault is not None]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise InputError("\n".join(map(str, faults)))
    return catalogs[0]


def tracking_of(sweep: Sweep, *, prefix: str = "") -> Tracking:
    """Return the trackers that a sweep asks for.

    Args:
        sweep: The sweep.
        prefix: Begins the ID of every W&B run.
    """
    return Tracking(
        sweep=sweep.name,
        prefix=prefix,
        wandb=sweep.fixed["tracking.wandb"],
        wandb_project=sweep.fixed["tracking.wandb_project"],
        mlflow=sweep.fixed["tracking.mlflow"],
        mlflow_experiment=sweep.fixed["tracking.mlflow_experiment"],
    )


def _fault_of(check: Callable[[], object]) -> InputError | None:
    try:
        check()
    except InputError as fault:
        return fault
    return None


def prepare_dataset(sweep: Sweep, catalog: Catalog, progress: Progress) -> Dataset:
    """Return the photographs of a sweep, audited, split and decoded at every geometry that its trials need.

    Args:
        sweep: The sweep.
        catalog: The training table.
        progress: Display of the sweep; shows the findings of the audit.

    Raises:
        InputError: If photographs cannot be used, or the sweep needs viewpoints or unknown individuals that they lack.
    """
    settings = first_settings(sweep)
    first, *others = geometries(sweep)
    watched = progress.console.is_terminal
    dataset = open_dataset(
        settings["data"],
        settings["split"],
        geometry=first,
        cache=pixel_cache(),
        catalog=catalog,
        progress=watched,
    )
    check_unknown(sweep, dataset)
    check_positives(sweep, dataset)
    check_viewpoints(sweep, dataset)
    decoded = {geometry: dataset.pixels(geometry, progress=watched).fingerprint for geometry in others}
    dataset = dataclasses.replace(dataset, decoded={**dataset.decoded, **decoded})
    for line in dataset.audit.lines():
        progress.say(line)
    return dataset


def check_viewpoints(sweep: Sweep, dataset: Dataset) -> None:
    """Check that the photographs have viewpoints if `retrieval.side` needs them.

    Args:
        sweep: The sweep.
        dataset: Its photographs.

    Raises:
        InputError: If they have none.
    """
    sides = [side for side in sweep.retrieval["side"] if side != "any"]
    if sides and not dataset.table["viewpoint"].astype(bool).any():
        raise InputError(
            f"`retrieval.side: {' and '.join(map(str, sides))}` needs the viewpoint of photographs, but none has one. "
            "Set data.view_column to the column of viewpoints, or leave side out"
        )


def refresh_traits(dataset: Dataset, run: Path) -> None:
    """Write the viewpoints and species of the data set into the finished trials of a run folder.

    A trial that had others, or none, loses the mark of its scoring, so that it is scored again.

    Args:
        dataset: Photographs of the sweep.
        run: The run folder.
    """
    table = dataset.scored()
    for record in read_records(run):
        if record.status != "finished" or not (record.folder / "embeddings.npz").exists():
            continue
        with suppress(InputError):  # a damaged file is an error where its vectors are needed
            if update_traits(record.folder, table):
                result = {name: value for name, value in record.result.items() if name != "scored_with"}
                write_result(record.folder, result)


def write_inputs(sweep: Sweep, dataset: Dataset, folder: Path) -> None:
    """Write sweep.yaml, split.csv, audit.json and encounters.jpg, if encounters were found, into the run folder.

    Args:
        sweep: The sweep, whose settings are written with all defaults.
        dataset: Its photographs.
        folder: Run folder.
    """
    write_atomically(folder / "sweep.yaml", sweep.to_yaml())
    write_split(dataset, folder / "split.csv")
    dataset.audit.write(folder / "audit.json")
    if encounters := dataset.audit.findings.get("encounters"):
        write_contact_sheet(folder / "encounters.jpg", dataset.table["image"], encounters, dataset.thumbnails)
