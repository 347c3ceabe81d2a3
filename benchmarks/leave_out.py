"""Ablation of a recipe of joined, frozen encoders: map@5 without each part, on the same queries.

python benchmarks/leave_out.py RUN       a finished run of sweeps/photos_best.yaml

Nothing is trained: the recipe is scored again from stored embeddings, each time without one part. Settings and
thresholds are chosen with cross-fitting, as in the sweep. The interval of the difference of map@5 comes from
resampling individuals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from whale_ray.retrieval.evaluation.query_clusters import paired_interval
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting
from whale_ray.sweep.config.sweep_spec import load_sweep
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.records import Record, read_records, sweep_file
from whale_ray.sweep.trials.ensemble import choose_members, join_members, ranked_trials
from whale_ray.sweep.trials.scoring import score_trial, scoring_of

SCORE = "average_precision@5"


@dataclass(frozen=True)
class Part:
    """A part of the recipe, with the trials, retrieval settings and ensemble size that remain without it."""

    name: str
    trials: Callable[[Record], bool] = lambda record: True
    settings: Callable[[RetrievalSetting], bool] = lambda setting: True
    joined: int = 2


PARTS = (
    Part("nothing: the whole recipe"),
    Part("the second network", joined=1),
    Part("learned whitening (none or pca)", settings=lambda setting: setting.whiten != "learned"),
    Part("any whitening", settings=lambda setting: setting.whiten == "none"),
    Part("mirrored views", settings=lambda setting: setting.flip == "none"),
    Part("query expansion", settings=lambda setting: setting.expand_query == 0),
    Part("class means (nearest image alone)", settings=lambda setting: setting.vote == "nearest"),
    Part("nearest image (class means alone)", settings=lambda setting: setting.vote == "centroid"),
    Part("local features", settings=lambda setting: setting.local == "none"),
    Part("layers before the last", trials=lambda record: record.settings["model"].get("layers", 1) == 1),
    Part("gem pooling", trials=lambda record: record.settings["model"]["pool"] == "avg"),
)


def queries_without(part: Part, records: Sequence[Record], run: Path) -> pd.DataFrame:
    """Return score and cluster of each query, by image, for the recipe without the part."""
    sweep = load_sweep(sweep_file(run))
    kept = [record for record in records if record.kind == "trial" and part.trials(record)]
    table = leaderboard(kept, axes=[axis.name for axis in sweep.axes], objective=sweep.objective)
    members = choose_members(ranked_trials(table, kept), part.joined)
    scoring = scoring_of(sweep)
    settings = tuple(setting for setting in scoring.retrieval if part.settings(setting))
    with tempfile.TemporaryDirectory() as folder:
        views, photographs = join_members([member.folder for member in members], Path(folder))
    scoring = type(scoring)(settings, scoring.objective)
    found = score_trial(views, photographs, scoring=scoring, settings=members[0].settings, run=run)
    return found.queries.set_index("image").sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    records = read_records(run)
    whole = queries_without(PARTS[0], records, run)
    known = whole["known"].to_numpy(dtype=bool)
    print(f"{len(whole)} queries, {known.sum()} of them known")
    print("| without | map@5 | recall@1 | gain of the part (95 %) | |\n|---|---|---|---|---|")
    for part in PARTS:
        queries = whole if part is PARTS[0] else queries_without(part, records, run)
        scores, recall = queries[SCORE].to_numpy(), (queries["rank"].to_numpy() == 1)[known].mean()
        added = whole[SCORE].to_numpy() - scores
        low, high = paired_interval(whole[SCORE].to_numpy(), scores, whole["cluster"].to_numpy(dtype=str))
        gain = "" if part is PARTS[0] else f"{added.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        verdict = "" if part is PARTS[0] else "noise" if low <= 0 <= high else "beyond noise"
        print(f"| {part.name} | {scores.mean():.3f} | {recall:.3f} | {gain} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
