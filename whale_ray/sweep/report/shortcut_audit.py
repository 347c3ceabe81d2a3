"""Shortcut audit of a run's bundle, kept in shortcut_audit.json: recall on the animal and on the background alone."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.catalog import Catalog
from whale_ray.data.image_io import Geometry
from whale_ray.device import available_cpus
from whale_ray.errors import DataError, ImageError, WhaleRayError
from whale_ray.retrieval.shortcuts.separated_photographs import (
    SeparatedInput,
    SeparatedPhotographs,
    separate_photograph,
)
from whale_ray.retrieval.shortcuts.shortcut_scores import ShortcutScores, shortcut_scores
from whale_ray.sweep.run_folder.optional_json import read_optional_json
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.verbosity import track_steps

if TYPE_CHECKING:
    from whale_ray.inference.predictor import Bundle

AUDIT_FILE = "shortcut_audit.json"
MOST_SECONDS = 10.0
_QUERIES, _PER_INDIVIDUAL, _GALLERY = 300, 3, 600
_FEWEST = 40  # photographs below which a score says nothing
_BATCH = 16
_VERSION = 1
_COUNTS = {"asked", "wanted", "separated", "sources", "seconds", "thorough", "pictures"}
_FIELDS = _COUNTS | {field.name for field in dataclasses.fields(ShortcutScores)}


def audit_shortcuts(
    run: Path,
    record: Record,
    catalog: Catalog,
    *,
    thorough: bool = False,
    progress: bool = False,
    load: Callable[[], Bundle] | None = None,
) -> dict[str, Any]:
    """Return the audit of the run's bundle, from shortcut_audit.json or made now within `MOST_SECONDS`.

    Args:
        run: The run folder.
        record: The trial of the bundle.
        catalog: The photographs.
        thorough: Use every validation query and gallery photograph, without a limit of time.
        progress: Show a progress bar.
        load: Returns the run's bundle; None loads it here.

    Returns:
        The fields of `ShortcutScores`, with `wanted`, `asked` and `separated` (numbers of photographs), `sources`
        (separated photographs by method), `seconds`, `thorough` and `pictures`; or `reason` why there are no scores.
    """
    manifest = run / "best" / "bundle.json"
    if not manifest.is_file():
        return {"reason": "the bundle, whose encoder is asked, is made when the sweep ends"}
    written = json.loads(manifest.read_text())
    if written["trial"] != record.trial:
        return {"reason": f"the bundle is of trial {written['trial']}, since this one could not become one"}
    made_of = {"version": _VERSION, "bundle": written["id"]}
    found = read_shortcut_audit(run)
    if made_of.items() <= found.items() and (found["thorough"] or not thorough):
        return found
    try:
        found = made_of | _audit(run, record, catalog, thorough=thorough, progress=progress, load=load)
    except (WhaleRayError, OSError) as error:
        return {"reason": str(error)}
    write_atomically(run / AUDIT_FILE, json.dumps(found, indent=1))
    return read_shortcut_audit(run)


def read_shortcut_audit(run: Path) -> dict[str, Any]:
    """Return shortcut_audit.json of a run folder; empty if it is missing, incomplete or of another version.

    Raises:
        InputError: If the file is damaged.
    """
    found = read_optional_json(run / AUDIT_FILE)
    needed = {"thorough", "asked", "wanted", "reason"} if "reason" in found else _FIELDS
    return found if found.get("version") == _VERSION and needed <= found.keys() else {}


def _audit(
    run: Path,
    record: Record,
    catalog: Catalog,
    *,
    thorough: bool,
    progress: bool,
    load: Callable[[], Bundle] | None,
) -> dict[str, Any]:
    from whale_ray.inference.predictor import Bundle

    started = time.monotonic()
    rows = _sample(_photographs(record, catalog), thorough=thorough)
    if len(rows) < _FEWEST:
        reason = f"it takes {_FEWEST} photographs of known individuals, but there are {len(rows)}"
        return {"asked": 0, "wanted": len(rows), "thorough": thorough, "reason": reason}
    bundle = load() if load else Bundle.load(run / "best")
    seen, asked = SeparatedPhotographs(bundle.embed, bundle.geometry), 0
    separate = partial(_separate, catalog, bundle.geometry)
    with ThreadPoolExecutor(available_cpus()) as threads:
        for images in _batches(rows["image"].tolist(), None if thorough else started + MOST_SECONDS, progress=progress):
            asked += len(images)
            for image, parts in zip(images, threads.map(separate, images), strict=True):
                if parts is not None:
                    seen.add(image, parts)
            seen.embed_added()
    found: dict[str, Any] = {"asked": asked, "wanted": len(rows), "thorough": thorough, "separated": len(seen.images)}
    found |= {"sources": dict(seen.sources), "seconds": round(time.monotonic() - started, 1)}
    kept = rows.set_index("image").loc[seen.images]
    scores = None
    if len(kept) >= _FEWEST:
        scores = shortcut_scores(
            seen.vectors(),
            individuals=kept["individual"].to_numpy(str),
            groups=kept["group"].to_numpy(str),
            is_query=(kept["part"] == "val").to_numpy(),
        )
    if scores is None:
        return found | {"reason": _too_few(asked, len(kept))}
    return found | dataclasses.asdict(scores) | {"pictures": seen.pictures}


def _separate(catalog: Catalog, geometry: Geometry, image: str) -> SeparatedInput | None:
    try:
        return separate_photograph(catalog.decode(image), geometry, box=catalog.box(image))
    except (ImageError, DataError, OSError):  # a damaged file, or a box outside: the audit names it
        return None


def _too_few(asked: int, separated: int) -> str:
    return (
        f"the animal could be told from its background in {separated} of {asked} photographs, and too few of them show "
        "a query and its answer. Name boxes in data.boxes, or photographs with more background"
    )


def _photographs(record: Record, catalog: Catalog) -> pd.DataFrame:
    """Return image, individual, group and part of the known queries and of their possible answers."""
    _, table = read_embeddings(record.folder)
    table = table[(table["split"] == 0) & table["image"].isin(set(catalog.table["image"]))]
    named = table[table["individual"] != catalog.unknown_label]
    gallery, queries = named[named["part"] == "train"], named[named["part"] == "val"]
    known = queries["individual"].isin(set(gallery["individual"]))
    return pd.concat([queries[known], gallery])[["image", "individual", "group", "part"]].astype(str)


def _sample(rows: pd.DataFrame, *, thorough: bool) -> pd.DataFrame:
    """Return queries and gallery photographs, those of an individual together, the individuals of queries first.

    Unless `thorough`: at most 300 queries and 600 gallery photographs, three of an individual.
    """
    mixed = rows.sample(frac=1.0, random_state=0)
    queries, gallery = mixed[mixed["part"] == "val"], mixed[mixed["part"] == "train"]
    if not thorough:
        queries = queries.head(_QUERIES)
        gallery = gallery[gallery.groupby("individual").cumcount() < _PER_INDIVIDUAL]
    individuals = pd.unique(pd.concat([queries, gallery])["individual"])
    order = {individual: place for place, individual in enumerate(individuals)}
    gallery = gallery.sort_values("individual", key=lambda names: names.map(order), kind="stable")
    both = pd.concat([queries, gallery if thorough else gallery.head(_GALLERY)])
    return both.sort_values("individual", key=lambda names: names.map(order), kind="stable")


def _batches(images: list[str], until: float | None, *, progress: bool) -> Iterator[list[str]]:
    """Yield the images in batches until the time is over."""
    starts = range(0, len(images), _BATCH)
    for start in track_steps(starts, "separating animals from backgrounds", progress=progress):
        if until is None or not start or time.monotonic() < until:
            yield images[start : start + _BATCH]
