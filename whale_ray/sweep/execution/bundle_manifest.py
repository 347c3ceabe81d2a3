"""Manifest of a bundle: what bundle.json says of it, and its ID."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.inference.keypoints.keypoint_files import KeypointFiles
from whale_ray.retrieval.evaluation.calibration import read_calibration
from whale_ray.retrieval.evaluation.encounters.encounter_calibration import need_strangers, read_encounter_calibration
from whale_ray.retrieval.evaluation.evaluate import RetrievalSetting
from whale_ray.retrieval.fusion.fusion_model import read_fusion_model
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.planning.dataset import Dataset, geometry_of
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.ensemble import MEMBERS_BY_FOLD

_DECIDING = ("calibration", "encounter_calibration", "decision", "species_thresholds", "fusion")
_NOT_SCORES = ("seconds", "status", "error", "scored_with", MEMBERS_BY_FOLD, *_DECIDING)


def bundle_manifest(
    record: Record, dataset: Dataset, setting: RetrievalSetting, table: pd.DataFrame, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Return what bundle.json says of a bundle, without ID and keypoints.

    Args:
        record: The trial that becomes a bundle.
        dataset: Photographs of the sweep.
        setting: The trial's retrieval setting.
        table: Rows of gallery.csv.
        recipe: Recipe of the encoder.
    """
    geometry = geometry_of(record.settings["data"], record.settings["train"])
    figures = {key: value for key, value in record.result.items() if key not in _NOT_SCORES}
    first = dataset.splits[0]
    measured = first.table["individual"].ne(dataset.unknown_label) & first.table["part"].eq("train")
    return {
        "trial": record.trial,
        "settings": record.settings,
        "preprocessing": dataclasses.asdict(geometry),
        "encoder": recipe,
        "embedding_size": recipe.get("whitened_size") or record.result["embedding_size"],
        "retrieval": dataclasses.asdict(setting),
        "threshold": record.result["threshold"],
        **{name: record.result[name] for name in ("species_thresholds", "fusion") if name in record.result},
        "calibration": record.result["calibration"],
        "encounter_calibration": record.result.get("encounter_calibration"),
        "decision": record.result.get("decision"),
        "unknown_label": dataset.unknown_label,
        "scores": figures,
        "retrained_on_all": record.folder.name == "retrained",
        "measured_gallery": int(measured.sum()),
        "individuals": int(table["individual"].nunique()),
        "images": len(table),
        "data_fingerprint": dataset.fingerprint,
    }


def needs_cohort(manifest: Mapping[str, Any]) -> bool:
    """Return whether the fusion or a calibration of a bundle depends on photographs of unknown animals."""
    encounters = read_encounter_calibration(manifest["encounter_calibration"])
    is_fused = "fusion" in manifest and read_fusion_model(manifest["fusion"]).has_cohort
    return is_fused or need_strangers(read_calibration(manifest["calibration"]), encounters)


def content_digest(
    manifest: Mapping[str, Any],
    gallery: np.ndarray,
    proxies: ClassProxies | None,
    keypoints: KeypointFiles | None,
    cohort: np.ndarray | None,
) -> str:
    """Return the part of a bundle's ID that depends on its content: 8 hexadecimal digits.

    Args:
        manifest: bundle.json, without ID.
        gallery: Unit vectors of the gallery, shape (N, D).
        proxies: Class proxies, if the bundle has some.
        keypoints: Keypoints of the gallery, likewise.
        cohort: Unit vectors of unknown animals, shape (U, D), likewise.
    """
    arrays = [
        gallery,
        *([proxies.vectors] if proxies else []),
        *([keypoints.gallery.descriptors, keypoints.gallery.points] if keypoints else []),
        *([] if cohort is None else [cohort]),
    ]
    text = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(text + b"".join(array.tobytes() for array in arrays)).hexdigest()[:8]
