"""A trial with several workers as its own process sees it: the channel and Ray Train only pretend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from run_store_files import store_on_disk, use_empty_cache, write_files

from whale_ray.sweep.run_folder.records import read_record
from whale_ray.sweep.run_store.driver_run_folder import RemoteRun
from whale_ray.sweep.trials.distributed import distributed_run
from whale_ray.sweep.trials.distributed.distributed_run import DistributedRun, WorkerLostError, _train_as_first

SETTINGS = '{"kind": "trial", "point": {}, "settings": {}}'
RESULT = ("result", {"result": {"epochs": 3}, "earlier_seconds": 1.0})


class Training:
    """Ray Train, which has ended with an error; counts how often it was waited for."""

    joined = 0

    def __init__(self, *_: object, **__: object) -> None:
        self.start = lambda: None

    def is_alive(self) -> bool:
        return False

    def join(self) -> None:
        Training.joined += 1

    def raise_error(self) -> None:
        raise WorkerLostError("a worker was lost")


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the channel answers, one after the other; an error is raised."""
    found: list[Any] = []

    def get(message: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return message

    channel = SimpleNamespace(
        receive=SimpleNamespace(remote=lambda seconds: found.pop(0) if found else None),
        answer=SimpleNamespace(remote=lambda may_continue: None),
    )
    monkeypatch.setattr(distributed_run, "open_channel", lambda trial: ("channel", channel))
    monkeypatch.setattr(distributed_run, "_TrainingThread", Training)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(Training, "joined", 0)
    return found


def run() -> dict[str, Any]:
    context: Any = SimpleNamespace(read_settings=lambda trial: ("trial", {}), workers=2, worker_resources={"CPU": 1.0})
    return DistributedRun("0a", context, on_batch=lambda: None).run(lambda row: None)


def test_a_worker_that_is_lost_after_the_result_costs_nothing(messages: list[Any]) -> None:
    messages += [RESULT]
    assert run() == {"epochs": 3}
    assert Training.joined == 1


def test_a_worker_that_is_lost_before_the_result_is_a_lost_worker(messages: list[Any]) -> None:
    messages += [("beat", None)]
    with pytest.raises(WorkerLostError, match="a worker was lost"):
        run()


def test_a_channel_that_is_killed_is_a_lost_worker_and_no_failed_trial(messages: list[Any]) -> None:
    messages += [("beat", None), RayActorError()]
    with pytest.raises(WorkerLostError, match="the channel to the workers is lost"):
        run()
    assert Training.joined == 1


@dataclass
class Context:
    """What the first worker needs of the context of a sweep."""

    folder: Path
    remote: RemoteRun

    def trial_folder(self, trial: str) -> Path:
        return self.folder / "trials" / trial


@pytest.mark.parametrize(("schedule", "is_kept"), [("cosine", False), ("constant", True)])
def test_the_store_has_the_training_state_of_an_ended_trial_only_if_a_longer_one_can_continue_from_it(
    schedule: str, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker is on another node than the trial's process, and neither sees the folder of the driver."""
    use_empty_cache(tmp_path, monkeypatch)
    store = store_on_disk(tmp_path)
    write_files(Path(store.url.removeprefix("file://")), {"trials/0a/settings.json": SETTINGS})
    remote = RemoteRun(store.url, "session", tmp_path / "not_here")
    monkeypatch.setattr(distributed_run, "own_places", lambda: "")
    monkeypatch.setattr(ray, "get", lambda value: value)
    sent: list[Any] = []
    channel = SimpleNamespace(
        send=SimpleNamespace(remote=lambda kind, value: sent.append((kind, value))),
        wait_for_answer=SimpleNamespace(remote=lambda: True),
    )

    def prepare(context: Any, on_batch: object) -> Any:
        def train(report: Any) -> dict[str, Any]:
            files = {"state.pt": "state", "encoder.safetensors": "weights"}
            write_files(context.trial_folder("0a") / "checkpoint", files)
            report({"epoch": 1})
            return {"epochs": 1, "recall@1": 0.5}

        return SimpleNamespace(run=train, settings={"train": {"schedule": schedule}}, earlier_seconds=0.0)

    context: Any = Context(remote.folder, remote)
    _train_as_first("0a", context, ("channel", channel), prepare)
    names = {key.removeprefix("trials/0a/") for key in store.list("trials/0a")}
    assert {"result.json", "checkpoint/encoder.safetensors"} <= names
    assert ("checkpoint/state.pt" in names) is is_kept
    record = read_record(Path(store.url.removeprefix("file://")) / "trials" / "0a")
    assert record.status == "finished"  # if the trial's process is lost now, the trial is not trained again
    assert sent[-1][0] == "result"
