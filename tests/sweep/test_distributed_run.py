"""A trial with several workers as its own process sees it: the channel and Ray Train only pretend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from whale_ray.sweep.trials.distributed import distributed_run
from whale_ray.sweep.trials.distributed.distributed_run import DistributedRun, WorkerLostError

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
