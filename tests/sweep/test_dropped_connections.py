"""Storage that is connected to when it is opened, such as SFTP: connections that are dropped, servers that are down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import stamina
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from run_store_files import use_empty_cache, write_files
from waiting import wait_until

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import driver_lease, publisher, trial_files
from whale_ray.sweep.run_store.driver_lease import DriverLease
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun, opened_runs
from whale_ray.sweep.run_store.mirror import RunMirror
from whale_ray.sweep.run_store.publisher import Publisher
from whale_ray.sweep.run_store.trial_files import published_trial


class Server(LocalFileSystem):
    """Files behind a connection that stays dropped once the server has been down.

    Attributes:
        starts: Number of times that the server was started.
        refusals: Number of connections that it still refuses.
    """

    protocol = "server"
    starts: ClassVar[int] = 0
    refusals: ClassVar[int] = 0

    def __init__(self, **options: Any) -> None:
        if Server.refusals:
            Server.refusals -= 1
            raise ValueError("connection refused")
        super().__init__(**options)
        self.start = Server.starts

    @classmethod
    def restart(cls, *, refusals: int) -> None:
        """Drop all connections and refuse some new ones."""
        cls.starts, cls.refusals = cls.starts + 1, refusals

    def mv(self, old: str, new: str) -> None:
        super().mv(old, new)

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        self._check()
        return dict(super().info(path, **options))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._check()
        return super()._open(path, mode, **options)

    def _check(self) -> None:
        if self.start != Server.starts:
            raise ValueError("the connection is closed")


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation(Server.protocol, Server, clobber=True)
    use_empty_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 60.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    Server.refusals = 0
    yield
    Server.refusals = 0
    del _registry[Server.protocol]


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"server://{tmp_path}/disk/runs/little")


def test_a_publisher_goes_on_when_the_server_is_back(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "EVERY_SECONDS", 0.01)
    said: list[str] = []
    store.write("sweep.yaml", b"")
    Server.restart(refusals=3)
    folder = write_files(tmp_path / "here", {"trials/1/result.json": "{}"})
    uploader = Publisher(RunMirror(store, folder), say=said.append)
    wait_until(lambda: said[-1:] == [f"{store.url} takes files again"], rest=0.01)
    assert "trials/1/result.json" in store.list()
    assert uploader.finish() == []


def test_a_publisher_that_finishes_while_the_server_is_down_uploads_what_is_left(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.write("sweep.yaml", b"")
    Server.restart(refusals=3)
    uploader = Publisher(RunMirror(store, write_files(tmp_path / "here", {"best.txt": ""})), say=print)
    assert uploader.finish() == []
    assert "best.txt" in store.list()


def trial_on_a_node(store: ObjectStore, reported: list[Any]) -> Any:
    return published_trial(RemoteRun(store.url, "session", Path("/not_here")), Path("/not_here"), "1", reported.append)


def test_a_trial_whose_connection_was_dropped_is_published(store: ObjectStore) -> None:
    store.write("trials/1/settings.json", b"{}")
    reported: list[Any] = []
    with trial_on_a_node(store, reported) as place:
        Server.restart(refusals=2)
        write_files(place.folder, {"trials/1/result.json": "{}"})
        place.report({"done": True})
    assert reported == [{"done": True, "elsewhere": True}]
    store.reconnect()
    assert "trials/1/result.json" in store.list()
    assert not any(key.endswith(".worker") for key in store.list())


def test_a_trial_begins_when_the_server_is_back(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_files, "WAIT_SECONDS", 60.0)
    store.write("trials/1/settings.json", b"{}")
    Server.restart(refusals=3)
    with trial_on_a_node(store, []) as place:
        assert (place.folder / "trials/1/settings.json").exists()


def test_the_driver_downloads_trials_and_weights_by_a_new_connection(store: ObjectStore) -> None:
    runs, name = store.url.rsplit("/", 1)
    with (
        opened_runs(runs, name, fresh=False, say=print, stopping=threading.Event()) as opened,
        stamina.set_testing(True, attempts=3, cap=True),
    ):
        folder = opened.folder / "little/trials/1/checkpoint"
        store.write("trials/1/checkpoint/encoder.safetensors", b"weights")
        Server.restart(refusals=1)
        opened.fetch_trial("1")
        assert folder.exists()
        Server.restart(refusals=1)
        opened.fetch_weights("1")
        assert (folder / "encoder.safetensors").read_bytes() == b"weights"


def wait_for_renewal(url: str, key: str) -> None:
    before = ObjectStore(url).read(key)
    wait_until(lambda: ObjectStore(url).read(key) != before, rest=0.01)


def test_a_lease_is_renewed_by_a_new_connection(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_lease, "RENEW_SECONDS", 0.01)
    lease = DriverLease(store, say=print, on_lost=lambda: None)
    lease.acquire()
    try:
        (key,) = ObjectStore(store.url).list(".lease")
        for refusals in (0, 2):
            wait_for_renewal(store.url, key)  # its thread has a connection of its own, once it has begun
            Server.restart(refusals=refusals)
            wait_until(lambda: Server.refusals == 0, rest=0.01)
        wait_for_renewal(store.url, key)
        Server.restart(refusals=0)
    finally:
        lease.release()
    assert ObjectStore(store.url).list(".lease") == {}
