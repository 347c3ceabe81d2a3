"""Downloads of run folders: a local folder as it is, or a URL whose run folder is mirrored below WHALE_RAY_CACHE."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow
import stamina

from whale_ray.data.caches.cache_folder import cache_folder
from whale_ray.errors import InputError, first_line
from whale_ray.inference.bundle_transfer.object_store import ObjectStore, is_url
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors
from whale_ray.sweep.run_store.mirror import RunMirror

logging.getLogger("stamina").addHandler(logging.NullHandler())  # only the last failure is reported
_OWN = ("sweep.yaml", "identity.json")

Say = Callable[[str], None]


def local_run(address: Path | str, *, say: Say, weights: bool = True) -> Path:
    """Return the local folder of a run; a run in a store is downloaded first, and its store is not changed.

    Args:
        address: Run folder or its URL.
        say: Prints the number of files and bytes.
        weights: Also download the weights of trials.

    Raises:
        InputError: If the store cannot be used or holds no run there.
    """
    if not is_url(address):
        return Path(address)
    url = str(address).rstrip("/")
    with storage_errors(url):
        store = ObjectStore(url)
        if "sweep.yaml" not in store.list():
            raise InputError(f"a run folder holds sweep.yaml, but {url} does not. Name one below the URL of --runs")
        return download_run(store, mirror_folder(url, use="read"), say, weights=weights).folder


def upload_file(address: Path | str, path: Path, *, say: Say) -> None:
    """Upload a file that was made in the local folder of a run in a store; nothing for a run in a folder.

    Args:
        address: Run folder or its URL.
        path: The file, directly in the folder.
        say: Prints where the file is, or why it could not be uploaded.
    """
    if not is_url(address):
        return
    url = f"{str(address).rstrip('/')}/{path.name}"
    try:
        ObjectStore(str(address)).upload(path, path.name)
    except (OSError, pyarrow.ArrowException) as error:
        say(f"{url} is not uploaded: {first_line(error)}")
    else:
        say(f"{url} is uploaded")


def known_run(address: Path | str, name: str, *, say: Say) -> Path:
    """Return the local folder of a run, which need not exist yet; a run in a store is downloaded first.

    Args:
        address: Folder or URL of run folders.
        name: Name of the run folder.
        say: Prints the number of files and bytes.

    Raises:
        InputError: If the store cannot be used or holds something else there.
    """
    if not is_url(address):
        return Path(address) / name
    url = f"{str(address).rstrip('/')}/{name}"
    with storage_errors(url):
        return download_run(ObjectStore(url), mirror_folder(url, use="read"), say).folder


def download_run(store: ObjectStore, folder: Path, say: Say, *, weights: bool = False) -> RunMirror:
    """Download a run folder and return its mirror.

    Args:
        store: Store of the run folder.
        folder: The local folder.
        say: Prints the number of files and bytes.
        weights: Also download the weights of trials.

    Raises:
        InputError: If the store holds something else there.
    """
    keys = [key for key in store.list() if not key.startswith(".")]
    if keys and not set(_OWN) & set(keys):
        raise InputError(
            f"the run folder {store.url} must be a sweep's own, but holds something else ({', '.join(keys[:3])}). "
            "Give the sweep another name, or choose another place with --runs"
        )
    mirror = RunMirror(store, folder)
    mirror.pull(
        weights=weights,
        on_start=lambda files, size: say(f"{store.url}: downloading {files} files, {size / 1e6:.1f} MB"),
    )
    return mirror


def mirror_folder(url: str, *, use: str = "write") -> Path:
    """Return the local folder on this node that mirrors the run folder at a URL.

    Args:
        url: URL of the run folder.
        use: write, for drivers and trials; read, for commands that may run beside them.
    """
    parent, _, name = url.rpartition("/")
    kind = "runs" if use == "write" else "read_runs"
    folder = cache_folder() / kind / hashlib.sha256(parent.encode()).hexdigest()[:16] / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pull_with_retries(
    mirror: RunMirror,
    prefix: str,
    *,
    weights: bool = True,
    attempts: int | None = 3,
    seconds: float = 10.0,
    on_wait: Callable[[], None] = lambda: None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Download a folder of a mirror; after an error, try again with a new connection.

    Args:
        mirror: The mirror.
        prefix: Folder below the run folder.
        weights: Also download the weights of trials.
        attempts: Largest number of tries; None for no limit.
        seconds: Time in which a further try may begin.
        on_wait: Called after the first error.
        is_stopping: Asked after each error; if True, it is raised.

    Raises:
        OSError: If the store does not answer.
        pyarrow.ArrowException: As above.
    """

    def may_pass(error: Exception) -> bool:
        return isinstance(error, OSError | pyarrow.ArrowException) and not is_stopping()

    for attempt in stamina.retry_context(on=may_pass, attempts=attempts, timeout=seconds):
        with attempt:
            if attempt.num == 2:
                on_wait()
            if attempt.num > 1:
                mirror.store.reconnect()
            mirror.pull(prefix, weights=weights)
