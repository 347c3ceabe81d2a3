"""Read and write embeddings.npz: embeddings of the plain and the flipped images, their table and class proxies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import replaced_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.sweep.trials.class_proxies import SplitProxies, proxies_from_arrays, proxies_to_arrays

Views = Mapping[str, np.ndarray]
COLUMNS = ("image", "individual", "group", "part")
TRAITS = ("viewpoint", "species")
"""Columns that files of earlier versions lack; "" for unknown."""


def write_embeddings(views: Views, table: pd.DataFrame, folder: Path, proxies: SplitProxies | None = None) -> None:
    """Write embeddings.npz into a trial's folder.

    Args:
        views: `plain` and `flip`: embeddings, float16, shape (N, D).
        table: A row for each embedding: image, individual, group, part, viewpoint, species, split.
        folder: The trial's folder.
        proxies: Class proxies by split.
    """
    names = {column: table[column].to_numpy(dtype=str) for column in (*COLUMNS, *TRAITS)}
    splits = table["split"].to_numpy(dtype=np.int64)
    with replaced_atomically(folder / "embeddings.npz") as draft:
        np.savez(draft, allow_pickle=False, **views, **names, split=splits, **proxies_to_arrays(proxies or {}))


def read_embeddings(folder: Path) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Return the views and the table of a trial's embeddings.npz, as `write_embeddings` takes them.

    Raises:
        InputError: If the file cannot be read.
    """
    with _opened(folder) as stored:
        return {view: stored[view] for view in ("plain", "flip") if view in stored}, _table(stored)


def embeddings_bytes(folder: Path) -> int:
    """Return the size of a trial's embeddings.npz in bytes; 0 if it is missing."""
    path = folder / "embeddings.npz"
    return path.stat().st_size if path.exists() else 0


def _table(stored: Mapping[str, np.ndarray]) -> pd.DataFrame:
    table = pd.DataFrame({column: stored[column] for column in COLUMNS})
    return table.assign(**{column: stored.get(column, "") for column in TRAITS}, split=stored.get("split", 0))


@contextmanager
def _opened(folder: Path) -> Iterator[Mapping[str, np.ndarray]]:
    try:
        with (folder / "embeddings.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
            yield stored
    except Exception as error:  # numpy and zipfile raise many types for a truncated or foreign file
        raise InputError(
            f"the embeddings of trial {folder.name} must be whole, but {folder / 'embeddings.npz'} cannot be read: "
            f"{error}. Remove the trial's folder, and the sweep trains it again"
        ) from error


def update_traits(folder: Path, table: pd.DataFrame) -> bool:
    """Write viewpoints and species into a trial's embeddings.npz if it has others, and return whether it had.

    Files with other rows stay unchanged.

    Args:
        folder: The trial's folder.
        table: A row for each photograph and split: image, viewpoint, species, split.

    Raises:
        InputError: If the file cannot be read.
    """
    with _opened(folder) as stored:
        found = _table(stored)
    rows = found[["image", "split"]].astype(str)
    if not rows.equals(table[["image", "split"]].astype(str)):
        return False
    if found[[*TRAITS]].astype(str).equals(table[[*TRAITS]].astype(str)):
        return False
    views, _ = read_embeddings(folder)
    write_embeddings(views, found.assign(**{name: table[name] for name in TRAITS}), folder, read_proxies(folder))
    return True


def read_proxies(folder: Path) -> dict[int, ClassProxies]:
    """Return the class proxies in a trial's embeddings.npz by split; an empty dict if it has none.

    Raises:
        InputError: If they are damaged.
    """
    with _opened(folder) as stored:
        return proxies_from_arrays(stored, size=stored["plain"].shape[1])
