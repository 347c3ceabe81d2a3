"""Simulates decodes and duration of a grid on several nodes, with and without the order by the nodes' caches.

The decisions are those of the sweep; clock, nodes and durations are simulated, so that many nodes need no machine.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from itertools import product
from statistics import fmean
from types import SimpleNamespace
from typing import Annotated

import paired_timing
import typer

from whale_ray.sweep.execution.cluster.cache_aware_order import CacheAwareOrder
from whale_ray.sweep.planning.search_space import next_in_order
from whale_ray.sweep.planning.trial_points import Caches

CLUSTERS = ((3, 1), (8, 1), (3, 2), (8, 2), (3, 4), (8, 4), (2, 8), (8, 8))


def simulate(
    nodes: int, places: int, geometries: int, rates: int, *, decode: float, train: float, seed: int, placed: bool
) -> tuple[int, float]:
    """Return the number of decodes and the seconds of a grid in which the geometry varies slowest.

    Args:
        nodes: Number of nodes.
        places: Places for trials on each node.
        geometries: Geometries of the grid.
        rates: Trials of each geometry.
        decode: Seconds in which a node decodes one geometry; other trials that need it wait.
        train: Seconds of a trial, give or take a tenth.
        seed: Seed of durations and of the places of the first trials.
        placed: Choose as the sweep does; otherwise in the order of the grid.
    """
    rng = random.Random(seed)
    # One place, since the sweep itself does not place trials on nodes with many.
    order = CacheAwareOrder(SimpleNamespace(by_node=lambda: [1] * nodes, left_out=set()))  # type: ignore[arg-type]
    choose = order.choose if placed else next_in_order
    waiting: Counter[Caches] = Counter({(f"g{number}",): rates for number in range(geometries)})
    decoded_at: dict[tuple[str, Caches], float] = {}
    cores_free: dict[str, float] = defaultdict(float)
    running: list[tuple[float, str, str]] = []
    now = 0.0

    def hand_out(name: str) -> Caches:
        caches = choose({one: count for one, count in waiting.items() if count})
        waiting[caches] -= 1
        order.hand_out(name, caches)
        return caches

    def start(name: str, node: str, caches: Caches) -> None:
        if (node, caches) not in decoded_at:  # a node decodes one geometry at a time, with all of its cores
            cores_free[node] = decoded_at[node, caches] = max(now, cores_free[node]) + decode
        ready = max(now, decoded_at[node, caches])
        heapq.heappush(running, (ready + train * rng.uniform(0.9, 1.1), name, node))

    free = [f"n{number}" for number in range(nodes) for _ in range(places)]
    rng.shuffle(free)
    first = [hand_out(f"t{number}") for number in range(min(len(free), waiting.total()))]
    for number, caches in enumerate(first):
        start(f"t{number}", free[number], caches)
    count = len(first)
    while running:
        now, name, node = heapq.heappop(running)
        order.record_node(name, node)
        order.end(name)
        if waiting.total():
            start(f"t{count}", node, hand_out(f"t{count}"))
            count += 1
    return len(decoded_at), now


def main(
    decode: Annotated[float, typer.Option(help="Seconds in which a node decodes one geometry.")] = 300.0,
    train: Annotated[float, typer.Option(help="Seconds of a trial.")] = 600.0,
    geometries: Annotated[int, typer.Option(help="Geometries of the grid.")] = 3,
    seeds: Annotated[int, typer.Option(help="Simulations of each grid.")] = 3,
) -> None:
    """Print decodes and the length of a sweep, over grids of 5 to 30 trials per place and geometry."""
    rows = []
    for nodes, places in CLUSTERS:
        runs = []
        for rates, seed in product(range(5 * places, 30 * places, max(1, 3 * places - 1)), range(seeds)):
            size = (nodes, places, geometries, rates)
            runs.append([simulate(*size, decode=decode, train=train, seed=seed, placed=one) for one in (False, True)])
        counts = [fmean(run[one][0] for run in runs) for one in (0, 1)]
        ratios = [placed[1] / ordered[1] for ordered, placed in runs]
        lengths = (fmean(ratios), min(ratios), max(ratios))
        rows.append([f"{nodes} of {places}", *(f"{one:.1f}" for one in counts), *(f"{one:.3f}" for one in lengths)])
    heads = ["nodes of places", "decodes, grid order", "placed", "length, placed / grid order", "smallest", "largest"]
    paired_timing.print_table(heads, rows)


if __name__ == "__main__":
    typer.run(main)
