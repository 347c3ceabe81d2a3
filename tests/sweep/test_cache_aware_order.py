"""Placement of trials: a node whose place is free gets a trial whose photographs it has decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from whale_ray.sweep.execution.cluster.cache_aware_order import CacheAwareOrder
from whale_ray.sweep.planning.search_space import PointList, next_in_order
from whale_ray.sweep.planning.trial_points import Caches, caches_of, grid_points

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep

SMALL, MIDDLE, LARGE = (("small",), ("middle",), ("large",))


def placed_on(*places: int, left_out: tuple[str, ...] = ()) -> CacheAwareOrder:
    return CacheAwareOrder(SimpleNamespace(by_node=lambda: list(places), left_out=set(left_out)))  # type: ignore[arg-type]


def run(order: CacheAwareOrder, waiting: Counter[Caches], nodes: list[str], *, seconds: dict[str, int]) -> list[Any]:
    """Hand out all trials to nodes with one place each; return (node, caches) of each in the order of their starts."""
    started: list[tuple[str, Caches]] = []
    busy: dict[str, tuple[int, str]] = {}
    now = 0

    def start(node: str) -> None:
        caches = order.choose({one: count for one, count in waiting.items() if count})
        waiting[caches] -= 1
        name = f"t{len(started)}"
        order.hand_out(name, caches)
        started.append((node, caches))
        busy[node] = now + seconds[node], name

    for node in nodes:
        start(node)
    while busy:
        node = min(busy, key=lambda one: busy[one])
        now, name = busy.pop(node)
        order.record_node(name, node)
        order.end(name)
        if waiting.total():
            start(node)
    return started


def test_each_node_decodes_one_of_three_geometries_of_a_grid() -> None:
    waiting = Counter({SMALL: 4, MIDDLE: 4, LARGE: 4})
    started = run(placed_on(1, 1, 1), waiting, ["a", "b", "c"], seconds={"a": 10, "b": 11, "c": 12})
    assert len(started) == 12
    assert set(started) == {("a", SMALL), ("b", MIDDLE), ("c", LARGE)}


def test_a_node_that_has_nothing_left_decodes_another_geometry_instead_of_waiting() -> None:
    waiting = Counter({SMALL: 6, LARGE: 6})
    started = run(placed_on(1, 1), waiting, ["fast", "slow"], seconds={"fast": 1, "slow": 5})
    assert Counter(node for node, _ in started) == {"fast": 10, "slow": 2}
    assert set(started) == {("fast", SMALL), ("slow", LARGE), ("fast", LARGE)}


def test_two_nodes_that_need_another_geometry_at_the_same_time_decode_different_ones() -> None:
    order = placed_on(1, 1)
    for name, node in (("t1", "a"), ("t2", "b")):
        order.hand_out(name, SMALL)
        order.record_node(name, node)
        order.end(name)
    chosen = []
    for name in ("t3", "t4"):
        chosen.append(order.choose({MIDDLE: 4, LARGE: 4}))
        order.hand_out(name, chosen[-1])
    assert set(chosen) == {MIDDLE, LARGE}


def test_more_nodes_than_geometries_share_them_evenly() -> None:
    waiting = Counter({SMALL: 8, LARGE: 8})
    seconds = {"a": 10, "b": 11, "c": 12, "d": 13}
    started = run(placed_on(1, 1, 1, 1), waiting, list(seconds), seconds=seconds)
    assert Counter(caches for _, caches in started[:4]) == {SMALL: 2, LARGE: 2}
    assert len(set(started)) == 4


def test_places_of_the_same_node_share_what_it_decodes() -> None:
    order = placed_on(2, 2)
    for name, node, caches in (("t1", "a", SMALL), ("t2", "b", LARGE)):
        order.hand_out(name, caches)
        order.record_node(name, node)
    order.end("t1")
    assert order.choose({SMALL: 1, LARGE: 9}) == SMALL


@pytest.mark.parametrize("places", [(2, 0), (8, 8)])
def test_trials_of_one_node_and_of_nodes_with_many_places_keep_their_order(places: tuple[int, ...]) -> None:
    order = placed_on(*places)
    order.hand_out("t1", SMALL)
    order.record_node("t1", "a")
    order.end("t1")
    assert order.choose({LARGE: 1, SMALL: 9}) == LARGE


@pytest.mark.parametrize("fate", ["lost", "left out"])
def test_a_node_without_its_worker_gets_no_trial_for_its_cache(fate: str) -> None:
    order = placed_on(1, 1, left_out=("a",) if fate == "left out" else ())
    order.hand_out("t1", SMALL)
    order.record_node("t1", "a")
    order.end("t1", is_lost=fate == "lost")
    assert order.choose({LARGE: 9, SMALL: 1}) == LARGE


def test_features_of_a_frozen_trunk_attract_its_trials() -> None:
    plain, frozen = ("small",), ("small", ("small", "resnet18"))
    order = placed_on(1, 1)
    order.hand_out("t1", frozen)
    order.record_node("t1", "a")
    order.end("t1")
    assert order.choose({("large",): 9, ("small", ("small", "vit")): 9, frozen: 1}) == frozen
    assert order.choose({("large",): 9, ("small", ("small", "vit")): 9, plain: 1}) == plain


AXES = (
    "train.learning_rate=[0.001, 0.002]",
    "data.image_size=[32x64, 48x96]",
    "train.affine=[0.0, 0.1, 0.2]",
    "loss.name=arcface",
)


def test_the_caches_of_a_trial_are_its_geometry_and_the_features_of_a_frozen_trunk(
    write_sweep: Callable[..., Sweep],
) -> None:
    sweep = write_sweep(*AXES, "model.freeze=[none, trunk]", "model.weights=random")
    found = Counter(caches_of(sweep.settings(point)) for point in grid_points(sweep.axes))
    geometries = Counter(caches[0] for caches in found.elements())
    assert sorted((one.height, one.margin, count) for one, count in geometries.items()) == [
        *((32, 0.0, 4), (32, 0.125, 8)),
        *((48, 0.0, 4), (48, 0.125, 8)),
    ]
    assert Counter(len(caches) for caches in found) == {1: 4, 2: 4}


def test_points_of_a_grid_come_in_its_order_or_in_that_of_the_chosen_caches(write_sweep: Callable[..., Sweep]) -> None:
    sweep = write_sweep(*AXES)
    cells = list(grid_points(sweep.axes))
    known = cells[3]

    def taken(choose: Any) -> list[Any]:
        points = PointList(cells, sweep, known.__eq__)
        return list(iter(lambda: points.take(choose), None))

    assert taken(next_in_order) == [cell for cell in cells if cell != known]
    seen: list[dict[Caches, int]] = []
    backwards = taken(lambda waiting: seen.append(dict(waiting)) or list(waiting)[-1])
    assert list(seen[0].values()) == [2, 4, 2, 4]
    assert sorted(backwards, key=cells.index) == taken(next_in_order)
    for caches in seen[0]:
        own = [point for point in backwards if caches_of(sweep.settings(point)) == caches]
        assert own == sorted(own, key=cells.index), "points with the same caches keep their order"


@pytest.mark.parametrize("strategy", ["optuna", "random"])
def test_a_search_draws_the_same_points_wherever_its_trials_run(
    strategy: str, write_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    from whale_ray.sweep.planning.optuna_study import Study

    sweep = write_sweep(*AXES, f"search.strategy={strategy}", "search.trials=6")
    found = []
    for place, choose in enumerate((next_in_order, lambda waiting: list(waiting)[-1])):
        study = Study(sweep, tmp_path / f"{place}.db", begun=(), known=lambda point: False)
        found.append([study.ask(choose) for _ in range(6)])
    assert found[0] == found[1]
