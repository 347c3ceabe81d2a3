"""Lost workers and places for trials on a cluster that changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from whale_ray.errors import InputError
from whale_ray.sweep.execution.cluster import trial_slots
from whale_ray.sweep.execution.cluster.lost_workers import WorkerLosses, node_of_loss
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots, count_places
from whale_ray.sweep.execution.runners.tune_callback import SweepCallback
from whale_ray.sweep.execution.runners.tune_search import QueueSearcher
from whale_ray.sweep.planning.trial_points import first_settings

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep


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


@pytest.mark.parametrize("stops", [False, True])
def test_a_sweep_that_ends_asks_for_no_more_nodes(stops: bool) -> None:
    callback, stopping = SweepCallback.__new__(SweepCallback), threading.Event()
    callback.__dict__ |= {"_slots": Mock(), "_stopping": stopping, "_store": Mock(), "_losses": Mock()}
    callback._losses.settle.return_value = []
    callback._admission, callback._groups, callback._events = Mock(settle=list), Mock(), Mock()
    callback._store.queue = Mock(count_waiting=lambda: 7, running={"a", "b"})
    if stops:
        stopping.set()
    callback.settle()
    (waiting,) = callback._slots.update_demand.call_args.args
    assert waiting() == (0 if stops else 7)
    assert callback._slots.update_demand.call_args.kwargs == {"running": 2}


@pytest.mark.parametrize(("can_grow", "running", "wanted"), [(True, 2, [5]), (False, 2, []), (True, 1, [0])])
def test_trials_that_wait_are_demand_on_a_cluster_that_may_grow_while_no_place_is_free(
    can_grow: bool, running: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_slots, "_alive_nodes", lambda left_out: [{"CPU": 2.0}])
    asked: list[int] = []
    monkeypatch.setattr(TrialSlots, "_ask_for", lambda slots, trials: asked.append(trials))
    slots = TrialSlots({"CPU": 1.0}, workers=1, can_grow=can_grow)
    slots._demand = ["a demand that was met"] if can_grow else []
    for _ in range(2):
        slots.update_demand(lambda: 5, running=running)
    assert asked[:1] == wanted


def test_demand_that_was_met_is_withdrawn_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next of it could take the place before a trial does."""
    states: dict[str, str] = {}

    def ask(bundles: list[dict[str, float]]) -> str:
        states[name := f"g{len(states)}"] = "PENDING"
        return name

    groups = import_module("ray.util.placement_group")  # `ray.util.placement_group` is also a function
    monkeypatch.setattr(groups, "placement_group", ask)
    monkeypatch.setattr(groups, "placement_group_table", lambda group: {"state": states[group]})
    monkeypatch.setattr(groups, "remove_placement_group", lambda group: states.update({group: "REMOVED"}))
    slots = TrialSlots({"CPU": 1.0}, workers=1, can_grow=True)
    for trials, pending in ((3, 3), (20, 16), (2, 2)):
        slots._ask_for(trials)
        assert list(states.values()).count("PENDING") == pending
    states[slots._demand[0]] = "CREATED"
    slots._ask_for(2)
    assert set(states.values()) == {"REMOVED"}
    slots._ask_for(2)
    assert list(states.values()).count("PENDING") == 2


def test_losses_are_settled_when_tune_asks_for_a_trial_since_it_calls_nothing_else_while_none_runs() -> None:
    searcher, stopping, settled = QueueSearcher.__new__(QueueSearcher), threading.Event(), list[str]()
    stopping.set()
    searcher.__dict__ |= {"_settle": lambda: settled.append("now"), "_stopping": stopping}
    assert searcher.suggest("any") == "FINISHED"
    assert settled == ["now"]


@pytest.mark.parametrize(("places", "alone", "wanted"), [(3, False, 3), (5, False, 5), (5, True, 2)])
def test_no_more_trials_are_proposed_than_places_and_none_while_one_waits_for_a_whole_gpu(
    places: int, alone: bool, wanted: int, write_sweep: Callable[..., Sweep]
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
    searcher.__dict__ |= {"_slots": Mock(left_out=()), "_gate": Mock(), "_ids": upcoming(), "_order": Mock()}
    searcher._slots.count.return_value = places
    searcher._gate.is_full.return_value = False
    searcher._store.index.trial_folder.side_effect = Path
    searcher._store.index.get.return_value = Mock(settings=first_settings(write_sweep()))
    proposed = [searcher.suggest("any") for _ in range(8)]
    assert [one["trial"] for one in proposed if isinstance(one, dict)] == names[:wanted]
    assert proposed[wanted:] == [None] * (8 - wanted)
