"""The scores of a trial from its embeddings: when it has trained, and again for other retrieval settings.

Knows vectors, the table of their photographs and the files that scores are written to; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.sweep.trials.proxy_vectors import Proxies, stored_proxies

Views = Mapping[str, np.ndarray]
COLUMNS = ("image", "individual", "group", "part")


def write_embeddings(views: Views, table: pd.DataFrame, folder: Path, proxies: Proxies | None = None) -> None:
    """Writes embeddings.npz: each view, the photographs that its rows are, and what else the loss has learned."""
    names = {column: table[column].to_numpy(dtype=str) for column in COLUMNS}
    with replaced_atomically(folder / "embeddings.npz") as draft:
        splits = table["split"].to_numpy(dtype=np.int64)
        more = proxies.arrays() if proxies else {}
        np.savez(draft, allow_pickle=False, **views, **names, split=splits, **more)


def read_embeddings(folder: Path) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The views and the table that `write_embeddings` wrote. Raises: InputError where they cannot be read."""
    try:
        with (folder / "embeddings.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
            views = {view: stored[view] for view in ("plain", "flip") if view in stored}
            table = pd.DataFrame({column: stored[column] for column in COLUMNS})
            return views, table.assign(split=stored.get("split", 0))
    except Exception as error:  # numpy and zipfile raise many kinds for a file that is cut or foreign
        raise InputError(
            f"the embeddings of trial {folder.name} must be whole, but {folder / 'embeddings.npz'} cannot be read: "
            f"{error}. Remove the trial's folder, and the sweep trains it again"
        ) from error


def read_proxies(folder: Path) -> Proxies | None:
    """The proxies that `write_embeddings` wrote; None where it had none. Raises: InputError where they are damaged."""
    with (folder / "embeddings.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return stored_proxies(stored, size=stored["plain"].shape[1])
