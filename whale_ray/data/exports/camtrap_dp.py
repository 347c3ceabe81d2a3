"""Export as a Camtrap DP 1.0 data package: deployments, media and observations.

The tables are described at https://camtrap-dp.tdwg.org/data/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.data.exports.exported_rows import ExportedRows, without_size
from whale_ray.data.image_io import Box

_SCHEMAS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0"
_DEPLOYMENT = "unknown"
# Not those of `mimetypes`, which depend on the machine. Other endings count as JPEG.
_MEDIA_TYPES = {
    **dict.fromkeys((".tif", ".tiff"), "image/tiff"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "image/heic"),
    **{f".{name}": f"image/{name}" for name in ("png", "webp", "bmp", "gif", "avif")},
}
_FILE_PATH = re.compile(r"(?![./~])(?!.*\.\.)")  # as the schema of media.filePath requires
# All columns of the tables, in the order of the schemas.
_COLUMNS = {
    "deployments": "deploymentID locationID locationName latitude longitude coordinateUncertainty deploymentStart "
    "deploymentEnd setupBy cameraID cameraModel cameraDelay cameraHeight cameraDepth cameraTilt cameraHeading "
    "detectionDistance timestampIssues baitUse featureType habitat deploymentGroups deploymentTags deploymentComments",
    "media": "mediaID deploymentID captureMethod timestamp filePath filePublic fileName fileMediatype exifData "
    "favorite mediaComments",
    "observations": "observationID deploymentID mediaID eventID eventStart eventEnd observationLevel observationType "
    "cameraSetupType scientificName count lifeStage sex behavior individualID individualPositionRadius "
    "individualPositionAngle individualSpeed bboxX bboxY bboxWidth bboxHeight classificationMethod classifiedBy "
    "classificationTimestamp classificationProbability observationTags observationComments",
}


def write_camtrap_dp(rows: ExportedRows, folder: Path) -> list[str]:
    """Write datapackage.json, deployments.csv, media.csv and observations.csv, and return remarks.

    All photographs belong to one deployment, whose place and time zone are not known.

    Args:
        rows: The rows.
        folder: Folder of the export.
    """
    records = rows.records()
    times = [_timestamp(row["date"]) for row in records]
    known = sorted(filter(None, times))
    deployment = {"deploymentID": _DEPLOYMENT, "timestampIssues": "true"}
    deployment |= {"deploymentStart": known[0], "deploymentEnd": known[-1]} if known else {}
    media = {row["file"]: _media(rows, row, time) for row, time in zip(records, times, strict=True)}
    observations = [_observation(rows, *entry) for entry in zip(records, times, rows.boxes(), strict=True)]
    _write_table("deployments", [deployment], folder)
    _write_table("media", list(media.values()), folder)
    _write_table("observations", observations, folder)
    write_atomically(folder / "datapackage.json", json.dumps(_package(records, known), indent=1))
    remarks = ["complete latitude and longitude in deployments.csv, and contributors and spatial in datapackage.json"]
    if undated := times.count(""):
        remarks.append(f"{undated} rows have no date, which Camtrap DP requires")
    if refused := [path for one in media.values() if not _FILE_PATH.match(path := one["filePath"])]:
        remarks.append(
            f"{len(refused)} file paths begin with a dot, slash or tilde, or contain '..', which Camtrap DP refuses: "
            f"rename the files, such as {refused[0]}"
        )
    boxed = rows.table["x0"].notna().sum()
    if boxed and (missing := without_size(rows)):
        remarks.append(f"{missing} rows lack their box: it is relative to the photograph, which was not found")
    return remarks


def _timestamp(date: str) -> str:
    """Return a date as Camtrap DP writes it; the deployment's timestampIssues says that the zone is not known."""
    if len(date) < len("2019-05-03"):
        return ""
    return f"{date if 'T' in date else date + 'T00:00:00'}".removesuffix("Z")[:19] + "Z"


def _media(rows: ExportedRows, row: Mapping[str, str], time: str) -> dict[str, str]:
    return {
        "mediaID": row["file"],
        "deploymentID": _DEPLOYMENT,
        "timestamp": time,
        "filePath": rows.path(row["file"]),
        "filePublic": "false",
        "fileName": row["file"].rsplit("/", 1)[-1],
        "fileMediatype": _MEDIA_TYPES.get(PurePosixPath(row["file"]).suffix.lower(), "image/jpeg"),
    }


def _observation(rows: ExportedRows, row: Mapping[str, str], time: str, box: Box | None) -> dict[str, str]:
    return {
        "observationID": row["image"],
        "deploymentID": _DEPLOYMENT,
        "mediaID": row["file"],
        "eventID": row["group"],
        "eventStart": time,
        "eventEnd": time,
        "observationLevel": "media",
        "observationType": "animal",
        "scientificName": row["species"],
        "count": "1",
        "individualID": row["individual"],
        **_relative_box(box, rows.sizes.get(row["file"])),
        "classificationMethod": "human",
        "observationTags": f"view:{row['view']}" if row["view"] else "",
    }


def _relative_box(box: Box | None, size: tuple[int, int] | None) -> dict[str, str]:
    if box is None or size is None:
        return {}
    left, top, right, bottom = (
        min(max(side / length, 0.0), 1.0) for side, length in zip(box, (*size, *size), strict=True)
    )
    shares = {"bboxX": left, "bboxY": top, "bboxWidth": right - left, "bboxHeight": bottom - top}
    return {name: f"{share:.6f}" for name, share in shares.items()}


def _write_table(name: str, rows: Sequence[Mapping[str, str]], folder: Path) -> None:
    table = pd.DataFrame(rows, columns=_COLUMNS[name].split())
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False))


def _package(records: Sequence[Mapping[str, str]], times: Sequence[str]) -> dict[str, Any]:
    species = sorted({row["species"] for row in records} - {""})
    return {
        "resources": [
            {
                "name": name,
                "path": f"{name}.csv",
                "profile": "tabular-data-resource",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": f"{_SCHEMAS}/{name}-table-schema.json",
            }
            for name in _COLUMNS
        ],
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "name": "whale-ray-export",
        "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "contributors": [],
        "project": {
            "title": "Individual identification",
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": True,
            "observationLevel": ["media"],
        },
        "spatial": None,
        "temporal": {"start": times[0][:10], "end": times[-1][:10]} if times else None,
        "taxonomic": [{"scientificName": name} for name in species],
    }
