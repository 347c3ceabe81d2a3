"""Dry run of a sweep: its trials, those that are done, the resources and the disk space that it needs.

Starts nothing, opens no image and imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.pixel_cache import cache_size
from whale_ray.device import IDLE_GPU, available_cpus
from whale_ray.errors import DataError
from whale_ray.sweep.config.loss_schema import completed
from whale_ray.sweep.config.screening_design import RESOLUTIONS, confounding, describe_aliases, fold_over, screen
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.trial_identity import trial_identity
from whale_ray.sweep.planning.dataset import catalog_of, check_groups
from whale_ray.sweep.planning.trial_points import (
    Point,
    baselines,
    exists,
    first_settings,
    geometries,
    label,
    listed_points,
)
from whale_ray.sweep.run_folder.records import Record, read_records

_GB = 1e9
_VIEWS, _BYTES_PER_NUMBER = 2, 2


def forecast(sweep: Sweep, run: Path) -> Iterator[str]:
    """Yield what a sweep would run, as lines of text.

    Args:
        sweep: The sweep.
        run: Run folder, which need not exist.
    """
    records = read_records(run)
    yield from _search(sweep)
    yield from _progress(sweep, run, records)
    yield _resources(sweep)
    try:
        yield _disk_space(sweep, run, records)
    except DataError as fault:
        yield f"the photographs cannot be used yet: {fault}"


def planned_trials(sweep: Sweep) -> int:
    """Return the number of trials that the search trains, without repeats of finalists."""
    grid = sweep.fixed["search.strategy"] == "grid"
    return int(sweep.grid_cells() if grid else sweep.fixed["search.trials"])


def planned_runs(sweep: Sweep) -> int:
    """Return the number of all trials: baselines, trials of the search, repeats of finalists."""
    trials, fixed = planned_trials(sweep), sweep.fixed
    repeats = fixed["search.repeats"] * min(trials, fixed["search.finalists"])
    return len(baselines(sweep)) + trials + int(repeats)


def trials_left(sweep: Sweep, records: list[Record]) -> int:
    """Return how many trials the search has not begun: points of a grid or screen without a trial, or draws left.

    Args:
        sweep: The sweep.
        records: Trials of its run folder.
    """
    if (points := listed_points(sweep)) is None:
        return max(0, planned_trials(sweep) - sum(record.kind == "trial" for record in records))
    fingerprint = next((record.data_fingerprint for record in records), "")
    if sweep.fixed["search.strategy"] == "grid":  # a grid may have far more cells than trials
        return sweep.grid_cells() - sum(_is_cell(sweep, record, fingerprint) for record in records)
    known = {record.trial for record in records}
    ids = (trial_identity(sweep.settings(point), data_fingerprint=fingerprint) for point in points)
    return sum(trial not in known for trial in ids)


def _is_cell(sweep: Sweep, record: Record, fingerprint: str) -> bool:
    """Return whether a trial is that of a cell of the sweep's grid."""
    if record.kind not in ("trial", "repeat"):
        return False
    settings, point = completed(record.settings), Point()
    for axis in sweep.axes:
        if exists(axis, point):
            section, *path = axis.name.split(".")
            point[axis.name] = settings[section].get(path[-1]) if path else settings[section]
            if point[axis.name] not in (axis.listed() or ()):
                return False
    return trial_identity(sweep.settings(point), data_fingerprint=fingerprint) == record.trial


def trials_at_once(sweep: Sweep) -> int:
    """Return how many trials fit on this machine at once, by CPUs and GPUs."""
    cpus, gpus = _machine()
    workers = sweep.fixed["resources.workers"]
    wanted = ((cpus, workers * sweep.fixed["resources.cpus"]), (gpus, workers * sweep.fixed["resources.gpus"]))
    return int(min((have / one for have, one in wanted if one), default=cpus) + 1e-9)


def _machine() -> tuple[int, int]:
    """Return the CPUs (container quota respected) and GPUs of this machine without importing torch or Ray."""
    return available_cpus(), len(list(Path("/dev").glob("nvidia[0-9]*")))


def _search(sweep: Sweep) -> Iterator[str]:
    fixed, frozen = sweep.fixed, len(baselines(sweep))
    up_to = "" if listed_points(sweep) is not None else "up to "
    objective = sweep.objective + (f" and {sweep.also}, bundle by {sweep.ranked_by}" if sweep.also else "")
    hours = f", {fixed['search.hours']:g} hours at most" if fixed["search.hours"] else ""
    yield (
        f"{sweep.name}: {fixed['search.strategy']} search, {up_to}{planned_trials(sweep)} trials and {frozen} "
        f"baseline{'s' * (frozen != 1)}{hours}, objective {objective}"
    )
    if fixed["search.repeats"]:
        yield f"  then the best {fixed['search.finalists']} run {fixed['search.repeats']} times more, with new seeds"
    if fixed["search.ensemble"]:
        yield f"  then the best {fixed['search.ensemble']}, of each encoder first, are joined and scored as one"
    for axis in sweep.axes:
        where = f"   (where {axis.when[0]} is {axis.when[1]})" if axis.when else ""
        yield f"  {axis.name}: {json.dumps(axis.written())}{where}"
    if fixed["search.strategy"] == "screen":
        yield from _confounded(sweep)
    for name, values in sweep.retrieval.items():
        if len(values) > 1:
            yield f"  retrieval.{name}: {json.dumps(list(values))}   (never retrained)"


def _confounded(sweep: Sweep) -> Iterator[str]:
    """Yield the effects that the screening design confounds, and the size of its fold-over."""
    runs, names = planned_trials(sweep), [axis.name for axis in sweep.axes]
    found = confounding(screen(len(names), runs))
    yield f"  the screen: {RESOLUTIONS[found.resolution]}"
    for name, aliases in zip(names, found.aliases, strict=True):
        if aliases:
            yield f"    {name} is mixed with {describe_aliases(aliases, names)}"
    if doubled := fold_over(len(names), runs):
        clear = f"a fold-over, {RESOLUTIONS[doubled.resolution]}"
        yield f"  search.trials={2 * runs} keeps these trials and adds as many: {clear}"


def _progress(sweep: Sweep, run: Path, records: list[Record]) -> Iterator[str]:
    counts = Counter(record.status for record in records)
    done = counts["finished"] + counts["pruned"]
    yield (
        f"{done} trials are done in {run}, {counts['running']} unfinished, {counts['failed']} failed; "
        f"{trials_left(sweep, records)} to begin"
    )
    for record in records:
        if record.status in ("finished", "pruned"):
            yield f"  {record.trial} {record.status}: {label(record.point, kind=record.kind)}"


def _resources(sweep: Sweep) -> str:
    fixed, (cpus, gpus), together = sweep.fixed, _machine(), trials_at_once(sweep)
    fits = f"{together} at once" if together else "too few; lower resources.cpus or .gpus, or name a cluster: --address"
    idle = f"; {IDLE_GPU}" if gpus and not fixed["resources.gpus"] else ""
    workers = fixed["resources.workers"]
    of = f"each of {workers} workers of a trial" if workers > 1 else "a trial"
    return (
        f"{of} takes {fixed['resources.cpus']:g} CPU and {fixed['resources.gpus']:g} GPU; "
        f"this machine has {cpus} CPU and {gpus} GPU: {fits}{idle}"
    )


def _disk_space(sweep: Sweep, run: Path, records: list[Record]) -> str:
    settings = first_settings(sweep)
    catalog = catalog_of(settings["data"])
    check_groups(catalog, kind=settings["split"]["kind"], group_by=settings["data"]["group_by"])
    sizes = [cache_size(catalog, geometry, cache=pixel_cache()) for geometry in geometries(sweep)]
    missing = sum(size for size, there in sizes if not there)
    decoded = f"{sum(size for size, _ in sizes) / _GB:.2f} GB of decoded photographs"
    decoded += f" ({missing / _GB:.2f} GB of them not there yet)" if missing else " (there already)"
    begun = trials_left(sweep, records)
    vectors = begun * len(catalog.table) * _widest(sweep) * _VIEWS * _BYTES_PER_NUMBER
    free = shutil.disk_usage(_existing(run)).free
    return (
        f"{len(catalog.table)} photographs; disk: {decoded}, {vectors / _GB:.2f} GB of embeddings, "
        f"the weights of {sweep.fixed['keep_checkpoints']} trials; {free / _GB:.1f} GB are free"
    )


def _widest(sweep: Sweep) -> int:
    """Return the largest embedding size of the sweep."""
    axis = next((axis for axis in sweep.axes if axis.name == "model.embedding_size"), None)
    sizes = [sweep.fixed.get("model.embedding_size")] if axis is None else [*(axis.values or ()), axis.high]
    return int(max((size for size in sizes if size), default=0))


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
