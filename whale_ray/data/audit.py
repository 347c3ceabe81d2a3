"""What is wrong with a set of photographs, said and written down; nothing is changed, nothing dropped in silence.

Knows the catalog and the decoded pixels; finds what cannot be used, what is there twice, what contradicts itself.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from whale_ray.data.catalog import Catalog
from whale_ray.data.pixels import FILL, Pixels, centre_crop
from whale_ray.durable import write_whole
from whale_ray.errors import DataError

HASH_DISTANCE = 6  # bits of 64 in which the perceptual hashes of twins may differ
PIXEL_DISTANCE = 5.0  # grey levels of 255 by which twins may differ on average, at 16 x 16
_SIDE = 16
_ROWS = 2048  # photographs compared at once with all others
_SHOWN = 10


@dataclass(frozen=True)
class Audit:
    """What was found.

    usable: for every row of the catalog whether it can be used. twins: the id of a row's twin group, "" for none:
    the same picture twice, perhaps saved again or at another size. findings: all of it, for audit.json.
    """

    usable: pd.Series
    twins: pd.Series
    findings: dict[str, Any]

    def lines(self) -> list[str]:
        """The findings in a few lines for a person."""
        found = self.findings
        lines = [
            f"{found['photographs']} photographs, {found['individuals']} individuals ({found['singletons']} with one "
            f"photograph), {found['unknown']} of unknown individuals"
        ]
        if found["set_aside"]:
            lines.append(f"{len(found['set_aside'])} photographs are set aside (audit.json lists them):")
            lines += [f"  {row['image']}: {row['status']}, {row['reason']}" for row in found["set_aside"][:_SHOWN]]
            lines += [f"  and {len(found['set_aside']) - _SHOWN} more"] * (len(found["set_aside"]) > _SHOWN)
        if found["twins"]:
            lines.append(f"{len(found['twins'])} pictures are there more than once; the split keeps them together")
        for conflict in found["conflicts"][:_SHOWN]:
            lines.append(
                f"the same picture under {' and '.join(conflict['individuals'])}: {', '.join(conflict['images'])}"
            )
        return lines

    def write(self, path: Path) -> None:
        """Writes audit.json."""
        write_whole(path, json.dumps(self.findings, indent=1))


def audit_photographs(catalog: Catalog, pixels: Pixels, *, on_bad_image: str = "set_aside") -> Audit:
    """The audit of a catalog.

    Raises: DataError listing the photographs that cannot be used, where `on_bad_image` is `error`; where none can.
    """
    table, health = catalog.table, pixels.health
    usable = health["status"].eq("ok")
    bad = health.loc[~usable, ["image", "status", "reason"]].to_dict("records")
    if bad and (on_bad_image == "error" or not usable.any()):
        rows = "\n".join(f"  {row['image']}: {row['status']}, {row['reason']}" for row in bad[:_SHOWN])
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"every photograph must be readable, but {len(bad)} of {len(table)} are not:\n{rows}{more}\n"
            "  Mend them, or say data.on_bad_image: set_aside to go on without them"
        )
    twins = _twin_groups(pixels, usable.to_numpy())
    return Audit(usable, twins, _findings(catalog, health, usable, twins, bad))


def _findings(
    catalog: Catalog, health: pd.DataFrame, usable: pd.Series, twins: pd.Series, bad: list[dict[Hashable, Any]]
) -> dict[str, Any]:
    table = catalog.table
    known = table["individual"] != catalog.unknown_label
    counts = table.loc[known & usable, "individual"].value_counts()
    groups = [table.loc[rows] for rows in twins[twins != ""].groupby(twins).groups.values()]
    identical = health.loc[usable].groupby("sha256")["image"].agg(list)
    conflicts = [group for group in groups if group["individual"].nunique() > 1]
    sizes = health.loc[usable, ["width", "height"]]
    return {
        "photographs": len(table),
        "individuals": int(table.loc[known, "individual"].nunique()),
        "singletons": int((counts == 1).sum()),
        "unknown": int((~known).sum()),
        "set_aside": bad,
        "identical_files": [images for images in identical if len(images) > 1],
        "twins": [group["image"].tolist() for group in groups],
        "conflicts": [
            {"images": group["image"].tolist(), "individuals": sorted(group["individual"].unique())}
            for group in conflicts
        ],
        "widths": _spread(sizes["width"]),
        "heights": _spread(sizes["height"]),
        "images_per_individual": {str(size): int(n) for size, n in counts.value_counts().sort_index().items()},
    }


def _spread(values: pd.Series) -> dict[str, int]:
    return {"smallest": int(values.min()), "median": int(values.median()), "largest": int(values.max())}


def _twin_groups(pixels: Pixels, usable: np.ndarray) -> pd.Series:
    """A group id for each row that has a twin, "" for the others: the first row of its connected component."""
    first = np.arange(len(usable))
    for one, other in _pairs_by_hash(pixels.health["phash"], usable):
        if first[one] == first[other]:
            continue
        if _difference(_small_grey(pixels, one), _small_grey(pixels, other)) <= PIXEL_DISTANCE:
            low, high = sorted((first[one], first[other]))
            first[first == high] = low
    counts = np.bincount(first, minlength=len(first))
    return pd.Series([f"twin{row}" if counts[row] > 1 else "" for row in first], index=pixels.health.index)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference in grey levels, where neither shows padding."""
    seen = (one != FILL) & (other != FILL)
    return float(np.abs(one - other)[seen].sum() / max(1, int(seen.sum())))


def _pairs_by_hash(hashes: pd.Series, usable: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose perceptual hashes are near; by chunks, never N x N at once."""
    rows = np.flatnonzero(usable)
    codes = np.array([int(hashes.iloc[row], 16) for row in rows], dtype=np.uint64)
    for start in range(0, len(rows), _ROWS):
        chunk = codes[start : start + _ROWS]
        near = np.bitwise_count(chunk[:, None] ^ codes[None, start:]) <= HASH_DISTANCE
        for one, other in np.argwhere(near):
            if one < other:
                yield int(rows[start + one]), int(rows[start + other])


def _small_grey(pixels: Pixels, row: int) -> np.ndarray:
    """The photograph as 16 x 16 means of grey levels, float32."""
    grey = Image.fromarray(centre_crop(pixels.array[row], pixels.geometry)).convert("L")
    return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
