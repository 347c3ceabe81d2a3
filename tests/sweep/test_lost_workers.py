"""Lost workers and places for trials on a cluster that changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.execution.runners import trial_slots
from whale_ray.sweep.execution.runners.lost_workers import WorkerLosses, node_of_loss
from whale_ray.sweep.execution.runners.trial_slots import TrialSlots, count_places
from whale_ray.sweep.execution.runners.tune_search import QueueSearcher


class Probe:
    def __init__(self, *states: bool | None) -> None:
        self._states = list(states)

    def is_node_alive(self) -> bool | None:
        return self._states.pop(0)


def test_a_loss_on_a_living_node_counts_and_the_last_one_fails_the_trial() -> None:
    losses = WorkerLosses(limit=3, probe=lambda node: Probe(True))
    found = []
    for _ in range(3):
        losses.record("a", node="n1")
        found += losses.settle()
    assert found == [("a", True), ("a", True), ("a", False)]


def test_a_loss_with_its_node_never_counts_and_is_settled_only_when_the_node_is_known_to_be_gone() -> None:
    losses = WorkerLosses(limit=1, probe=lambda node: Probe(None, None, False))
    for _ in range(5):
        losses.record("a", node="gone")
        assert [list(losses.settle()) for _ in range(4)] == [[], [], [("a", True)], []]


def test_a_loss_without_a_known_node_counts() -> None:
    losses = WorkerLosses(limit=1, probe=lambda node: Probe(False))
    losses.record("a", node=None)
    assert list(losses.settle()) == [("a", False)]


def test_the_node_of_a_loss_is_that_of_ray_trains_worker_or_of_the_heartbeat(tmp_path: Path) -> None:
    assert node_of_loss(tmp_path, "actor died") is None
    (tmp_path / "alive").write_text(json.dumps({"pid": 1, "node": "ab12"}))
    assert node_of_loss(tmp_path, "actor died") == "ab12"
    assert node_of_loss(tmp_path, "ActorMetadata(hostname='vm', node_id='cd34', pid=2)") == "cd34"


@pytest.mark.parametrize(
    ("nodes", "share", "workers", "places"),
    [
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 1, 2),
        ([{"CPU": 1.0}], {"CPU": 0.1}, 1, 10),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}], {"CPU": 1.0, "GPU": 0.5}, 1, 2),
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}], {"CPU": 1.0, "GPU": 1.0}, 2, 2),
        ([{"CPU": 32.0}, {"CPU": 32.0}], {"CPU": 64.0}, 1, 0),
        ([], {"CPU": 1.0, "GPU": 0.0}, 1, 0),
    ],
)
def test_places_are_counted_node_by_node(
    nodes: list[dict[str, float]], share: dict[str, float], workers: int, places: int
) -> None:
    assert count_places(nodes, share, workers=workers) == places


def test_a_cluster_without_a_gpu_yet_is_waited_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([[{"CPU": 2.0}]] * 3 + [[{"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}]] * 9)
    monkeypatch.setattr(trial_slots, "_alive_nodes", lambda left_out: next(seen))
    monkeypatch.setattr(trial_slots, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(TrialSlots, "_ask_for", lambda slots, trials: None)
    stopping, said = threading.Event(), list[str]()
    monkeypatch.setattr(stopping, "wait", lambda seconds: False)
    TrialSlots({"CPU": 1.0, "GPU": 1.0}, workers=1).wait_for_one(minutes=5, say=said.append, stopping=stopping)
    assert said == ["waiting up to 5 minutes for nodes: it wants 1 GPU where the cluster has 0, at most 0 on a node"]


def test_without_a_wait_a_trial_that_does_not_fit_is_refused_with_the_setting_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial_slots, "_alive_nodes", lambda left_out: [{"CPU": 2.0}])
    slots = TrialSlots({"CPU": 1.0}, workers=4)
    with pytest.raises(InputError, match=r"each of 4 workers wants 1 CPU where .*set resources.wait_minutes"):
        slots.wait_for_one(minutes=0, say=print, stopping=threading.Event())


def test_losses_are_settled_when_tune_asks_for_a_trial_since_it_calls_nothing_else_while_none_runs() -> None:
    searcher, stopping, settled = QueueSearcher.__new__(QueueSearcher), threading.Event(), list[str]()
    stopping.set()
    searcher.__dict__ |= {"_settle": lambda: settled.append("now"), "_stopping": stopping}
    assert searcher.suggest("any") == "FINISHED"
    assert settled == ["now"]


@pytest.mark.parametrize(("places", "alone", "wanted"), [(3, False, 3), (5, False, 5), (5, True, 2)])
def test_no_more_trials_are_proposed_than_places_and_none_while_one_waits_for_a_whole_gpu(
    places: int, alone: bool, wanted: int
) -> None:
    names = [f"t{number}" for number in range(9)]
    running: set[str] = set()
    queue = Mock(awaits_whole_gpu=False, running=running)

    def upcoming() -> Iterator[str]:
        for name in names:
            running.add(name)
            queue.awaits_whole_gpu = alone and name == "t1"
            yield name

    searcher = QueueSearcher.__new__(QueueSearcher)
    searcher.__dict__ |= {"_settle": Mock(), "_stopping": threading.Event(), "_store": Mock(queue=queue)}
    searcher.__dict__ |= {"_slots": Mock(left_out=()), "_gate": Mock(), "_ids": upcoming()}
    searcher._slots.count.return_value = places
    searcher._gate.is_full.return_value = False
    searcher._store.index.trial_folder.side_effect = Path
    proposed = [searcher.suggest("any") for _ in range(8)]
    assert [one["trial"] for one in proposed if isinstance(one, dict)] == names[:wanted]
    assert proposed[wanted:] == [None] * (8 - wanted)
