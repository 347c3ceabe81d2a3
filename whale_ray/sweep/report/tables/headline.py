"""Headline of a run: one sentence, and a table with the best trial, baselines, ceiling and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whale_ray.retrieval.evaluation.query_clusters import nan_to_none
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES, averages_individuals, query_score
from whale_ray.sweep.analysis.trial_comparison import Comparison
from whale_ray.sweep.report.plots.curves import describe, is_share
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.trials.ensemble import KIND, MEMBERS_BY_FOLD

ABSENT = "\N{EN DASH}"
_BASELINES_SHOWN = 3

Cell = tuple[str, float | None, float | None, float | None]


@dataclass(frozen=True)
class Line:
    """A row of the table; a cell is (score name, value, low, high)."""

    title: str
    note: str
    look: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Headline:
    """The headline: `before`, `score`, `after`, the references in `beside`, and the table with its scores."""

    before: str
    score: str
    after: str
    beside: str
    scores: tuple[str, ...]
    lines: tuple[Line, ...]


def write_headline(
    records: Sequence[Record], best: Record, objective: str, *, comparison: Comparison | None, unknown_label: str
) -> Headline:
    """Return the headline of a run.

    Args:
        records: All trials, best first.
        best: The best finished trial.
        objective: Name of the score.
        comparison: If given, the quoted figure is cross-fitted over trials and over the members of an ensemble.
        unknown_label: Label of unknown individuals.
    """
    result = best.result
    value, low, high = (result.get(f"{objective}{end}") for end in ("", "_low", "_high"))
    if comparison is not None:
        value, low, high = comparison.score, comparison.low, comparison.high
    before, after = _sentence(objective)
    interval = (
        f" (95 % interval {show_score(low, objective)} to {show_score(high, objective)})" if is_number(low) else ""
    )
    study = ["study_recall@1"] if "study_recall@1" in result else []
    names = [objective, "recall@1", "map@5", *reversed(INDIVIDUAL_SCORES), *study]
    scores = tuple(dict.fromkeys(names))
    lines = [
        *_chosen_by_others(comparison, scores),
        _line("Best trial", describe(best), "c0", result, scores),
        *_baselines(records, best, scores),
        *_limits(result, scores, unknown_label),
    ]
    if not is_number(value):
        because = f"{result.get('reason') or 'it was not measured'}. The trials are in no order"
        return Headline(f"There is no figure for {objective}:", "", f"{because}.", "", scores, tuple(lines))
    beside = _beside(records, best, objective)
    ending = f"{after}{interval}.{_choice_of_members(best, is_cross_fitted=comparison is not None)}"
    return Headline(before, show_score(value, objective), ending, beside, scores, tuple(lines))


def _choice_of_members(best: Record, *, is_cross_fitted: bool) -> str:
    """Return a sentence on the queries that chose the members of an ensemble; "" for another trial."""
    if best.kind != KIND:
        return ""
    if not is_cross_fitted or MEMBERS_BY_FOLD not in best.result:
        return " Which trials it joins was chosen by all of these queries, so the score is slightly too high."
    sets = len({tuple(sorted(members)) for members in best.result[MEMBERS_BY_FOLD]})
    found = "the same members each time" if sets == 1 else f"{sets} different sets of members"
    return f" The queries of each fifth are answered by the ensemble that the other four fifths choose: {found}."


def _chosen_by_others(comparison: Comparison | None, scores: Sequence[str]) -> list[Line]:
    """Return the line of the cross-fitted scores, by query and by individual."""
    if comparison is None:
        return []
    cells = []
    for name in scores:
        found = comparison.scores.get(name)
        low, high = (nan_to_none(found.low), nan_to_none(found.high)) if found else (None, None)
        cells.append((name, found.value if found else None, low, high))
    note = "trial, members, setting and threshold chosen on four fifths of the queries, scored on the last; quote this"
    return [Line("Cross-fitted", note, "c0", tuple(cells))]


def _sentence(objective: str) -> tuple[str, str]:
    name, _, cutoff = query_score(objective).partition("@")
    if averages_individuals(objective) and name == "map":
        return (
            "Over the individuals in the gallery, each counting once, the MAP@5 of the best model (1 is perfect) is",
            "",
        )
    if name == "map":
        counted = "Over all validation photographs, unknown individuals included"
        return f"{counted}, the MAP@5 of the best model (1 is perfect) is", ""
    if name == "image_recall":
        place = "the nearest photograph shows" if cutoff == "1" else f"one of the {cutoff} nearest photographs shows"
        return f"Given a photograph of an individual in the gallery, {place} the same individual in", "of cases"
    place = "first" if cutoff == "1" else f"among its first {cutoff} answers"
    given = "Given a photograph of an individual in the gallery"
    cases = "of cases, each individual counting once" if averages_individuals(objective) else "of cases"
    return f"{given}, the best model names the right one {place} in", cases


def _beside(records: Sequence[Record], best: Record, objective: str) -> str:
    """Return a sentence with the reference values of the figure."""
    frozen = [one.result.get(objective) for one in _frozen(records, best)]
    known = [value for value in frozen if value is not None]
    sides = (
        ("the frozen encoder without any training reaches", max(known, default=None)),
        ("a random order", best.result.get(f"chance/{objective}")),
        ("the same answer for every photograph", best.result.get(f"trivial/{objective}")),
        ("the highest possible score is", best.result.get(f"ceiling/{objective}")),
    )
    comparisons = [f"{words} {show_score(value, objective)}" for words, value in sides if is_number(value)]
    return f"To compare: {', '.join(comparisons)}." if comparisons else ""


def _frozen(records: Sequence[Record], best: Record) -> list[Record]:
    return [one for one in records if one.kind == "baseline" and one.status == "finished" and one is not best]


def _baselines(records: Sequence[Record], best: Record, scores: Sequence[str]) -> list[Line]:
    shown = _frozen(records, best)[:_BASELINES_SHOWN]
    return [
        _line("Baseline", f"not trained: {describe(one).removeprefix('baseline, ')}", "base", one.result, scores)
        for one in shown
    ]


def _limits(result: Mapping[str, Any], scores: Sequence[str], unknown_label: str) -> list[Line]:
    rows = (
        ("Ceiling", "ceiling", "a perfect model with this gallery"),
        ("Trivial answer", "trivial", f"“{unknown_label}” for every photograph"),
        ("Chance", "chance", "the gallery in a random order"),
    )
    lines = []
    for title, name, note in rows:
        values = {score: result.get(f"{name}/{score}") for score in scores}
        if any(is_number(value) for value in values.values()):
            lines.append(_line(title, note, "limit", values, scores))
    return lines


def _line(title: str, note: str, look: str, result: Mapping[str, Any], scores: Sequence[str]) -> Line:
    cells = tuple((name, *(result.get(f"{name}{end}") for end in ("", "_low", "_high"))) for name in scores)
    return Line(title, note, look, cells)  # type: ignore[arg-type]


def is_number(value: Any) -> bool:
    """Return whether a value is neither None nor NaN."""
    return value is not None and value == value


def show_score(value: Any, name: str) -> str:
    """Return a score as text: shares in percent, MAP as a number.

    >>> show_score(0.6234, "recall@1"), show_score(0.6234, "map@5")
    ('62.3 %', '0.623')

    Args:
        value: The score.
        name: Name of the score.
    """
    if not is_number(value):
        return ABSENT
    return f"{100 * value:.1f} %" if is_share(name) else f"{value:.3f}"
