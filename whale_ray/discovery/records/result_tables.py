"""Tables that a discovery writes for people and for the next sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell
from whale_ray.data.catalog import Catalog
from whale_ray.data.formats.animal_rows import BOX
from whale_ray.discovery.grouping import Grouping
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder

SINGLES = ("unknown", "named", "omitted")
"""Treatment of photographs alone in their cluster: the unknown label, a name for each, or no row."""


def write_photographs(folder: DiscoveryFolder, catalog: Catalog, undecodable: Mapping[str, str]) -> None:
    """Write photographs.csv: Image, file, x0 … y1, name ("" if unknown) and fault ("" if it can be decoded).

    Args:
        folder: The discovery folder.
        catalog: All photographs.
        undecodable: Reason by name of photographs that cannot be decoded.
    """
    table = catalog.table
    names = table["individual"].where(table["individual"] != catalog.unknown_label, "")
    columns = {"Image": table["image"].map(as_cell), "file": table["file"].map(as_cell)}
    columns |= {side: table[side] for side in BOX}
    faults = pd.Series([as_cell(undecodable.get(image, "")) for image in table["image"]], table.index)
    columns |= {"name": names.map(as_cell), "fault": faults}
    _write(folder.photographs, pd.DataFrame(columns))


def write_grouping(
    folder: DiscoveryFolder, grouping: Grouping, images: Sequence[str], names: Mapping[int, str]
) -> None:
    """Write clusters.csv, questions.csv and contradictions.csv.

    Args:
        folder: The discovery folder.
        grouping: The grouping.
        images: Name of each photograph of the grouping.
        names: Name by cluster.
    """
    cells = [as_cell(image) for image in images]
    labels = grouping.labels.tolist()
    clusters = {
        "Image": cells,
        "cluster": labels,
        "name": [as_cell(names.get(label, "")) for label in labels],
        "confidence": grouping.confidences.round(4),
    }
    _write(folder.clusters, pd.DataFrame(clusters))
    asked = [
        (cells[one.first], cells[one.second], round(one.probability, 4), round(one.gain, 4), "")
        for one in grouping.questions
    ]
    _write(folder.questions, pd.DataFrame(asked, columns=["first", "second", "probability", "gain", "answer"]))
    conflicts = [
        (*(cells[row] for row in one.pair), " = ".join(cells[row] for row in one.chain))
        for one in grouping.contradictions
    ]
    _write(folder.contradictions, pd.DataFrame(conflicts, columns=["first", "second", "chain"]))


def training_rows(
    catalog: Catalog, grouping: Grouping, images: Sequence[str], names: Mapping[int, str], *, singles: str
) -> pd.DataFrame:
    """Return the training table: Image, Id and, with boxes, x0 … y1.

    A named photograph keeps its name. The others get the name of their cluster; those alone in a cluster without a name
    are treated as `singles` says. Photographs that cannot be decoded have no row.

    Args:
        catalog: All photographs.
        grouping: The grouping of the decodable ones.
        images: Name of each photograph of the grouping.
        names: Name by cluster.
        singles: One of `SINGLES`.
    """
    rows = catalog.table.set_index("image").loc[list(images)]
    ids = []
    for image, individual, label in zip(images, rows["individual"], grouping.labels.tolist(), strict=True):
        if individual != catalog.unknown_label:
            ids.append(individual)
        elif label in names:
            ids.append(names[label])
        else:
            ids.append({"unknown": catalog.unknown_label, "named": f"single_{image}", "omitted": ""}[singles])
    table = pd.DataFrame({"Image": rows["file"].tolist(), "Id": ids})
    if catalog.has_boxes:
        table = table.join(rows[list(BOX)].reset_index(drop=True))
    return table[table["Id"] != ""]


def write_training_table(folder: DiscoveryFolder, table: pd.DataFrame) -> None:
    """Write table.csv; its cells are not protected for spreadsheets, for a sweep reads them as they are.

    Args:
        folder: The discovery folder.
        table: Result of `training_rows`.
    """
    _write(folder.table, table)


def _write(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, table.to_csv(index=False))
