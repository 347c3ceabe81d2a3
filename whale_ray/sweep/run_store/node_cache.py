"""Caches of run folders: files that are left of another run, or of a trial that has run elsewhere since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container
from pathlib import Path

from filelock import FileLock

from whale_ray.atomic_files import write_atomically
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store.changed_folders import ChangedFolders, group_of
from whale_ray.sweep.run_store.old_runs import move_folder_aside
from whale_ray.sweep.run_store.sync_record import RECORD, SyncRecord
from whale_ray.sweep.run_store.trial_claim import CLAIM, TrialClaim

_IDENTITY = "identity.json"


def session_file(folder: Path) -> Path:
    """Return the file beside a cached run folder that names the session of the driver that has used it last."""
    return folder.with_name(f".{folder.name}.session")


def drop_other_run(store: ObjectStore, folder: Path) -> None:
    """Empty the cached run folder of a node if it was made for another run than the one in the store.

    `--fresh`, and a sweep whose run was deleted in the store, begin another run under the same URL with the same IDs of
    trials. What the node has not uploaded of the earlier run is deleted as well: nothing in the store belongs to it.

    Args:
        store: Store of the run folder, which has a trial's settings and so its identity.
        folder: The local folder. Several workers can call this at once.
    """
    identity = _stored_identity(store)
    with FileLock(folder.with_name(f".{folder.name}.cache_lock")):
        if _run_id(identity) == _run_id(_local_identity(folder)):
            return
        _empty(folder)
        write_atomically(folder / _IDENTITY, identity)


def drop_stale_files(
    folder: Path, prefix: str, listed: Container[str], *, is_last: bool, is_emptied: bool = False
) -> SyncRecord:
    """Delete the cached files of a trial that are no longer part of it, and return the record of the others.

    - A file that is as it was uploaded or downloaded belongs to the trial while its object exists. Otherwise the object
      was deleted elsewhere, as `--retry-failed` does with results.
    - A file that was not uploaded, or has changed since, is the newest one of the trial if no other worker has had the
      trial meanwhile: the worker was killed before the upload, or the store took no files. It is kept. After another
      worker, it is left of an attempt that was given up.

    Args:
        folder: The run folder.
        prefix: Folder of the trial in it, with a slash at the end.
        listed: Keys of the objects of the trial.
        is_last: No other worker has had the trial since that of this folder.
        is_emptied: The whole store was emptied; files whose objects are gone are kept, to be uploaded again.
    """
    record = SyncRecord(folder / prefix / RECORD)
    (group,) = ChangedFolders(folder).groups(group_of(prefix))
    for key, version in group.files.items():
        known = record.get(key)
        is_synced = known is not None and known.local == version
        if not (is_last or is_synced) or (is_synced and key not in listed and not is_emptied):
            (folder / key).unlink(missing_ok=True)
    for key in record.every():
        if key not in listed:
            record.put(key, None)
    record.save()
    return record


def adopt_cache(store: ObjectStore, folder: Path, *, say: Callable[[str], None]) -> None:
    """Make a cached run folder the mirror of a driver: without another run's files, and with one record for all.

    The mirror of an earlier driver is kept if the store is empty, which gets all files again, and gets another name
    if it is that of another run. A node's cache of single trials is kept if it is that of the run in the store.

    Args:
        store: Store of the run folder.
        folder: The local folder.
        say: Prints a line if the mirror gets another name.
    """
    stored, local = _run_id(_stored_identity(store)), _run_id(_local_identity(folder))
    was_mirror = session_file(folder).exists()
    if was_mirror and stored and stored != local and any(folder.iterdir()):
        aside = move_folder_aside(folder)
        say(f"{store.url} holds another run than the local files of this machine, which are now in {aside}")
    elif not was_mirror and (not stored or stored != local):
        _empty(folder)
    else:
        _adopt_trials(store, folder)


def _adopt_trials(store: ObjectStore, folder: Path) -> None:
    records = [path.relative_to(folder) for path in folder.glob(f"trials/*/{RECORD}")]
    if not records:
        return
    listed = store.list()
    record, claims = SyncRecord(folder / RECORD), list[Path]()
    for path in records:
        prefix = f"{path.parent.as_posix()}/"
        claim = folder / prefix / CLAIM
        is_last = claim.exists() and TrialClaim(store, prefix).holder() == claim.read_text()
        kept = drop_stale_files(folder, prefix, listed, is_last=is_last, is_emptied=_IDENTITY not in listed)
        for key, versions in kept.every().items():
            record.put(key, versions)
        claims.append(claim)
    record.save()
    for claim in claims:
        claim.unlink(missing_ok=True)
        claim.with_name(RECORD).unlink()


def _empty(folder: Path) -> None:
    session_file(folder).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _stored_identity(store: ObjectStore) -> bytes:
    try:
        return store.read(_IDENTITY)
    except FileNotFoundError:
        return b""


def _local_identity(folder: Path) -> bytes:
    path = folder / _IDENTITY
    return path.read_bytes() if path.exists() else b""


def _run_id(identity: bytes) -> str:
    """Return the random ID of a run; "" without identity.json or from a damaged one."""
    try:
        return str(json.loads(identity)["id"])
    except (ValueError, KeyError, TypeError):
        return ""
