"""Old runs in a store, which `--fresh` gives another name: interruptions, and a driver that was suspended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from run_store_files import store_on_disk, use_empty_cache, write_files

from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.run_store.driver_run_folder import opened_runs
from whale_ray.sweep.run_store.old_runs import move_run_aside

RUN = {
    "sweep.yaml": "name: a",
    "identity.json": '{"id": "a"}',
    "trials/1/settings.json": "{}",
    "trials/1/result.json": "{}",
    "trials/2/settings.json": "{}",
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Return a store with a run that a driver on this machine has published."""
    use_empty_cache(tmp_path, monkeypatch)
    store = store_on_disk(tmp_path)
    assert drive(store, files=RUN) == set()
    return store


def drive(store: ObjectStore, *, files: dict[str, str], fresh: bool = False) -> set[str]:
    """Run a driver on this machine that writes these files, and return those that it has found."""
    runs = store.url.rpartition("/")[0]
    with opened_runs(runs, "little", fresh=fresh, say=print, stopping=threading.Event()) as opened:
        folder = opened.folder / "little"
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.name[0] != "."}
        write_files(folder, files)
    return found


def old_runs(store: ObjectStore) -> dict[str, set[str]]:
    """Return the keys of each run beside the run folder."""
    found: dict[str, set[str]] = {}
    for key in ObjectStore(store.url.rpartition("/")[0]).list():
        name, _, rest = key.partition("/")
        if name != "little":
            found.setdefault(name, set()).add(rest)
    return found


def interrupt_after(moves: int, patch: pytest.MonkeyPatch) -> None:
    move, made = ObjectStore.move, list[str]()

    def move_some(self: ObjectStore, key: str, new: str) -> None:
        if len(made) == moves:
            raise KeyboardInterrupt
        made.append(key)
        move(self, key, new)

    def interrupt(path: Path, new: Path) -> None:
        raise KeyboardInterrupt

    patch.setattr(ObjectStore, "move", move_some)
    patch.setattr(Path, "rename", interrupt)  # the mirror is renamed when all objects are moved


@pytest.mark.parametrize("moves", [0, 2, 5])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("machine", ["the same", "another"])
def test_a_move_that_was_interrupted_is_finished_under_the_same_name(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int, fresh: bool, machine: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(moves, patch)
        with pytest.raises(KeyboardInterrupt):
            drive(store, files={}, fresh=True)
    if machine == "another":
        monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "other"))
    assert drive(store, files={"sweep.yaml": "name: b", "identity.json": '{"id": "b"}'}, fresh=fresh) == set()
    assert list(old_runs(store).values()) == [set(RUN)]
    assert set(store.list()) == {"sweep.yaml", "identity.json"}


def test_a_driver_that_has_lost_its_lease_moves_no_further_object(store: ObjectStore, tmp_path: Path) -> None:
    answers = iter([True, True, False])
    (tmp_path / "little").mkdir()
    with pytest.raises(InputError, match=r"one driver at a time .* another one has taken it over"):
        move_run_aside(store, tmp_path / "little", is_held=lambda: next(answers))
    ((_, moved),) = old_runs(store).items()
    assert len(moved) == 2
    assert moved | set(store.list()) == {*RUN, ".moving"}


def test_a_damaged_name_is_refused(store: ObjectStore) -> None:
    store.write(".moving", b"../other")
    with pytest.raises(InputError, match=r"must be a name like little.TIME, but is '\.\./other'. Delete it"):
        drive(store, files={})
    assert set(RUN) < set(store.list())
