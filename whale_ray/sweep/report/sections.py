"""Sections of the report in reading order: one dataclass, one builder and one template each.

The fields of a section are the variables of its template, `templates/<id>.html.j2`; `page` is the `ReportContext`.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from whale_ray.data.delimited_table import read_table
from whale_ray.data.encounters.same_day import describe_same_day
from whale_ray.errors import DataError
from whale_ray.retrieval.search.retrieval_settings import chosen_setting
from whale_ray.sweep.analysis.importance import judge_importance, write_importance
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.report.context import ReportContext
from whale_ray.sweep.report.example_matches import Examples, find_examples, missing_files, with_maps
from whale_ray.sweep.report.keypoint_pictures import with_keypoints
from whale_ray.sweep.report.match_maps import MatchMaps, map_matches
from whale_ray.sweep.report.plots.curves import Plot, describe, looks_of, plot_learning, plot_recall
from whale_ray.sweep.report.plots.objective_plots import plot_effects
from whale_ray.sweep.report.review.review_section import build_review
from whale_ray.sweep.report.shortcut_section import build_shortcuts
from whale_ray.sweep.report.tables.headline import Headline, write_headline
from whale_ray.sweep.report.tables.importance_table import ImportanceTable, importance_table
from whale_ray.sweep.report.tables.leaderboard_table import build_leaderboard
from whale_ray.sweep.report.tables.open_set_table import TrustScores, trust_scores
from whale_ray.sweep.report.tables.retrieval_table import SettingRow, best_settings
from whale_ray.sweep.report.tables.scores_by_gallery_size import describe_mix
from whale_ray.sweep.run_folder.optional_json import read_optional_json

MAX_AUDIT_ROWS = 50


@dataclass(frozen=True)
class ResultSection:
    """The best trial in a sentence and a small table, and the mix of animals that the sentence holds for."""

    headline: Headline | None
    mix: str
    best_label: str
    cross_fitted: bool
    frozen_shares: bool


def build_result(page: ReportContext) -> ResultSection:
    """Return the result section."""
    best, comparison = page.best, page.comparison
    quoted = comparison if page.sweep.ranked_by == page.objective else None  # trials are chosen by this score
    unknown = str(page.sweep.fixed["data.unknown_label"])
    shares_lead = comparison is not None and any(
        record.kind == "baseline" and record.trial in comparison.together for record in page.records
    )
    headline = (
        write_headline(page.records, best, page.objective, comparison=quoted, unknown_label=unknown) if best else None
    )
    mix = describe_mix(best.result, page.objective, quoted) if best else ""
    return ResultSection(headline, mix, describe(best) if best else "", quoted is not None, shares_lead)


@dataclass(frozen=True)
class DataSection:
    """The audit and the sizes of the split's parts."""

    audit: dict[str, Any]
    parts: dict[str, int]
    same_day: str
    encounters: str
    max_rows: int = MAX_AUDIT_ROWS


def build_data(page: ReportContext) -> DataSection:
    """Return the data section."""
    audit = read_optional_json(page.run / "audit.json")
    return DataSection(audit, _count_parts(page), describe_same_day(audit.get("same_day", {})), _contact_sheet(page))


def _contact_sheet(page: ReportContext) -> str:
    """Return encounters.jpg as a data URI; "" if there is none."""
    path = page.run / "encounters.jpg"
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""


def _count_parts(page: ReportContext) -> dict[str, int]:
    """Return the number of photographs and of named individuals (`<part>_named`) in each part of the split."""
    path = page.run / "split.csv"
    if not path.exists():
        return {}
    read = read_table(path, columns=("Id", "part"))
    table = pd.DataFrame({name: read.column(name) for name in ("Id", "part")})
    named = table[table["Id"] != page.sweep.fixed["data.unknown_label"]]
    counts = {str(part): int(count) for part, count in table["part"].value_counts().items()}
    return counts | {f"{part}_named": int(rows["Id"].nunique()) for part, rows in named.groupby("part")}


@dataclass(frozen=True)
class RecallSection:
    """Recall by K of the best trials."""

    recall: Plot | None


@dataclass(frozen=True)
class TrustSection:
    """Open-set scores and calibration of the best trial."""

    trust: TrustScores | None


@dataclass(frozen=True)
class LearningSection:
    """Learning curves."""

    learning: tuple[Plot, ...]


@dataclass(frozen=True)
class AxesSection:
    """Effect and importance of each axis."""

    importance: ImportanceTable
    effects: tuple[Plot, ...]


def build_axes(page: ReportContext) -> AxesSection:
    """Return the axes section. Writes importance.csv unless the sweep is running."""
    rows = judge_importance(page.records, page.sweep, quick=page.live)
    if not page.live:
        write_importance(rows, page.run / "importance.csv")
    effects = plot_effects(page.records, page.sweep.axes, page.objective)
    return AxesSection(importance_table(rows), tuple(effects))


@dataclass(frozen=True)
class RetrievalSection:
    """The best retrieval settings of the best trial."""

    settings: tuple[SettingRow, ...]
    by_cosine: bool


def build_retrieval(page: ReportContext) -> RetrievalSection:
    """Return the retrieval section."""
    plain = page.best is None or chosen_setting(page.best.result).scores_are_cosines
    return RetrievalSection(best_settings(page.best, page.objective), plain)


@dataclass(frozen=True)
class ExamplesSection:
    """Mistakes and right answers of the best trial as pictures."""

    examples: Examples | None
    missing: tuple[str, ...]
    maps: MatchMaps | None


def build_examples(page: ReportContext) -> ExamplesSection:
    """Return the examples section; occlusion maps are made unless the sweep is running."""
    missing = tuple(missing_files(page.best)) if page.best else ()
    if page.best is None or missing:
        return ExamplesSection(None, missing, None)
    examples = find_examples(page.best, page.photographs)
    if not page.live:
        examples = with_keypoints(examples, chosen_setting(page.best.result).local, page.photographs)
    if page.live or not examples.mistakes:
        return ExamplesSection(examples, (), None)
    shown = (one for one in examples.mistakes if all(picture.data for picture in (one.query, *one.answers)))
    try:
        catalog = catalog_of(page.best.settings["data"])
    except DataError as error:
        return ExamplesSection(examples, (), MatchMaps({}, f"the photographs cannot be used: {error}", 0.0))
    pairs = (pair for one in shown for pair in one.pairs)
    maps = map_matches(page.run, page.best, pairs, catalog, thorough=page.thorough, load=lambda: page.bundle)
    return ExamplesSection(with_maps(examples, maps.found, page.photographs), (), maps)


@dataclass(frozen=True)
class UseSection:
    """Commands that use the bundle."""

    has_bundle: bool
    bundle: str
    test_folder: str


def build_use(page: ReportContext) -> UseSection:
    """Return the section on using the bundle."""
    test = shlex.quote(f"{page.sweep.fixed['data.root']}/test")
    return UseSection((page.run / "best").exists(), shlex.quote(f"{page.run}/best"), test)


@dataclass(frozen=True)
class GlossarySection:
    """Definitions of terms; the template has them."""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: Anchor on the page and name of the template.
        title: Title in the navigation.
        build: Returns the variables of the template.
        step: What takes a while, for progress; empty if nothing does.
    """

    id: str
    title: str
    build: Callable[[ReportContext], object]
    step: str = ""


SECTIONS = (
    Section("result", "Result", build_result),
    Section("data", "Photographs", build_data),
    Section("leaderboard", "Leaderboard", build_leaderboard),
    Section("recall", "Recall", lambda page: RecallSection(plot_recall(page.records, looks_of(page.records)))),
    Section("trust", "Calibration", lambda page: TrustSection(trust_scores(page.best) if page.best else None)),
    Section(
        "learning",
        "Learning",
        lambda page: LearningSection(tuple(plot_learning(page.records, looks_of(page.records), page.objective))),
    ),
    Section("axes", "Axes", build_axes, step="the values of each axis are compared on the same queries"),
    Section("retrieval", "Retrieval", build_retrieval),
    Section("gallery", "Examples", build_examples, step="maps of what example matches rest on are computed"),
    Section("shortcuts", "Background", build_shortcuts, step="animals and backgrounds are recognized separately"),
    Section("review", "Review", build_review, step="photographs that look alike are compared"),
    Section("use", "Bundle", build_use),
    Section("words", "Glossary", lambda page: GlossarySection()),
)
