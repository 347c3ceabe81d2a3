"""Export of the best trial as a bundle: weights, gallery of all named photographs, golden images, model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replace_symlink
from whale_ray.data.formats.animal_rows import BOX
from whale_ray.data.image_io import Geometry
from whale_ray.errors import BundleError
from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.model_card import UNSTATED
from whale_ray.inference.predictor import Bundle
from whale_ray.inference.runtime_benchmark import BenchmarkQueries, with_fastest_runtime
from whale_ray.learning.encoders.registry import add_whitening
from whale_ray.retrieval.fusion.stranger_cohort import cohort_rows
from whale_ray.retrieval.local.learned.network_registry import kind_of
from whale_ray.retrieval.search.retrieval_settings import chosen_setting
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.execution.bundle_golden import with_golden_images
from whale_ray.sweep.execution.bundle_manifest import bundle_manifest, content_digest, needs_cohort
from whale_ray.sweep.execution.bundle_pictures import (
    example_photographs,
    fitted_photograph,
    gallery_thumbnails,
)
from whale_ray.sweep.execution.gather_local_evidence import gallery_keypoints
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.run_folder.checkpoints import RECIPE, WEIGHTS, load_weights
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.class_proxies import join_proxies
from whale_ray.sweep.trials.embeddings_io import TRAITS, read_embeddings, read_proxies

MOST_QUERIES = 200
_MOST_CALIBRATION = 256
_COLLAPSED = (
    "its encoder has collapsed to (nearly) one embedding, so that other trials' weights were kept. Train it longer, or "
    "with a smaller learning rate"
)
_DROPPED = (
    "a bundle needs weights, which were dropped when others were better. Raise keep_checkpoints before a sweep whose "
    "objective may change"
)
_TIMED = "; the runtimes of its encoder are timed on this machine"


class MadeBundle(NamedTuple):
    """Folder of a bundle, and the bundle as it was loaded to check it."""

    folder: Path
    bundle: Bundle


def make_best_bundle(
    records: Iterable[Record],
    dataset: Dataset,
    *,
    run: Path,
    say: Callable[[str], None],
    retrain: Callable[[str], Path] | None = None,
    **options: Any,
) -> MadeBundle | None:
    """Make a bundle of the first trial that can become one; return None if no trial can.

    Args:
        records: Finished trials, best first.
        dataset: Photographs of the sweep.
        run: Run folder.
        say: Prints why a trial could not become the bundle.
        retrain: Returns the folder of a trial's encoder, trained again on all photographs, for the bundle; None takes
            the weights of the trial.
        **options: Options of `load_made_bundle`.
    """
    without: list[Record] = []
    for record in records:
        if retrain is None and not _has_weights(record):
            without.append(record)
            continue
        _say_without_weights(without, say)
        try:
            source = record if retrain is None else dataclasses.replace(record, folder=retrain(record.trial))
            say(f"the bundle of trial {record.trial} is made" + _TIMED * (options.get("runtime") == "auto"))
            return load_made_bundle(source, dataset, run=run, **options)
        except BundleError as error:
            say(f"trial {record.trial} cannot become a bundle: {error}")
    _say_without_weights(without, say)
    return None


def _say_without_weights(records: list[Record], say: Callable[[str], None]) -> None:
    """Say why trials have no weights, in a line for each reason, and forget them; thousands of trials have none."""
    for reason, has_collapsed in ((_COLLAPSED, True), (_DROPPED, False)):
        trials = [record.trial for record in records if record.has_collapsed is has_collapsed]
        if trials:
            shown = ", ".join(trials[:3]) + (f" and {len(trials) - 3} more" if len(trials) > 3 else "")
            say(f"trial {shown} cannot become a bundle: {reason}")
    records.clear()


def _has_weights(record: Record) -> bool:
    return (record.folder / "checkpoint" / WEIGHTS).exists()


def make_bundle(record: Record, dataset: Dataset, *, run: Path, **options: Any) -> Path:
    """Write the bundle of a trial as `load_made_bundle` does and return its path.

    Args:
        record: A finished trial.
        dataset: Photographs of the sweep.
        run: Run folder.
        **options: Options of `load_made_bundle`.
    """
    return load_made_bundle(record, dataset, run=run, **options).folder


def load_made_bundle(
    record: Record,
    dataset: Dataset,
    *,
    run: Path,
    examples: int,
    thumbnails: bool,
    runtime: str = "torch",
    license_id: str = UNSTATED,
) -> MadeBundle:
    """Write the bundle of a trial below `run`/bundles, load it and point the link `run`/best to it.

    Args:
        record: A finished trial.
        dataset: Photographs of the sweep.
        run: Run folder.
        examples: Number of labeled validation photographs for the web page.
        thumbnails: Include a small JPEG of each gallery photograph.
        runtime: `torch`, or `auto` for the fastest runtime on this machine.
        license_id: License of photographs and weights, for the model card.

    Raises:
        BundleError: If the encoder has collapsed to (nearly) one embedding, or the trial's weights were not kept.
    """
    if not _has_weights(record):
        raise BundleError(f"trial {record.trial} cannot become a bundle: {_DROPPED}")
    contents = _contents(record, dataset, examples=examples, thumbnails=thumbnails, license_id=license_id)
    contents = with_golden_images(contents, dataset)
    folder = run / "bundles" / str(contents.manifest["id"])
    if not folder.exists():
        write_bundle(_with_runtime(contents, dataset) if runtime == "auto" else contents, folder)
    bundle = Bundle.load(folder)
    replace_symlink(run / "best", folder)
    return MadeBundle(folder, bundle)


def _contents(record: Record, dataset: Dataset, *, examples: int, thumbnails: bool, license_id: str) -> BundleContents:
    setting = chosen_setting(record.result)
    views, rows = read_embeddings(record.folder)
    named = (rows["individual"] != dataset.unknown_label).to_numpy()
    held = TransformedVectors(
        views,
        individuals=rows["individual"].to_numpy(dtype=str),
        parts=rows["part"].to_numpy(dtype=str),
        unknown_label=dataset.unknown_label,
        proxies=join_proxies(read_proxies(record.folder)) if setting.classifier_weight else None,
    )
    vectors, proxies = held.seen(setting.transform), held.transform_proxies(setting.transform)
    gallery = vectors[named]
    weights = load_weights(record.folder / "checkpoint" / WEIGHTS)
    recipe = json.loads((record.folder / "checkpoint" / RECIPE).read_text())
    if whitening := held.whitening(setting.transform):
        recipe, weights = add_whitening(recipe, weights, mean=whitening.mean, matrix=whitening.dense_matrix())
    table = _gallery_table(rows[named].reset_index(drop=True), dataset)
    manifest = bundle_manifest(record, dataset, setting, table, recipe)
    if license_id != UNSTATED:  # without it, bundles keep the IDs that they had before the setting
        manifest["license"] = license_id
    keypoints = gallery_keypoints(dataset, table["image"], setting.local)
    if keypoints is not None:
        manifest["keypoint_bytes"] = keypoints.gallery.nbytes
        manifest["retrieval"]["local"] = kind_of(setting.local)  # not the paths of the networks' files
    cohort = vectors[cohort_rows(np.flatnonzero(~named))] if needs_cohort(manifest) else None
    manifest["id"] = f"{record.trial}-{content_digest(manifest, gallery, proxies, keypoints, cohort)}"
    return BundleContents(
        manifest=manifest,
        weights=weights,
        gallery=gallery,
        table=table,
        golden=(),
        golden_vectors=np.zeros((0, gallery.shape[1]), dtype=np.float32),
        thumbnails=gallery_thumbnails(dataset, table["image"]) if thumbnails else {},
        examples=example_photographs(dataset, examples),
        proxies=proxies,
        keypoints=keypoints,
        cohort=cohort,
    )


def _gallery_table(rows: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Return the rows of gallery.csv, with viewpoint, species, file and box if the data set has them."""
    rows = rows[["image", "individual", *(name for name in TRAITS if (rows[name] != "").any())]]
    if not dataset.catalog.has_boxes:
        return rows
    places = dataset.catalog.table.set_index("image")[["file", *BOX]]
    return rows.join(places, on="image")


def _with_runtime(contents: BundleContents, dataset: Dataset) -> BundleContents:
    """Return the contents with the fastest runtime, compared on validation photographs of the first split."""
    table = dataset.splits[0].table
    table = table[table["individual"] != dataset.unknown_label]
    training = table[table["part"] == "train"]
    known = table[(table["part"] == "val") & table["individual"].isin(training["individual"])][:MOST_QUERIES]
    geometry = Geometry(**contents.manifest["preprocessing"])
    even = training["image"].iloc[:: -(-len(training) // _MOST_CALIBRATION) or 1]
    queries = BenchmarkQueries(
        [fitted_photograph(dataset, image, geometry) for image in known["image"]],
        known["individual"].tolist(),
        np.flatnonzero(contents.table["image"].isin(training["image"])),
        calibration=(fitted_photograph(dataset, image, geometry) for image in even),
    )
    return with_fastest_runtime(contents, queries)
