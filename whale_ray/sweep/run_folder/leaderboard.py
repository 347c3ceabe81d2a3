"""Leaderboard of a run: trials ranked by the objective, and the choice of trials that keep their weights."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.csv_cells import as_cell
from whale_ray.sweep.config.schema.search_settings import SPEED
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.run_folder.records import SCORES, SCORES_OVER_INDIVIDUALS, Record


def kept_weights(table: pd.DataFrame, sweep: Sweep, *, collapsed: Container[str] = ()) -> set[str]:
    """Return the trials whose weights are kept, at most `keep_checkpoints`.

    With two objectives, the best trials of both: the winner by the other one is deployed after `prefer` changes.

    Args:
        table: The leaderboard.
        sweep: The sweep.
        collapsed: Trials that cannot become a bundle: their weights are kept only in place of no others.
    """
    finished = table[table["status"] == "finished"]
    orders = [finished["trial"].tolist()]
    for name in (sweep.objective, sweep.also):
        if name is not None and name != sweep.ranked_by:
            orders.append(finished.sort_values(name, ascending=name == sweep.also)["trial"].tolist())
    in_turn = first_in_turn(orders, len(finished))
    return set(sorted(in_turn, key=lambda trial: trial in collapsed)[: sweep.fixed["keep_checkpoints"]])


def first_in_turn(orders: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return up to `count` names, taken from the orders in turn, each name once.

    Args:
        orders: Lists of names, best first.
        count: Number of names.

    >>> first_in_turn([["a", "b", "c"], ["c", "a", "b"]], 3)
    ['a', 'c', 'b']
    """
    in_turn = [name for places in zip_longest(*orders) for name in places if name is not None]
    return list(dict.fromkeys(in_turn))[:count]


_LAST = ("neighbours", "vote", "local", "epochs", "seconds", "error")


def leaderboard(
    records: Iterable[Record], *, axes: Iterable[str], objective: str, also: str | None = None
) -> pd.DataFrame:
    """Return the leaderboard: finished trials, best first, then pruned, running and failed ones.

    Trials that were repeated with other seeds come first, ranked by their mean, together with ensembles; columns
    `runs`, `<objective>_mean` and `<objective>_sd` are added. The repeats come after all other finished trials.

    Args:
        records: The trials.
        axes: Names of the axes; a column each.
        objective: A score (largest first) or SPEED (smallest first).
        also: Another column to include.

    Returns:
        A row for each trial: the columns of leaderboard.csv and `kind` (trial, baseline, repeat or ensemble).
    """
    kept = list(records)
    more = [name for name in (objective, also) if name is not None and name not in SCORES_OVER_INDIVIDUALS]
    columns = dict.fromkeys(["trial", "status", "kind", *axes, *SCORES, *_LAST, *more, *SCORES_OVER_INDIVIDUALS])
    table = pd.DataFrame([_row(record) for record in kept], columns=list(columns), dtype=object)
    score = goodness(table[objective], objective)
    order = table["status"].map({"finished": 1, "pruned": 3, "running": 4, "failed": 5})
    if (table["kind"] == "repeat").any():
        table = table.join(_over_seeds(kept, pd.to_numeric(table[objective]), objective))
        repeated = table["runs"] > 1
        score = goodness(table[f"{objective}_mean"], objective).where(repeated, score)
        leads = repeated | (table["kind"] == "ensemble")
        order = order.mask(leads & (order == 1), 0).mask((table["kind"] == "repeat") & (order == 1), 2)
    keys = {"order": order, "score": -pd.to_numeric(score).fillna(float("-inf")), "trial": table["trial"]}
    table = table.loc[pd.DataFrame(keys).sort_values(list(keys)).index].reset_index(drop=True)
    table.insert(0, "rank", range(1, len(table) + 1))
    return table


def sweep_leaderboard(records: Iterable[Record], sweep: Sweep) -> pd.DataFrame:
    """Return the leaderboard of a sweep's records, with its axes, ranked by its objective.

    Args:
        records: Trials of the sweep's run folder.
        sweep: The sweep.
    """
    axes = [axis.name for axis in sweep.axes]
    return leaderboard(records, axes=axes, objective=sweep.ranked_by, also=sweep.also)


def goodness(values: pd.Series[Any], objective: str) -> pd.Series[float]:
    """Return the values of an objective, negated for SPEED, so that the largest is the best.

    Args:
        values: Values of the objective.
        objective: Its name.
    """
    return pd.to_numeric(values) * (-1 if objective == SPEED else 1)


def _over_seeds(records: Sequence[Record], score: pd.Series[float], objective: str) -> pd.DataFrame:
    """Return runs, mean and standard deviation of the objective over finished trials that differ only in the seed."""
    same = [json.dumps({**one.settings, "seed": 0}, sort_keys=True) for one in records]
    trained = [one.status == "finished" and one.kind != "baseline" for one in records]
    groups = score.where(pd.Series(trained)).groupby(pd.Series(same))
    spread = {f"{objective}_mean": groups.transform("mean"), f"{objective}_sd": groups.transform("std")}
    return pd.DataFrame({"runs": groups.transform("count"), **spread})


def _row(record: Record) -> dict[str, Any]:
    point = record.point or {}
    return {"trial": record.trial, "status": record.status, "kind": record.kind, **point, **record.result}


def finished_trials(table: pd.DataFrame) -> list[str]:
    """Return the IDs of the finished trials of a leaderboard, best first."""
    return [str(trial) for trial in table.loc[table["status"] == "finished", "trial"]]


def read_leaderboard(run: Path) -> list[dict[str, Any]]:
    """Return the rows of leaderboard.csv, best first; an empty cell is None."""
    table = pd.read_csv(run / "leaderboard.csv", dtype={"trial": str})
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def write_leaderboard(table: pd.DataFrame, path: Path) -> None:
    """Write leaderboard.csv; an apostrophe precedes cells that a spreadsheet would run as a formula.

    Args:
        table: The leaderboard.
        path: The file.
    """
    write_atomically(path, table.drop(columns="kind").map(_as_text).to_csv(index=False))


def _as_text(cell: Any) -> Any:
    return as_cell(cell) if isinstance(cell, str) else cell
