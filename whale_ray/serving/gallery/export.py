"""Photographs of animals that seemed new, or nearly, kept until a person says who they show; and what people said.

Knows the store's tables; knows no bundle, no HTTP and no Ray.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell
from whale_ray.errors import StoreError
from whale_ray.serving.gallery.store import EnrolmentStore

# As `whale-ray apply-review` reads them.
COLUMNS = ("kind", "image", "individual", "other_image", "other_individual", "suggested", "confidence", "confirm")


def export_enrolled(store: EnrolmentStore, folder: Path, review: Path) -> int:
    """Writes what is enrolled into `folder`, and a row each into `review` for `whale-ray apply-review`; how many.

    Raises: StoreError where a file of the same name holds something else; nothing is overwritten but `review`.
    """
    entries = store.state().entries
    written = io.StringIO()
    rows = csv.DictWriter(written, COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    for entry in entries:
        data = store.picture(entry.image)
        if data is None:  # forgotten meanwhile
            continue
        path = folder / entry.image
        if path.exists() and path.read_bytes() != data:
            raise StoreError(
                f"{path} must not exist, or be this very photograph, but is another. Choose another folder"
            )
        write_atomically(path, data)
        rows.writerow(
            {"kind": "confirmed", "image": entry.image, "individual": as_cell(entry.individual), "confirm": "yes"}
        )
    write_atomically(review, written.getvalue())
    return len(entries)
