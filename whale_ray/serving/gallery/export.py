"""Export of enrolled images as a folder and a review file for `whale-ray apply-review`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell
from whale_ray.data.formats.animal_rows import box_text
from whale_ray.errors import StoreError
from whale_ray.serving.gallery.enrolled_pictures import Entry
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

# As `whale-ray apply-review` reads them.
COLUMNS = ("kind", "image", "individual", "other_image", "other_individual", "suggested", "confidence", "confirm")
BOX, VIEW, SPECIES = "box", "view", "species"  # last columns, if a picture has one


def export_enrolled(store: EnrolmentStore, folder: Path, review: Path) -> int:
    """Write the enrolled images and one review row for each animal; return the number of rows.

    Args:
        store: The enrolment database.
        folder: Folder of the image files; existing files are not overwritten.
        review: CSV file for `whale-ray apply-review`; overwritten.

    Raises:
        StoreError: If a file of the same name has other content.
    """
    entries = store.state().entries
    written = io.StringIO()
    optional = [_optional_cells(entry) for entry in entries]
    columns = [*COLUMNS, *(name for name in (BOX, VIEW, SPECIES) if any(cells[name] for cells in optional))]
    rows = csv.DictWriter(written, columns, restval="", extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for entry, cells in zip(entries, optional, strict=True):
        data = store.picture(entry.image)
        if data is None:  # forgotten meanwhile
            continue
        path = folder / entry.file
        if path.exists() and path.read_bytes() != data:
            raise StoreError(
                f"{path} must not exist, or be this very photograph, but is another. Choose another folder"
            )
        write_atomically(path, data)
        row = {"kind": "confirmed", "image": entry.file, "individual": as_cell(entry.individual), "confirm": "yes"}
        rows.writerow({**row, **cells})
    write_atomically(review, written.getvalue())
    return len(entries)


def _optional_cells(entry: Entry) -> dict[str, str]:
    return {
        BOX: "" if entry.box is None else box_text(entry.box),
        VIEW: as_cell(entry.traits.viewpoint),
        SPECIES: as_cell(entry.traits.species),
    }
