"""Record of a drawing, `drawn.txt`: tells a drawn data set from photographs."""

from __future__ import annotations

from pathlib import Path

FILE = "drawn.txt"
_LONGEST = 200


def write_record(folder: Path, *, individuals: int, images: int, difficulty: float, seed: int) -> None:
    """Write the record of a drawing into the folder of its data set.

    Args:
        folder: Folder of the data set.
        individuals: Number of named individuals.
        images: Number of training photographs.
        difficulty: 0 (clear) to 1 (very hard).
        seed: Seed of all drawings.
    """
    record = f"individuals {individuals}, images {images}, difficulty {difficulty:g}, seed {seed}\n"
    (folder / FILE).write_text(record, encoding="utf-8")


def describe_drawing(folder: Path | None) -> str:
    """Return a sentence that says that the photographs of a data set are drawn; "" if it has no record of a drawing.

    Args:
        folder: Folder of the data set; None if it was not read from files.
    """
    path = folder / FILE if folder else None
    if path is None or not path.is_file():
        return ""
    try:
        record = path.read_text(encoding="utf-8", errors="replace")[:_LONGEST].strip()
    except OSError:
        record = ""
    return (
        f"the photographs are drawn by whale-ray synth{f' ({record})' if record else ''}: the scores show that "
        "training, search and decisions work, not how well photographs of whales are recognized"
    )
