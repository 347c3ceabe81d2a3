"""Audit of a data set: unreadable images, duplicates and contradictory labels.

Changes nothing; every finding is reported and written to audit.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.catalog import Catalog
from whale_ray.data.encounters.grouping import (
    AVERAGE,
    describe_rule,
    find_encounters,
    list_encounters,
)
from whale_ray.data.encounters.photo_dates import photograph_dates
from whale_ray.data.encounters.twins import find_twins
from whale_ray.data.formats.understanding import understood
from whale_ray.data.hints.audit_lines import MAX_LISTED, describe_findings
from whale_ray.data.hints.missing_files import explain_missing_files
from whale_ray.data.hints.unknown_labels import explain_unknown_labels
from whale_ray.data.pixel_cache import DecodedImages
from whale_ray.data.synthetic.drawing_record import describe_drawing
from whale_ray.errors import DataError


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        usable: For every catalog row, whether its image can be used.
        twins: Id of the twin group of each row, "" for none. Twins are copies of one picture, possibly re-encoded or
            resized.
        encounters: Encounter of each row: that of the table, or one that was found; "" for none.
        findings: All findings, as written to audit.json.
    """

    usable: pd.Series
    twins: pd.Series
    encounters: pd.Series
    findings: dict[str, Any]

    def lines(self, *, most: int | None = MAX_LISTED) -> list[str]:
        """Return the findings as lines of text.

        Args:
            most: Largest number of rows per kind of finding; None for all.
        """
        return describe_findings(self.findings, most=most)

    def with_findings(self, **more: Any) -> Audit:
        """Return the audit with more findings.

        Args:
            **more: JSON value by name.
        """
        return dataclasses.replace(self, findings={**self.findings, **more})

    def write(self, path: Path) -> None:
        """Write audit.json."""
        write_atomically(path, json.dumps(self.findings, indent=1))


def audit_photographs(
    catalog: Catalog,
    pixels: DecodedImages,
    *,
    on_bad_image: str = "set_aside",
    group_by: str = "twins",
    group_linkage: str = AVERAGE,
) -> Audit:
    """Return the audit of a catalog.

    Args:
        catalog: The catalog to audit.
        pixels: Its decoded images, which know the health of every file.
        on_bad_image: `set_aside` continues without unreadable images; `error` raises.
        group_by: `auto` looks for encounters if the table names none; `twins` does not.
        group_linkage: `linkage` of `find_encounters`.

    Raises:
        DataError: If an image is unusable and `on_bad_image` is `error`, or if no image is usable.
    """
    table, health = catalog.table, pixels.health
    usable = health["status"].eq("ok")
    bad = health.loc[~usable, ["image", "status", "reason"]].to_dict("records")
    hints = _missing_hints(catalog, health)
    if bad and (on_bad_image == "error" or not usable.any()):
        raise DataError(_refusal(bad, len(table), hints, on_bad_image=on_bad_image))
    twins = find_twins(pixels, usable.to_numpy(), pd.factorize(table["file"])[0])
    encounters, findings = table["group"], _findings(catalog, health, usable, twins, bad, hints)
    if group_by == "auto" and not encounters.ne("").any():
        rows = table[usable].assign(date=photograph_dates(table["date"], health["taken"])[usable])
        found = find_encounters(
            rows, pixels.small[usable.to_numpy()], unknown_label=catalog.unknown_label, linkage=group_linkage
        )
        encounters = found.set_axis(rows.index).reindex(table.index, fill_value="")
        findings["encounters"] = list_encounters(table, encounters)
        findings["encounter_rule"] = describe_rule(group_linkage)
    return Audit(usable, twins, encounters, findings)


def _refusal(bad: Sequence[Mapping[Hashable, Any]], count: int, hints: Sequence[str], *, on_bad_image: str) -> str:
    must = "every photograph" if on_bad_image == "error" else "some photograph"
    lines = [f"{must} must be readable, but {len(bad)} of {count} are not:"]
    lines += [f"  {row['image']}: {row['status']}, {row['reason']}" for row in bad[:MAX_LISTED]]
    lines += [f"  and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    lines += [f"  {hint}" for hint in hints]
    if on_bad_image == "error":
        lines.append("  Correct them, or set data.on_bad_image to set_aside to continue without them")
    elif not hints:
        lines.append("  Correct them, or name another folder with --data")
    return "\n".join(lines)


def _missing_hints(catalog: Catalog, health: pd.DataFrame) -> list[str]:
    """Return how the missing files can be found, if there are any."""
    missing = catalog.table.loc[health["status"].eq("missing"), "file"].drop_duplicates()
    root = catalog.recognition.root if catalog.recognition else None
    return explain_missing_files(missing.tolist(), catalog.folder, root=root) if len(missing) else []


def _findings(
    catalog: Catalog,
    health: pd.DataFrame,
    usable: pd.Series,
    twins: pd.Series,
    bad: list[dict[Hashable, Any]],
    missing_hints: list[str],
) -> dict[str, Any]:
    table = catalog.table[usable]
    named = table[table["individual"] != catalog.unknown_label]
    counts = named["individual"].value_counts()
    everyone = set(catalog.table["individual"]) - {catalog.unknown_label}
    groups = [catalog.table.loc[rows] for rows in twins[twins != ""].groupby(twins).groups.values()]
    files = health.loc[usable].assign(file=table["file"]).drop_duplicates("file")
    identical = files.groupby("sha256")["file"].agg(list)
    conflicts = [group for group in groups if group["individual"].nunique() > 1]
    sizes = health.loc[usable, ["width", "height"]]
    labels = Counter(map(str, catalog.table["individual"]))
    unknown_hint = explain_unknown_labels(labels, catalog.unknown_label)
    return {
        "understood": understood(catalog),
        "drawn": describe_drawing(catalog.recognition.root if catalog.recognition else None),
        "photographs": int(catalog.table["file"].nunique()),
        "animals": len(catalog.table),
        "individuals": len(counts),
        "singletons": int((counts == 1).sum()),
        "unknown": len(table) - len(named),
        "groups": int(table.loc[table["group"] != "", "group"].nunique()),
        "without_photograph": sorted(everyone - set(counts.index)),
        "set_aside": bad,
        "several_species": _several_species(named),
        "remarks": health.loc[usable & health["remark"].ne(""), ["image", "remark"]].to_dict("records"),
        "identical_files": [images for images in identical if len(images) > 1],
        "twins": [group["image"].tolist() for group in groups],
        "conflicts": [
            {"images": group["image"].tolist(), "individuals": sorted(group["individual"].unique())}
            for group in conflicts
        ],
        "hints": [*missing_hints, *([unknown_hint] if unknown_hint else [])],
        "widths": _size_range(sizes["width"]),
        "heights": _size_range(sizes["height"]),
        "images_per_individual": {str(size): int(n) for size, n in counts.value_counts().sort_index().items()},
    }


def _several_species(named: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the individuals with more than one species; a missing species counts for none."""
    species = named[named["species"] != ""].groupby("individual")["species"].unique()
    return [{"individual": name, "species": sorted(found)} for name, found in species.items() if len(found) > 1]


def _size_range(values: pd.Series) -> dict[str, int]:
    return {"smallest": int(values.min()), "median": int(values.median()), "largest": int(values.max())}
