"""Dataset of a sweep: the photographs, read, decoded, audited and split once for all trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.audit import Audit, audit_photographs
from whale_ray.data.catalog import Catalog, read_catalog
from whale_ray.data.decoding.file_limit import MAX_BYTES
from whale_ray.data.decoding.thumbnails import StoredThumbnails
from whale_ray.data.encounters.grouping import SINGLE, require_encounters
from whale_ray.data.encounters.photo_dates import day_of, photograph_dates
from whale_ray.data.encounters.same_day import count_same_day
from whale_ray.data.formats.format_names import AUTO
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import DecodedImages, data_fingerprint, decode_images, open_decoded
from whale_ray.data.split import NEVER_VALIDATES, SPLITS, parts_of, split_photographs
from whale_ray.inference.bundle_transfer.photograph_download import local_photographs
from whale_ray.sweep.config.value_kinds import image_size

# Border kept around the region, as a share of each side: shifts and rotations move it into the image.
MARGIN = 0.125
TABLE_SETTINGS = (
    "table",
    "image_folder",
    "image_column",
    "label_column",
    "group_column",
    "date_column",
    "place_column",
    "view_column",
    "species_column",
    "unknown_label",
)
"""Settings of `data` that `read_catalog` takes under the same name."""


@dataclass(frozen=True)
class Dataset:
    """The photographs that all trials of a sweep share.

    Attributes:
        catalog: The training table as it was read.
        table: One row per row of the catalog: image, individual, group, date (of the table, else of EXIF), viewpoint
            and species ("" for unknown), fold (in which it validates, -1: none), part (`train`, `val` or `set_aside`;
            with several folds `val` if it validates in any).
        audit: Findings about the photographs.
        cache: Folder of decoded images on this node.
        fingerprint: Hash of image contents, labels, groups and boxes.
        folds: Number of folds; 1 for a single split.
        decoded: Fingerprint of the decoded images of each geometry, by which `pixels` opens them without looking at
            the image files again.
    """

    catalog: Catalog
    table: pd.DataFrame
    audit: Audit
    cache: Path
    fingerprint: str
    folds: int = 1
    decoded: Mapping[Geometry, str] = field(default_factory=dict)

    def fold(self, number: int) -> Dataset:
        """Return the dataset with the parts of one fold."""
        table = self.table.assign(part=parts_of(self.table["fold"], number).where(self.usable, "set_aside"))
        return dataclasses.replace(self, table=table, folds=1)

    @property
    def splits(self) -> list[Dataset]:
        """The dataset of each training: one per fold."""
        return [self.fold(number) for number in range(self.folds)] if self.folds > 1 else [self]

    def without_validation(self) -> Dataset:
        """Return the dataset with all validation photographs in the training part."""
        table = self.table.assign(part=self.table["part"].replace("val", "train"), fold=NEVER_VALIDATES)
        return dataclasses.replace(self, table=table, folds=1)

    @property
    def usable(self) -> pd.Series:
        """True for each photograph that is not set aside; bool, one row per photograph."""
        return self.table["part"] != "set_aside"

    def scored(self) -> pd.DataFrame:
        """Return the columns of `table` but `fold`, and split (the fold), of each photograph, fold by fold."""
        parts = [one.table.iloc[one.rows("train", "val")].assign(split=place) for place, one in enumerate(self.splits)]
        return pd.concat(parts, ignore_index=True).drop(columns="fold")

    def pixels(self, geometry: Geometry, *, progress: bool = False) -> DecodedImages:
        """Return the decoded photographs at one geometry; row i is row i of `table`.

        They are decoded if this node does not have them yet.

        Args:
            geometry: Target size and fitting.
            progress: Show a progress bar while decoding.
        """
        if geometry in self.decoded and (found := open_decoded(self.cache / self.decoded[geometry], geometry)):
            return found
        return decode_images(self.catalog, geometry, cache=self.cache, progress=progress)

    @property
    def thumbnails(self) -> StoredThumbnails | None:
        """Small JPEGs by row of `table`, made when the photographs were decoded; None if this node has none."""
        opened = (open_decoded(self.cache / name, geometry) for geometry, name in self.decoded.items())
        return next((one.thumbnails for one in opened if one and one.thumbnails), None)

    @property
    def unknown_label(self) -> str:
        """Label of photographs of unknown individuals."""
        return self.catalog.unknown_label

    def rows(self, *parts: str) -> np.ndarray:
        """Return the row numbers of the photographs in these parts, int64, in table order."""
        return np.flatnonzero(self.table["part"].isin(parts).to_numpy())

    def training_rows(self, *, negatives: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the training rows, their labels and the number of classes.

        Args:
            negatives: Include unknown individuals, with the label -1; False leaves them out.

        Returns:
            Row numbers and labels, int64, shape (N,), and the number of named individuals.
        """
        rows = self.rows("train")
        individuals = self.table["individual"].to_numpy()[rows]
        known = individuals != self.unknown_label
        names = {name: place for place, name in enumerate(sorted(set(individuals[known])))}
        labels = np.array([names.get(name, -1) for name in individuals], dtype=np.int64)
        kept = slice(None) if negatives else known
        return rows[kept], labels[kept], len(names)


def catalog_of(data: Mapping[str, Any]) -> Catalog:
    """Read the training table that the settings `data` name; photographs at a URL are downloaded first.

    Raises:
        DataError: With every fault of the table, or if the photographs cannot be downloaded.
    """
    return read_catalog(
        local_photographs(data["root"]),
        format_name=data.get("format", AUTO),
        boxes=None if data["boxes"] is None else Path(data["boxes"]),
        image_bytes=data.get("image_bytes", MAX_BYTES),
        **{name: data[name] for name in TABLE_SETTINGS if name in data},
    )


def check_groups(catalog: Catalog, *, kind: str, group_by: str) -> None:
    """Check, before photographs are decoded, that a split by encounters has some or that they are looked for.

    Args:
        catalog: The training table.
        kind: `split.kind`.
        group_by: `data.group_by`.

    Raises:
        DataError: If the table names no encounter and `group_by` looks for none.
    """
    if kind == "by_group" and group_by != "auto":
        require_encounters(catalog.table["group"])


def open_dataset(
    data: Mapping[str, Any],
    split: Mapping[str, Any],
    *,
    geometry: Geometry,
    cache: Path,
    catalog: Catalog | None = None,
    progress: bool = False,
) -> Dataset:
    """Read, decode, audit and split the photographs of a sweep.

    Args:
        data: The settings `data`.
        split: The settings `split`.
        geometry: Size at which the photographs are decoded.
        cache: Folder of decoded images.
        catalog: The training table if it was read already.
        progress: Show a progress bar while decoding.

    Raises:
        DataError: With everything in the data that cannot be used.
    """
    catalog = catalog or catalog_of(data)
    group_by = data.get("group_by", "twins")
    check_groups(catalog, kind=split["kind"], group_by=group_by)
    pixels = decode_images(catalog, geometry, cache=cache, progress=progress)
    linkage = data.get("group_linkage", SINGLE)
    audit = audit_photographs(
        catalog, pixels, on_bad_image=data["on_bad_image"], group_by=group_by, group_linkage=linkage
    )
    usable = audit.usable.to_numpy()
    rows = catalog.table.rename(columns={"view": "viewpoint"}).assign(
        group=audit.encounters, date=photograph_dates(catalog.table["date"], pixels.health["taken"])
    )
    table = rows[["image", "individual", "group", "date", "viewpoint", "species"]]
    table = table.assign(fold=NEVER_VALIDATES, part="set_aside")
    table.loc[usable, "fold"] = split_photographs(
        rows[usable],
        twins=audit.twins[usable],
        val_fraction=data["val_fraction"],
        unknown_label=catalog.unknown_label,
        **split,
    )
    table.loc[usable, "part"] = parts_of(table.loc[usable, "fold"])
    folds = split["folds"] if SPLITS[split["kind"]].in_folds else 1
    fingerprint, decoded = data_fingerprint(catalog, pixels), {geometry: pixels.fingerprint}
    dataset = Dataset(catalog, table, audit, cache, fingerprint, folds=folds, decoded=decoded)
    scored = dataset.scored().assign(day=lambda rows: day_of(rows["date"]))
    same_day = count_same_day(scored, unknown_label=catalog.unknown_label)
    return dataclasses.replace(dataset, audit=audit.with_findings(same_day=same_day))


def geometry_of(data: Mapping[str, Any], train: Mapping[str, Any]) -> Geometry:
    """Return the geometry of a trial's images, with a margin if its augmentation shifts or rotates them.

    Args:
        data: The trial's settings `data`.
        train: The trial's settings `train`.
    """
    height, width = image_size(data["image_size"])
    return Geometry(height, width, data["resize"], MARGIN if train["affine"] > 0 else 0.0)


def write_split(dataset: Dataset, path: Path) -> None:
    """Write split.csv: Image, Id, part and, with several folds, fold (-1: trains in all of them).

    Args:
        dataset: The split photographs.
        path: Path of the CSV file.
    """
    columns = ["image", "individual", "part", *(["fold"] if dataset.folds > 1 else [])]
    table = dataset.table[columns].rename(columns={"image": "Image", "individual": "Id"})
    write_atomically(path, table.to_csv(index=False))
