"""Read and write setting_queries.npz: results per query for each retrieval setting of a trial.

The evaluation computes it for every setting; the comparison of axes reads it, instead of searching again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whale_ray.atomic_files import replaced_atomically
from whale_ray.retrieval.evaluation.evaluation_tables import SettingQueries
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting

FILE = "setting_queries.npz"


def write_setting_queries(found: SettingQueries, folder: Path) -> None:
    """Write setting_queries.npz into a trial's folder.

    Args:
        found: Outcomes of all settings.
        folder: The trial's folder.
    """
    arrays = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "settings"}
    with replaced_atomically(folder / FILE) as draft, draft.open("wb") as file:
        np.savez_compressed(file, settings=np.array(list(map(_key, found.settings))), **arrays)


def read_setting_queries(folder: Path, settings: Sequence[RetrievalSetting]) -> SettingQueries | None:
    """Return what these settings give each query; None if the trial's folder does not have all of them.

    Args:
        folder: The trial's folder.
        settings: The retrieval settings.
    """
    try:
        with (folder / FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception:  # missing, truncated or foreign: numpy and zipfile raise many types
        return None
    places = {key: place for place, key in enumerate(arrays.pop("settings").tolist())}
    columns = [places[key] for key in map(_key, settings) if key in places]
    if len(columns) < len(settings):
        return None
    by_setting = {name: arrays[name][:, columns] for name in ("ranks", "image_ranks", "precisions")}
    return SettingQueries(**(arrays | by_setting), settings=tuple(settings))


def _key(setting: RetrievalSetting) -> str:
    values = dataclasses.asdict(setting)
    if values["local"] == "none":  # as earlier versions, which did not have it, wrote their settings
        del values["local"]
    return json.dumps(values, sort_keys=True)
