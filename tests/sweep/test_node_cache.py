"""Caches of run folders on nodes: another run, trials that ran elsewhere since, files that were not uploaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_store_files import use_empty_cache, write_files

from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.execution.driver import run_sweep
from whale_ray.sweep.execution.runners import sweep_session
from whale_ray.sweep.run_store import publisher, trial_files
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun, opened_runs
from whale_ray.sweep.run_store.run_download import mirror_folder
from whale_ray.sweep.run_store.trial_claim import TrialClaim
from whale_ray.sweep.run_store.trial_files import published_trial

T = "trials/1"
RESULT = f"{T}/result.json"
STATE = f"{T}/checkpoint/state.pt"
SETTINGS = {"sweep.yaml": "name: a", f"{T}/settings.json": "{}"}
FAILED = {RESULT: '{"status": "failed"}', STATE: "epoch 3", f"{T}/traceback.txt": "Error"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return the function that changes to the cache of another machine."""
    use_empty_cache(tmp_path, monkeypatch)
    return lambda name: monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / name))


def drive(store: ObjectStore, *, run: str, files: dict[str, str], fresh: bool = False) -> list[str]:
    """Run a driver on this machine that writes these files, and return what it has said."""
    said: list[str] = []
    runs = store.url.rpartition("/")[0]
    with opened_runs(runs, "little", fresh=fresh, say=said.append, stopping=threading.Event()) as opened:
        write_files(opened.folder / "little", {"identity.json": json.dumps({"id": run})} | files)
    return said


def train(store: ObjectStore, files: dict[str, str], *, remote: RemoteRun | None = None) -> dict[str, str]:
    """Run a worker of the trial on this machine that writes these files, and return those that it has found."""
    remote = remote or RemoteRun(store.url, "session", Path("/not_here"))
    with published_trial(remote, remote.folder, "1", lambda figures: None) as place:
        found = cached(store)
        write_files(place.folder, files)
        place.report({"done": True})
    return found


def cached(store: ObjectStore) -> dict[str, str]:
    """Return the texts of the trial's files on this machine."""
    folder = mirror_folder(store.url)
    paths = (path for path in (folder / T).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def delete(store: ObjectStore, *keys: str) -> None:
    for key in keys:
        store.delete(key)


def refuse_uploads(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: ObjectStore, path: Path, key: str) -> Any:
        raise OSError("gone")

    patch.setattr(ObjectStore, "upload", refuse)
    patch.setattr(trial_files, "WAIT_SECONDS", 0.0)


def retry_failed(store: ObjectStore) -> None:
    delete(store, RESULT, f"{T}/traceback.txt")


def begin_afresh(store: ObjectStore) -> None:
    drive(store, run="second", files=SETTINGS, fresh=True)


def begin_after_deletion(store: ObjectStore) -> None:
    delete(store, *store.list())
    drive(store, run="second", files=SETTINGS)


@pytest.mark.parametrize(
    ("begin_again", "left"),
    [(retry_failed, {STATE: "epoch 3"}), (begin_afresh, {}), (begin_after_deletion, {})],
)
def test_a_trial_that_is_to_run_again_finds_no_result_where_it_ran_before(
    store: ObjectStore, machine: Callable[[str], None], begin_again: Callable[[ObjectStore], None], left: dict[str, str]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    machine("node")
    train(store, FAILED)
    assert store.read(RESULT) == FAILED[RESULT].encode()
    machine("other_driver")
    begin_again(store)
    machine("node")
    assert train(store, {}) == {f"{T}/settings.json": "{}"} | left
    assert RESULT not in store.list()


@pytest.mark.parametrize("begin_again", [retry_failed, begin_afresh, begin_after_deletion])
def test_a_trial_that_is_to_run_again_finds_no_result_on_the_machine_of_an_earlier_driver(
    store: ObjectStore, machine: Callable[[str], None], begin_again: Callable[[ObjectStore], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS | FAILED)
    machine("other_driver")
    begin_again(store)
    machine("driver")
    assert RESULT not in train(store, {})
    assert RESULT not in store.list()


@pytest.mark.parametrize("begin_again", [retry_failed, begin_afresh])
def test_a_driver_publishes_no_old_result_of_a_trial_that_ran_on_its_machine(
    store: ObjectStore, machine: Callable[[str], None], begin_again: Callable[[ObjectStore], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    machine("node")
    train(store, FAILED)
    machine("other_driver")
    begin_again(store)
    current = store.read("identity.json")
    machine("node")
    drive(store, run=json.loads(current)["id"], files={})
    assert RESULT not in store.list()
    assert f"{T}/settings.json" in store.list()


def test_a_driver_restores_no_deleted_run_from_a_cache_of_single_trials(
    store: ObjectStore, machine: Callable[[str], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    machine("node")
    train(store, FAILED)
    delete(store, *store.list())
    drive(store, run="second", files={"sweep.yaml": "name: a"})
    assert set(store.list()) == {"identity.json", "sweep.yaml"}


def test_a_driver_whose_files_are_of_another_run_keeps_them_under_another_name(
    store: ObjectStore, machine: Callable[[str], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS | FAILED)
    machine("other_driver")
    begin_afresh(store)
    machine("driver")
    (line,) = [line for line in drive(store, run="second", files={}) if "another run" in line]
    assert RESULT not in store.list()
    assert (Path(line.rpartition(" ")[2]) / RESULT).read_text() == FAILED[RESULT]


def train_beyond_the_store(store: ObjectStore, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train an epoch on a node, and the last one while the store takes no files."""
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    machine("node")
    train(store, {STATE: "epoch 1"})
    with monkeypatch.context() as patch:
        refuse_uploads(patch)
        train(store, {STATE: "epoch 2", RESULT: "finished"})


@pytest.mark.parametrize("elsewhere", [False, True])
def test_files_that_could_not_be_uploaded_count_until_another_worker_has_the_trial(
    store: ObjectStore, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    train_beyond_the_store(store, machine, monkeypatch)
    if elsewhere:
        machine("other_node")
        assert train(store, {})[STATE] == "epoch 1"
        machine("node")
    found = train(store, {})
    assert (found[STATE], RESULT in found) == (("epoch 1", False) if elsewhere else ("epoch 2", True))
    assert (store.read(STATE), RESULT in store.list()) == (found[STATE].encode(), RESULT in found)
    assert not any(key.endswith(".worker") for key in store.list())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_driver_publishes_what_a_worker_on_its_machine_could_not_upload(
    store: ObjectStore, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    train_beyond_the_store(store, machine, monkeypatch)
    if elsewhere:
        machine("other_node")
        train(store, {})
        machine("node")
    drive(store, run="first", files={})
    assert store.read(STATE) == (b"epoch 1" if elsewhere else b"epoch 2")
    assert (RESULT in store.list()) == (not elsewhere)


def test_an_emptied_store_gets_the_trials_that_ran_beside_an_earlier_driver(
    store: ObjectStore, machine: Callable[[str], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    train(store, FAILED)
    delete(store, *store.list())
    drive(store, run="first", files={})
    assert {key: store.read(key).decode() for key in FAILED} == FAILED


def test_the_first_of_several_workers_keeps_what_it_could_not_upload_before(
    store: ObjectStore, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial's own process takes the claim on one node and passes it on to the first worker on another one."""
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    for content in ("epoch 1", "epoch 2"):
        machine("node_of_the_process")
        remote = RemoteRun(store.url, "session", Path("/not_here"))
        with published_trial(remote, remote.folder, "1", lambda figures: None, trains=False) as place:
            machine("node_of_the_worker")
            with monkeypatch.context() as patch:
                refuse_uploads(patch)
                found = train(store, {STATE: content}, remote=place.remote)
        store.write(f"{T}/.worker", (place.remote or remote).claim.encode())  # as if the process had been killed
    assert found[STATE] == "epoch 1"


def test_failed_results_are_deleted_in_the_store_before_their_trials_begin_again(
    store: ObjectStore, write_sweep: Callable[[], Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrialsBeginError(Exception):
        pass

    def begin_trials(*arguments: Any, **options: Any) -> None:
        assert {RESULT, f"{T}/traceback.txt"}.isdisjoint(store.list())
        raise TrialsBeginError

    monkeypatch.setattr(publisher, "EVERY_SECONDS", 1000.0)
    for name in ("check_inputs", "prepare_dataset", "keep_earlier_grouping"):
        monkeypatch.setattr(sweep_session, name, lambda sweep, *arguments: sweep)
    monkeypatch.setattr(sweep_session, "gather_local_evidence", begin_trials)
    record = {"kind": "trial", "point": {}, "settings": {}}
    drive(store, run="first", files=SETTINGS | {f"{T}/settings.json": json.dumps(record)} | FAILED)
    with pytest.raises(TrialsBeginError):
        run_sweep(write_sweep(), runs=store.url.rpartition("/")[0], retry_failed=True, in_process=True)


def test_a_claim_remembers_the_worker_from_which_it_was_taken_after_an_error(store: ObjectStore) -> None:
    first, second = TrialClaim(store, f"{T}/"), TrialClaim(store, f"{T}/")
    first.take()
    second.take()
    second.take()
    assert (first.previous, second.previous) == ("", first.token)


def test_a_worker_of_an_old_run_publishes_nothing_into_a_new_one_without_its_trial(
    store: ObjectStore, machine: Callable[[str], None]
) -> None:
    machine("driver")
    drive(store, run="first", files=SETTINGS)
    machine("node")
    remote = RemoteRun(store.url, "session", Path("/not_here"))
    with published_trial(remote, remote.folder, "1", lambda figures: None) as place:
        machine("driver")
        drive(store, run="second", files={"sweep.yaml": "name: a"}, fresh=True)
        write_files(place.folder, {STATE: "epoch 1"})
    assert set(store.list()) == {"identity.json", "sweep.yaml"}
