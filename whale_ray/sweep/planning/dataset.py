"""The photographs of one sweep: read, decoded, audited and split once, opened by every trial.

Knows the way from the `data` and `split` settings to arrays and tables; knows no trial, no Ray.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.audit import Audit, audit_photographs
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import DecodedImages, data_fingerprint, decode_images
from whale_ray.data.split import NEVER_VALIDATES, SPLITS, parts_of, split_photographs
from whale_ray.sweep.config.fields import image_size

# The part of each side that is kept around the region, for shifts and rotations to move into.
MARGIN = 0.125


@dataclass(frozen=True)
class Dataset:
    """What the trials of a sweep share.

    table: a row a photograph of the catalog: image, individual, group, fold (in which it validates, -1 for none), part
    ("train", "val" or "set_aside"; of several folds "val" where it validates in any). cache: the folder of decoded
    pixels on this node.
    """

    catalog: Catalog
    table: pd.DataFrame
    audit: Audit
    cache: Path
    fingerprint: str
    folds: int = 1

    def fold(self, number: int) -> Dataset:
        """The same photographs with the parts that they have in one fold."""
        table = self.table.assign(part=parts_of(self.table["fold"], number).where(self.usable, "set_aside"))
        return dataclasses.replace(self, table=table, folds=1)

    @property
    def splits(self) -> list[Dataset]:
        """The photographs as each training sees them: of several folds one data set a fold."""
        return [self.fold(number) for number in range(self.folds)] if self.folds > 1 else [self]

    def without_validation(self) -> Dataset:
        """The same photographs, all of which train."""
        table = self.table.assign(part=self.table["part"].replace("val", "train"), fold=NEVER_VALIDATES)
        return dataclasses.replace(self, table=table, folds=1)

    @property
    def usable(self) -> pd.Series:
        """Which photographs are not set aside: bool, a row a photograph."""
        return self.table["part"] != "set_aside"

    def scored(self) -> pd.DataFrame:
        """A row a photograph and fold, those of a fold together: image, individual, group, part, split (the fold)."""
        parts = [one.table.iloc[one.rows("train", "val")].assign(split=place) for place, one in enumerate(self.splits)]
        return pd.concat(parts, ignore_index=True)[["image", "individual", "group", "part", "split"]]

    def pixels(self, geometry: Geometry, *, progress: bool = False) -> DecodedImages:
        """The decoded photographs at one geometry, from the cache or built into it; row i is row i of `table`."""
        return decode_images(self.catalog, geometry, cache=self.cache, progress=progress)

    @property
    def unknown_label(self) -> str:
        """The label of photographs of individuals that nobody knows."""
        return self.catalog.unknown_label

    def rows(self, *parts: str) -> np.ndarray:
        """The rows (int64) of the photographs in these parts, in the order of the table."""
        return np.flatnonzero(self.table["part"].isin(parts).to_numpy())

    def training_rows(self, *, negatives: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows, labels and number of classes to train on: unknown individuals left out, or labelled -1."""
        rows = self.rows("train")
        individuals = self.table["individual"].to_numpy()[rows]
        known = individuals != self.unknown_label
        names = {name: place for place, name in enumerate(sorted(set(individuals[known])))}
        labels = np.array([names.get(name, -1) for name in individuals], dtype=np.int64)
        kept = slice(None) if negatives else known
        return rows[kept], labels[kept], len(names)


def catalog_of(data: Mapping[str, Any]) -> Catalog:
    """The catalog that the settings `data` name. Raises: DataError for everything in it that cannot be used."""
    return read_catalog(
        Path(data["root"]),
        table=data["table"],
        image_folder=data["image_folder"],
        image_column=data["image_column"],
        label_column=data["label_column"],
        group_column=data["group_column"],
        boxes=None if data["boxes"] is None else Path(data["boxes"]),
        unknown_label=data["unknown_label"],
    )


def open_dataset(
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    *,
    geometry: Geometry,
    cache: Path,
    progress: bool = False,
) -> Dataset:
    """The data set that the settings `data` and `split` describe, its pixels decoded at `geometry`.

    Raises: DataError for everything in it that cannot be used.
    """
    catalog = catalog_of(data)
    pixels = decode_images(catalog, geometry, cache=cache, progress=progress)
    audit = audit_photographs(catalog, pixels, on_bad_image=data["on_bad_image"])
    usable = audit.usable.to_numpy()
    table = catalog.table[["image", "individual", "group"]].assign(fold=NEVER_VALIDATES, part="set_aside")
    table.loc[usable, "fold"] = split_photographs(
        table[usable],
        twins=audit.twins[usable],
        val_fraction=data["val_fraction"],
        unknown_label=catalog.unknown_label,
        **split,
    )
    table.loc[usable, "part"] = parts_of(table.loc[usable, "fold"])
    return Dataset(
        catalog,
        table,
        audit,
        cache,
        data_fingerprint(catalog, pixels),
        folds=split["folds"] if SPLITS[split["kind"]].in_folds else 1,
    )


def pixel_cache() -> Path:
    """The folder of decoded photographs on this machine: in WHALE_RAY_CACHE, or in the user's cache folder."""
    return Path(os.environ.get("WHALE_RAY_CACHE") or Path.home() / ".cache" / "whale_ray") / "pixels"


def geometry_of(data: Mapping[str, Any], train: Mapping[str, Any]) -> Geometry:
    """The geometry of a trial's pixels: a margin where its augmentation moves the picture."""
    height, width = image_size(data["image_size"])
    return Geometry(height, width, data["resize"], MARGIN if train["affine"] > 0 else 0.0)


def write_split(dataset: Dataset, path: Path) -> None:
    """Writes split.csv: Image, Id, part and, where there are several, fold (-1: trains in all of them)."""
    columns = ["image", "individual", "part", *(["fold"] if dataset.folds > 1 else [])]
    table = dataset.table[columns].rename(columns={"image": "Image", "individual": "Id"})
    write_atomically(path, table.to_csv(index=False))
