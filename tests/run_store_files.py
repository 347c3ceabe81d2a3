"""Run stores on this machine's disk, for the tests of run stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store import publisher


def store_on_disk(folder: Path, *, scheme: str = "file") -> ObjectStore:
    """Return the store of the run folder `little` below a folder, opened by pyarrow (file) or fsspec (local)."""
    return ObjectStore(f"{scheme}://{folder}/disk/runs/little")


def check_object_calls(store: ObjectStore, folder: Path) -> None:
    """Write, list, download, move and delete objects of an empty store, and check each outcome.

    Args:
        store: The store.
        folder: Folder for local files.
    """
    assert store.list() == {}
    (folder / "large").write_bytes(large := bytes(range(256)) * 20_000)
    version = store.upload(folder / "large", "a/large")
    store.write("a/small", b"first")
    store.write("a/small", b"second")
    assert {key: found.size for key, found in store.list().items()} == {"a/large": len(large), "a/small": 6}
    assert store.list("a")["a/large"] == version
    store.download("a/large", folder / "back")
    assert (folder / "back").read_bytes() == large
    store.move("a/small", "b/moved")
    assert store.read("b/moved") == b"second"
    with pytest.raises(FileNotFoundError):
        store.read("a/small")
    store.delete("b/moved")
    store.delete("b/moved")
    assert set(store.list()) == {"a/large"}


def use_empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a cache folder of the test, and let publishers give up soon."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(folder / "cache"))
    monkeypatch.setattr(publisher, "FINISH_SECONDS", 0.2)


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """Write texts into files below a folder, and return the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def refuse_calls(
    name: str, times: int, monkeypatch: pytest.MonkeyPatch, *, error: Exception | None = None
) -> list[str]:
    """Let a method of all stores fail at first; the returned list names the calls of it and of `reconnect`."""
    calls: list[str] = []
    method, reconnect = getattr(ObjectStore, name), ObjectStore.reconnect

    def refuse(self: ObjectStore, *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if calls.count(name) <= times:
            raise error or OSError("the credentials have expired")
        return method(self, *arguments, **options)

    monkeypatch.setattr(ObjectStore, name, refuse)
    monkeypatch.setattr(ObjectStore, "reconnect", lambda self: (calls.append("reconnect"), reconnect(self))[1])
    return calls
