"""Storage that fsspec opens: versions, errors, listings that its packages keep, packages that are missing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from run_store_files import check_object_calls

from whale_ray.errors import BundleError, InputError
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.storage_systems import storage_errors


class Blobs(LocalFileSystem):
    """Files as blobs: with an etag, which listings do not quote, and metadata that are kept until they are cleared.

    They are moved and not copied, like those of SFTP.
    """

    protocol = "blobs"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kept: dict[str, Any] = {}

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        key = self._strip_protocol(getattr(path, "path", path))
        if key not in self.kept:
            found = super().info(path, **options)
            etag = f"{found.pop('mtime')}-{found.pop('ino')}"
            del found["created"]
            self.kept[key] = found | {"etag": etag if key is path else f'"{etag}"'}
        return self.kept[key]

    def mv(self, old: str, new: str) -> None:
        super().mv(old, new)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        raise NotImplementedError

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept.clear()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "forbidden" in path:
            raise RuntimeError("403: this request is not authorized")
        return super()._open(path, mode, **options)


class Timeless(Blobs):
    """Storage that does not say when a file has changed."""

    protocol = "timeless"

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        found = super().info(path, **options)
        return {name: value for name, value in found.items() if name != "etag"}


@pytest.fixture(autouse=True)
def protocols() -> Iterator[None]:
    for system in (Blobs, Timeless):
        fsspec.register_implementation(system.protocol, system, clobber=True)
    yield
    for system in (Blobs, Timeless):
        del _registry[system.protocol]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"blobs://{tmp_path}/runs/little")


def test_objects_are_written_listed_moved_and_deleted(store: ObjectStore, tmp_path: Path) -> None:
    check_object_calls(store, tmp_path)


def test_a_change_by_another_process_is_seen_although_the_package_keeps_listings(store: ObjectStore) -> None:
    store.write("lease", b"1")
    before, other = store.list()["lease"], ObjectStore(store.url)
    other.write("lease", b"2")
    other.write("new", b"")
    assert set(store.list()) == {"lease", "new"}
    assert store.list()["lease"] != before
    assert store.size("gone") is None


def test_each_thread_has_a_connection_of_its_own(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two use one at once, paramiko loses the answer to one of them, which waits without end."""
    users: list[tuple[Blobs, int]] = []
    write = Blobs._open

    def note(system: Blobs, path: str, mode: str = "rb", **options: Any) -> Any:
        users.append((system, threading.get_ident()))
        return write(system, path, mode, **options)

    monkeypatch.setattr(Blobs, "_open", note)
    with ThreadPoolExecutor(2) as pool:
        barrier = Barrier(2)
        for job in [pool.submit(lambda key=key: (barrier.wait(), store.write(key, b""))) for key in "ab"]:
            job.result()
    store.write("c", b"")
    assert set(store.list()) == {"a", "b", "c"}
    assert len({id(system) for system, _ in users}) == len({thread for _, thread in users}) == 3


def test_errors_of_a_package_are_errors_of_the_storage(store: ObjectStore) -> None:
    with (
        pytest.raises(InputError, match=r"must be storage that can be used, but: RuntimeError: 403.* package of the"),
        storage_errors(store.url),
    ):
        store.write("forbidden", b"")


def test_storage_that_does_not_tell_versions_apart_is_refused(tmp_path: Path) -> None:
    store = ObjectStore(f"timeless://{tmp_path}/runs")
    store.write("a", b"")
    with pytest.raises(OSError, match=r"must say when an object has changed, but nothing does for .*/runs/a: name"):
        store.list()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adlfs", None)
    monkeypatch.delitem(_registry, "az", raising=False)
    with pytest.raises(InputError, match=r"az:// needs a Python package .* Install adlfs to access Azure"):
        ObjectStore("az://whales/runs").list()


def test_a_protocol_that_needs_more_than_a_url_is_refused() -> None:
    url = "reference://whales"
    with (
        pytest.raises(InputError, match=r"reference://whales must be storage that can be used, but"),
        storage_errors(url),
    ):
        ObjectStore(url).list()


def test_a_server_that_is_down_is_an_error_of_each_call_until_it_is_back(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "__init__", lambda *_, **__: (_ for _ in ()).throw(ValueError("no answer")))
        store.reconnect()
        for _ in range(2):
            with pytest.raises(OSError, match="ValueError: no answer"):
                store.list()
    assert set(store.list()) == {"a"}


def test_a_bundle_is_looked_for_at_any_protocol(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"must hold a bundle, but has no bundle.json"):
        local_bundle(f"blobs://{tmp_path}")
    with pytest.raises(BundleError, match=r"begins with hf://, s3://, gs://, file://, but got https"):
        local_bundle("https://whales.org/bundle")
