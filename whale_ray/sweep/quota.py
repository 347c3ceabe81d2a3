"""Which finished trials keep their weights: the best ones, of each objective.

Knows the leaderboard and the sweep's settings; touches no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import pandas as pd

from whale_ray.sweep.spec import Sweep


def kept_weights(table: pd.DataFrame, sweep: Sweep) -> set[str]:
    """The trials of this leaderboard whose weights the quota keeps.

    With two objectives the best of both: the winner by the other one is deployed once `prefer` has changed.
    """
    finished = table[table["status"] == "finished"]
    orders = [finished["trial"].tolist()]
    for name in (sweep.objective, sweep.also):
        if name is not None and name != sweep.ranked_by:
            orders.append(finished.sort_values(name, ascending=name == sweep.also)["trial"].tolist())
    return set(first_in_turn(orders, sweep.fixed["keep_checkpoints"]))


def first_in_turn(orders: Sequence[Sequence[str]], count: int) -> list[str]:
    """`count` names, taken from the `orders` in turn, each once.

    >>> first_in_turn([["a", "b", "c"], ["c", "a", "b"]], 3)
    ['a', 'c', 'b']
    """
    in_turn = [name for places in zip_longest(*orders) for name in places if name is not None]
    return list(dict.fromkeys(in_turn))[:count]
