"""The report of a run: one page that stands alone, right at every moment of a sweep.

Reads the run folder, and the photographs that sweep.yaml names; runs nothing. The page is report.html.j2.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import DataError
from whale_ray.retrieval.search.retrieval_config import chosen_setting
from whale_ray.retrieval.search.retrieval_options import describe_setting
from whale_ray.sweep.analysis.importance import judge_importance, write_importance
from whale_ray.sweep.analysis.trial_comparison import Comparison, compare_trials
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.planning.trial_settings import epochs_of, label
from whale_ray.sweep.report.curves import describe, looks_of, plot_learning, plot_recall, show_value
from whale_ray.sweep.report.example_matches import Examples, find_examples, missing_files, with_maps
from whale_ray.sweep.report.headline import ABSENT, is_number, show_score, write_headline
from whale_ray.sweep.report.label_review import REVIEW, show_review, write_review
from whale_ray.sweep.report.objective_plots import front_of, plot_effects, plot_tradeoff
from whale_ray.sweep.report.saliency import MatchMaps, map_matches
from whale_ray.sweep.report.sections import judge_trust, show_importance
from whale_ray.sweep.report.svg import MARKERS
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.records import Record, read_records, sweep_file

_TEMPLATES = Path(__file__).parent / "templates"
_SETTINGS_SHOWN = 10
_AUDIT_SHOWN = 50
SECTIONS = (
    ("result", "Result"),
    ("data", "Photographs"),
    ("leaderboard", "Leaderboard"),
    ("recall", "Recall"),
    ("trust", "Trust"),
    ("learning", "Learning"),
    ("axes", "Axes"),
    ("retrieval", "Retrieval"),
    ("gallery", "Examples"),
    ("review", "Look at these"),
    ("use", "Use it"),
    ("words", "Words"),
)


def write_report(run: Path, *, live: bool = False) -> Path:
    """The path of report.html, written anew from what the run folder holds now.

    live: the sweep is at work, so that the page loads itself again now and then.
    Raises: InputError where the folder is none of a sweep.
    """
    sweep = load_sweep(sweep_file(run))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": show_score, "seconds": _seconds}
    environment.filters |= {"setting": show_value, "percent_css": _css_percent}
    records = _ranked(read_records(run), sweep)
    importance = judge_importance(records, sweep, quick=live)
    if not live:
        write_importance(importance, run / "importance.csv")
    view = _view(run, sweep, records) | show_importance(importance, sweep.objective)
    view |= _gallery(run, view["best"], sweep, live=live)
    if view["best"] and not view["examples_missing"] and not live:
        write_review(view["best"], run, Photographs(Path(view["photographs"])))
    view["review"] = show_review(run, Photographs(Path(view["photographs"])))
    page = environment.get_template("report.html.j2").render(view, **_assets(), live=live)
    write_atomically(run / "report.html", page)
    return run / "report.html"


def _assets() -> dict[str, str]:
    """The page's own style and script, and the hash by which the page lets this script run and no other."""
    script = (_TEMPLATES / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": (_TEMPLATES / "report.css").read_text(), "script": script, "script_hash": digest}


def _view(run: Path, sweep: Sweep, records: Sequence[Record]) -> dict[str, Any]:
    """Everything that the page shows of the trials and their photographs; records: best first."""
    objective = sweep.objective
    best = next((record for record in records if record.status == "finished"), None)
    unknown = str(sweep.fixed["data.unknown_label"])
    comparison = compare_trials(records, objective)
    quoted = comparison if sweep.ranked_by == objective else None  # it chooses trials by their score
    looks = looks_of(records)
    axes = [axis.name for axis in sweep.axes]
    return {
        "sweep": sweep,
        "sections": SECTIONS,
        "markers": MARKERS,
        "shown_of_audit": _AUDIT_SHOWN,
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "objective": objective,
        "counts": Counter(record.status for record in records),
        "best": best,
        "by_cosine": best is None or chosen_setting(best.result).search_mode.plain,
        "best_label": describe(best) if best else "",
        "headline": write_headline(records, best, objective, comparison=quoted, unknown_label=unknown)
        if best
        else None,
        "cross_fitted": quoted is not None,
        "comparison": comparison,
        "frozen_shares": any(
            one.kind == "baseline" and comparison is not None and one.trial in comparison.together for one in records
        ),
        "table_scores": list(dict.fromkeys((objective, "recall@1", "recall@4", "map@5"))),
        "audit": _audit(run),
        "parts": _parts(run, sweep),
        "axes": axes,
        "rows": [_row(record, axes, objective, comparison) for record in records],
        "recall": plot_recall(records, looks),
        "trust": judge_trust(best) if best else None,
        "learning": plot_learning(records, looks, objective),
        "effects": plot_effects(records, sweep.axes, objective),
        "retrieval": _retrieval(best, objective),
        "tradeoff": plot_tradeoff(records, score=objective, cost=sweep.also) if sweep.also else None,
        "front": front_of(records, score=objective, cost=sweep.also) if sweep.also else [],
        "bundle": (run / "best").exists(),
        "run": str(run),
        "review_path": shlex.quote(f"{run}/{REVIEW}"),
        "bundle_path": shlex.quote(f"{run}/best"),
        "test_folder": shlex.quote(f"{sweep.fixed['data.root']}/test"),
    }


def _ranked(records: Sequence[Record], sweep: Sweep) -> list[Record]:
    """The records in the order of leaderboard.csv; those that were repeated know their mean and spread."""
    table = leaderboard(records, axes=[], objective=sweep.ranked_by, also=sweep.also)
    by_id = {record.trial: record for record in records}
    repeated = table[table["runs"] > 1] if "runs" in table else table.iloc[:0]
    for row in repeated.to_dict("records"):
        over = {"runs": int(row["runs"]), "mean": row[f"{sweep.ranked_by}_mean"], "sd": row[f"{sweep.ranked_by}_sd"]}
        by_id[row["trial"]].result["over_seeds"] = over
    return [by_id[trial] for trial in table["trial"]]


def _row(record: Record, axes: Sequence[str], objective: str, comparison: Comparison | None) -> dict[str, Any]:
    """One line of the leaderboard."""
    point = record.point or {}
    return {
        "record": record,
        "result": record.result,
        "point": [point.get(axis) for axis in axes],
        "label": label(point),
        "beside": comparison.differences.get(record.trial) if comparison and comparison.judged else None,
        "vote": describe_setting(record.result),
        "score": record.result.get(objective),
        "epochs": _epochs(record),
    }


def _epochs(record: Record) -> str:
    done = record.result.get("epochs")
    if record.status == "finished" or record.settings.get("train", {}).get("epochs") is None:
        return "" if done is None else str(done)
    return f"{done or 0} of {epochs_of(record.settings)}"


def _retrieval(best: Record | None, objective: str) -> list[dict[str, Any]]:
    """The best of the winner's retrieval settings, the one that was chosen marked."""
    path = best.folder / "retrieval.csv" if best else None
    if best is None or path is None or not path.exists():
        return []
    table = pd.read_csv(path)
    rows = table.sort_values(objective, ascending=False, kind="stable").head(_SETTINGS_SHOWN).to_dict("records")
    chosen = describe_setting(best.result)
    words = [describe_setting({str(name): value for name, value in row.items()}) for row in rows]
    return [{"scores": row, "said": said, "chosen": said == chosen} for row, said in zip(rows, words, strict=True)]


def _audit(run: Path) -> dict[str, Any]:
    path = run / "audit.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _parts(run: Path, sweep: Sweep) -> dict[str, int]:
    """How many photographs and named individuals there are in each part of the split."""
    path = run / "split.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    named = table[table["Id"] != sweep.fixed["data.unknown_label"]]
    counts = {str(part): int(count) for part, count in table["part"].value_counts().items()}
    return counts | {f"{part}_named": int(rows["Id"].nunique()) for part, rows in named.groupby("part")}


def _gallery(run: Path, best: Record | None, sweep: Sweep, *, live: bool) -> dict[str, Any]:
    """Examples of the best trial, with maps of the mistakes' matches; what is missing, and why."""
    folder = Path(sweep.fixed["data.root"]) / sweep.fixed["data.image_folder"]
    photographs = Photographs(folder)
    missing = missing_files(best) if best else []
    view: dict[str, Any] = {"examples": None, "examples_missing": missing, "photographs": str(folder), "maps": None}
    if best is None or missing:
        return view
    examples = find_examples(best, photographs)
    if not live and examples.mistakes:
        examples, view["maps"] = _with_maps(run, best, examples, photographs)
    return view | {"examples": examples}


def _with_maps(run: Path, best: Record, examples: Examples, photographs: Photographs) -> tuple[Examples, MatchMaps]:
    shown = (one for one in examples.mistakes if all(picture.data for picture in (one.query, *one.answers)))
    try:
        catalog = catalog_of(best.settings["data"])
    except DataError as error:
        return examples, MatchMaps({}, f"the photographs cannot be used: {error}", 0.0)
    maps = map_matches(run, best, (pair for one in shown for pair in one.pairs), catalog)
    return with_maps(examples, maps.found, photographs), maps


def _css_percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _seconds(value: Any) -> str:
    """A duration for people.

    >>> _seconds(42.1), _seconds(200), _seconds(8000)
    ('42 s', '3 min 20 s', '2 h 13 min')
    """
    if not is_number(value):
        return ABSENT
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
