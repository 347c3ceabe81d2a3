"""Old runs: `--fresh` gives them the name NAME.TIME, in the store and on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_folder.lock import name_aside

_MOVING = ".moving"


def move_run_aside(store: ObjectStore, folder: Path, *, is_held: Callable[[], bool]) -> None:
    """Give the objects of a run other keys, beside the run folder, and its mirror another name.

    The new name is written into the store first, so that `finish_move` can go on after an interruption.

    Args:
        store: Store of the run folder.
        folder: The mirror on this machine; an empty one is made in its place.
        is_held: Asked before each object; returns whether the lease is held.

    Raises:
        InputError: If another driver has taken over the run folder.
    """
    if _keys(store) or any(folder.iterdir()):
        store.write(_MOVING, name_aside(folder).name.encode())
        finish_move(store, folder, is_held=is_held)


def finish_move(store: ObjectStore, folder: Path, *, is_held: Callable[[], bool]) -> None:
    """Go on with `move_run_aside` where an earlier driver was interrupted; do nothing if none was.

    Args:
        store: Store of the run folder.
        folder: The mirror on this machine.
        is_held: Asked before each object; returns whether the lease is held.

    Raises:
        InputError: If another driver has taken over the run folder.
    """
    parent, _, name = store.url.rpartition("/")
    try:
        aside = store.read(_MOVING).decode()
    except FileNotFoundError:
        return
    if "/" in aside or not aside.startswith(f"{name}."):
        raise InputError(f"{store.url}/{_MOVING} must be a name like {name}.TIME, but is {aside!r}. Delete it")
    runs = ObjectStore(parent)
    for key in _keys(store):
        if not is_held():
            raise InputError(f"one driver at a time may write to {store.url}, but another one has taken it over")
        runs.move(f"{name}/{key}", f"{aside}/{key}")
    if any(folder.iterdir()):
        move_folder_aside(folder, name=aside)
    store.delete(_MOVING)


def move_folder_aside(folder: Path, *, name: str = "") -> Path:
    """Rename a folder, make an empty one in its place, and return the new path of the old one.

    Args:
        folder: The folder.
        name: New name, if it is free; "" for NAME.TIME.
    """
    aside = folder.with_name(name or folder.name)
    aside = name_aside(folder) if aside.exists() else aside
    folder.rename(aside)
    folder.mkdir()
    return aside


def _keys(store: ObjectStore) -> list[str]:
    return [key for key in store.list() if not key.startswith(".")]
