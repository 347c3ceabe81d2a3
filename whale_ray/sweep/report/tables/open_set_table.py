"""Open-set scores, reliability and scores by gallery size and species of the best trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.decisions import read_decision
from whale_ray.retrieval.evaluation.open_set_metrics import reliability
from whale_ray.sweep.report.plots.curves import Plot
from whale_ray.sweep.report.plots.scale import Scale
from whale_ray.sweep.report.plots.svg import Curve, plot_curves
from whale_ray.sweep.report.tables.headline import is_number
from whale_ray.sweep.run_folder.records import Record

_MEANINGS = {
    "auroc": "probability that a new query looks newer than a known one, by its first cosine, or by the probability of "
    "new where a cohort of unknown animals takes part (0.5 is chance)",
    "baks": "share of known queries answered correctly, averaged over individuals",
    "baus": "share of new queries decided as new, averaged over individuals",
    "brier/match": "mean squared error of the probability that the first answer is right (0 is perfect)",
    "brier/new": "mean squared error of the probability that the animal is new",
}
_LOOKS = {"match_probability": ("c0", "the first answer is right"), "new_probability": ("c1", "the animal is new")}


_ROWS = {
    "first": "the first",
    "all": "all",
    "all, as single": "all, with the probabilities of single photographs",
    "all, by embedding": "all, by the embedding alone",
}


@dataclass(frozen=True)
class EncounterTable:
    """Scores of encounters: a summary in words, and rows with a title."""

    summary: str
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class TrustScores:
    """Calibration and open-set scores of a trial.

    Attributes:
        scores: Rows with name, meaning, value, low, high, trivial.
        by_images: Scores by the number of gallery images of the individual.
        by_species: Scores and threshold of each species; empty if no photograph has one.
        reliability: Plot of predicted against observed probability.
        decision: When an animal is decided as new, as a clause; empty if the threshold of map@5 decides.
        errors: Expected share of wrong answers by share of new animals: rows of new_share, error, known, new, trivial.
        encounters: Scores of several photographs of one animal; None if there are too few.
    """

    scores: tuple[dict[str, Any], ...]
    by_images: tuple[dict[str, Any], ...]
    by_species: tuple[dict[str, Any], ...]
    reliability: Plot | None
    decision: str
    errors: tuple[dict[str, float], ...]
    encounters: EncounterTable | None


def trust_scores(record: Record) -> TrustScores:
    """Return the scores of a finished trial; missing ones are left out."""
    result = record.result
    rows = [
        {
            "name": name,
            "meaning": meaning,
            "value": result[name],
            "low": result.get(f"{name}_low"),
            "high": result.get(f"{name}_high"),
            "trivial": result.get(f"trivial/{name}"),
        }
        for name, meaning in _MEANINGS.items()
        if is_number(result.get(name))
    ]
    by_images = [row for row in result.get("by_images") or () if row["queries"]]
    errors = tuple(result.get("expected_errors") or ())
    own, common = result.get("species_thresholds", {}), result.get("threshold")
    by_species = [
        {**row, "threshold": own.get(row["species"], common), "has_own": row["species"] in own}
        for row in result.get("by_species") or ()
    ]
    return TrustScores(
        tuple(rows),
        tuple(by_images),
        tuple(by_species),
        _reliability(record),
        _decision(record),
        errors,
        _encounters(result.get("encounters")),
    )


def _encounters(scores: dict[str, Any] | None) -> EncounterTable | None:
    if not scores:
        return None
    summary = (
        f"{scores['known']} encounters of known individuals and {scores['new']} of new ones, "
        f"{scores['mean_photographs']:.1f} photographs on average."
    )
    if scores["drawn"]:
        summary += f" {scores['drawn']} are groups drawn from the photographs of one individual."
    if scores["playing_new"]:
        summary += f" {scores['playing_new']} known ones, searched without their individual, play new ones as well."
    return EncounterTable(summary, tuple({**row, "title": _ROWS[row["photographs"]]} for row in scores["rows"]))


def _decision(record: Record) -> str:
    decision = read_decision(record.result.get("decision"))
    if decision is None:
        return ""
    return f"that is more probable than not, if {decision.assumed_share:.0%} of the animals were new"


def _reliability(record: Record) -> Plot | None:
    path = record.folder / "queries.parquet"
    queries = pd.read_parquet(path) if path.exists() else pd.DataFrame()
    if not {*_LOOKS} <= {*queries}:
        return None
    outcomes = {"match_probability": queries["rank"] == 1, "new_probability": ~queries["known"].astype(bool)}
    curves = [
        Curve(label, look, tuple((one["said"], one["happened"]) for one in points))
        for name, (look, label) in _LOOKS.items()
        if (points := reliability(queries[name].to_numpy(float), outcomes[name].to_numpy(dtype=np.float64)))
    ]
    if not curves:
        return None
    diagonal = Curve("perfect calibration", "limit", ((0.0, 0.0), (1.0, 1.0)))
    x, y = Scale(0, 1, "predicted probability", percent=True), Scale(0, 1, "observed share", percent=True)
    alt = "Reliability curves: " + "; ".join(
        f"{curve.name}: " + ", ".join(f"predicted {x.text(at)}, observed {y.text(value)}" for at, value in curve.points)
        for curve in curves
    )
    svg = plot_curves([*curves, diagonal], x=x, y=y, alt=alt)
    legend = tuple((curve.look, curve.name) for curve in [*curves, diagonal])
    note = "Each mark is a group of queries by rising probability; the probabilities were learned on other queries."
    return Plot("Probabilities", svg, legend, note)
