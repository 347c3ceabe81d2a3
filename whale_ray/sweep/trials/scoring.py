"""Scores of a trial: objective and retrieval settings, evaluation of its embeddings, files that hold the scores."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whale_ray.atomic_files import replaced_atomically, write_atomically
from whale_ray.data.split import plays_unknown
from whale_ray.retrieval.evaluation.decisions import BALANCED, DecisionRule
from whale_ray.retrieval.evaluation.evaluate import Evaluation, RetrievalSetting, evaluate, score_setting
from whale_ray.retrieval.search.proxy_classifier import ClassProxies
from whale_ray.retrieval.study_recall import study_recall
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.trial_points import Settings, retrieval_settings
from whale_ray.sweep.run_folder.local_evidence import read_local_evidence
from whale_ray.sweep.run_folder.records import Record
from whale_ray.sweep.run_folder.setting_queries import write_setting_queries
from whale_ray.sweep.trials.class_proxies import SplitProxies
from whale_ray.sweep.trials.embeddings_io import Views

# Version of the scores. Trials that were scored by another version are scored again from their embeddings.
DEFINITION = 11


@dataclass(frozen=True)
class Scoring:
    """Retrieval settings and objective of a sweep.

    Attributes:
        retrieval: The retrieval settings to choose from.
        objective: Name of the score to maximize.
        decide: When an animal is decided as new.
    """

    retrieval: tuple[RetrievalSetting, ...]
    objective: str
    decide: DecisionRule = BALANCED

    def written(self) -> dict[str, Any]:
        """Return the JSON value that a result stores, to detect trials scored otherwise."""
        settings = [list(dataclasses.astuple(one)) for one in self.retrieval]
        return {
            "definition": DEFINITION,
            "objective": self.objective,
            "retrieval": settings,
            "decide": dataclasses.asdict(self.decide),
        }

    def of(self, kind: str) -> Scoring:
        """Return the scoring of a kind of trial; for a baseline, without whitening, expansion and re-ranking."""
        if kind != "baseline":
            return self
        plain = (one.baseline() for one in self.retrieval)
        return dataclasses.replace(self, retrieval=tuple(dict.fromkeys(plain)))


def scoring_of(sweep: Sweep) -> Scoring:
    """Return the scoring of a sweep."""
    rule = DecisionRule(sweep.fixed["retrieval.decide"], sweep.fixed["retrieval.new_share"])
    return Scoring(retrieval_settings(sweep), sweep.fixed["search.objective"], rule)


def roles(table: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Return individuals, parts, viewpoints, species and unknown individuals, as arguments of `evaluate`.

    Args:
        table: A row for each embedding: individual, part, viewpoint, species.
        settings: Settings of the trial.
    """
    unknown = settings["data"]["unknown_label"]
    kind = settings["split"]["kind"]
    return {
        "individuals": table["individual"].to_numpy(dtype=str),
        "parts": table["part"].to_numpy(dtype=str),
        "viewpoints": table["viewpoint"].to_numpy(dtype=str),
        "species": table["species"].to_numpy(dtype=str),
        "unknown_label": unknown,
        "held_out_as_new": plays_unknown(kind, table["individual"], unknown_label=unknown),
    }


def score_epoch(
    views: Views,
    table: pd.DataFrame,
    *,
    setting: RetrievalSetting,
    settings: Settings,
    proxies: ClassProxies | None = None,
) -> dict[str, float | None]:
    """Return the scores of one retrieval setting during training, not cross-fitted.

    Args:
        views: As in `score_trial`.
        table: As in `score_trial`.
        setting: The retrieval setting.
        settings: Settings of the trial.
        proxies: Class proxies of the only split.
    """
    return score_setting(views, setting=setting, proxies=proxies, **roles(table, settings))


def score_trial(
    views: Views,
    table: pd.DataFrame,
    *,
    scoring: Scoring,
    settings: Settings,
    run: Path,
    proxies: SplitProxies | None = None,
) -> Evaluation:
    """Return the cross-fitted scores of every retrieval setting.

    Args:
        views: `plain` and `flip`: embeddings, float16, shape (N, D).
        table: A row for each embedding: image, individual, group, part, viewpoint, species, split.
        scoring: Retrieval settings and objective.
        settings: Settings of the trial.
        run: The run folder, which has the local evidence that settings with local features need.
        proxies: Class proxies by split.

    Raises:
        InputError: If local evidence is missing.
    """
    kinds = {one.local for one in scoring.retrieval}
    unknown = settings["data"]["unknown_label"]
    return evaluate(
        views,
        images=table["image"].to_numpy(dtype=str),
        groups=table["group"].to_numpy(dtype=str),
        splits=table["split"].to_numpy(),
        proxies=proxies,
        evidence=read_local_evidence(run, kinds, table=table, unknown_label=unknown),
        settings=scoring.retrieval,
        objective=scoring.objective,
        decide=scoring.decide,
        **roles(table, settings),
    )


def figures_of(evaluation: Evaluation, scoring: Scoring) -> dict[str, Any]:
    """Return the entries of result.json for an evaluation: scores, chosen retrieval setting, threshold, scoring.

    Args:
        evaluation: The evaluation.
        scoring: Retrieval settings and objective.
    """
    best = evaluation.best
    return {
        **evaluation.scores,
        **dataclasses.asdict(best),
        "threshold": evaluation.threshold,
        **({"species_thresholds": evaluation.species_thresholds} if evaluation.species_thresholds else {}),
        "calibration": evaluation.calibration.written(),
        "encounter_calibration": None if evaluation.encounters is None else evaluation.encounters.written(),
        **({"fusion": evaluation.fusion.written()} if evaluation.fusion else {}),
        "decision": None if evaluation.decision is None else evaluation.decision.written(),
        "scored_with": scoring.written(),
    }


def study_figures(views: Views, table: pd.DataFrame) -> dict[str, float | None]:
    """Return study_recall@K of the plain view, as the original study counts it.

    Args:
        views: As in `score_trial`.
        table: As in `score_trial`.
    """
    individuals, parts = (table[name].to_numpy(dtype=str) for name in ("individual", "part"))
    return study_recall(views["plain"], individuals=individuals, parts=parts)


def write_scores(evaluation: Evaluation, folder: Path) -> None:
    """Write retrieval.csv (a row for each setting), queries.parquet (for each query) and setting_queries.npz (both).

    Args:
        evaluation: The evaluation.
        folder: The trial's folder.
    """
    write_atomically(folder / "retrieval.csv", evaluation.table.to_csv(index=False))
    with replaced_atomically(folder / "queries.parquet") as draft:
        evaluation.queries.to_parquet(draft, index=False)
    write_setting_queries(evaluation.by_setting, folder)


def is_scored_by(scoring: Scoring, record: Record) -> bool:
    """Return whether the result of a finished trial was scored with these settings and this objective.

    Args:
        scoring: Retrieval settings and objective.
        record: The trial.
    """
    return bool(record.result.get("scored_with") == scoring.of(record.kind).written())
