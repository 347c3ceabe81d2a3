"""Old runs: `--fresh` gives them another name, in the store and on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from whale_ray.inference.bundle_transfer.object_store import ObjectStore


def move_run_aside(store: ObjectStore, folder: Path) -> None:
    """Give the objects of a run other keys, beside the run folder, and its mirror another name."""
    parent, _, name = store.url.rpartition("/")
    runs, aside = ObjectStore(parent), f"{name}.{time.strftime('%Y%m%d-%H%M%S')}"
    for key in store.list():
        if not key.startswith("."):
            runs.move(f"{name}/{key}", f"{aside}/{key}")
    folder.rename(folder.with_name(aside))
    folder.mkdir()
