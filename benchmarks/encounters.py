"""Benchmark of encounters: recall with the mean embedding of several photographs, compared with one photograph.

python benchmarks/encounters.py RUN      a finished run whose photographs have encounters (data.group_column)

The second table is of the probabilities, as in the report; it needs no encounters in the table.

Nothing is trained. The stored embeddings of the best trial are used: each encounter with several validation
photographs of a gallery individual is a query twice, with its first photograph and with the L2-normalised mean of its
embeddings, as the service does. The interval of the difference comes from resampling individuals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.retrieval.evaluation.query_clusters import paired_interval
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, chosen_setting
from whale_ray.retrieval.search.searcher import GallerySearcher
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.analysis.rescoring import rescore
from whale_ray.sweep.run_folder.records import Record, read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings
from whale_ray.sweep.trials.scoring import Scoring

VIEWS = (2, 3, 4, 8)  # maximum number of photographs per encounter


def encounters_of(table: pd.DataFrame, wanted: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each encounter that has several wanted validation photographs of one individual."""
    asked = table[(table["part"] == "val") & wanted & (table["group"] != "")]
    return [np.asarray(rows) for rows in asked.groupby(["individual", "group"]).groups.values() if len(rows) > 1]


def pooled(vectors: np.ndarray, encounters: list[np.ndarray], most: int) -> np.ndarray:
    """Return the L2-normalised mean embedding (E, D) of the first photographs of each encounter."""
    return np.stack([normalize_rows(vectors[rows[:most]].sum(axis=0)[None])[0] for rows in encounters])


def print_probabilities(record: Record, setting: RetrievalSetting) -> None:
    """Print recall@1, AUROC, Brier scores and shares called new, cross-fitted."""
    evaluation = rescore(record, Scoring((setting,), str(record.result["scored_with"]["objective"])))
    scores = evaluation.scores.get("encounters")
    if scores is None:
        print("too few encounters for probabilities")
        return
    print({name: value for name, value in scores.items() if name != "rows"})
    print("| photographs | recall@1 | AUROC | brier/match | brier/new | known called new | new called new |")
    print("|---|---|---|---|---|---|---|")
    for row in scores["rows"]:
        names = ("recall@1", "auroc", "brier/match", "brier/new", "new/known", "new/new")
        print(f"| {row['photographs']} | {' | '.join(f'{row[name]:.3f}' for name in names)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    record = read_record(run / "trials" / pd.read_csv(run / "leaderboard.csv")["trial"].iloc[0])
    views, table = read_embeddings(record.folder)
    individuals, setting = table["individual"].to_numpy(dtype=str), chosen_setting(record.result)
    unknown, threshold = record.settings["data"]["unknown_label"], float(record.result["threshold"])
    parts = table["part"].to_numpy(dtype=str)
    vectors = normalize_rows(
        TransformedVectors(views, individuals=individuals, parts=parts, unknown_label=unknown).seen(setting.transform)
    )
    shown = (parts == "train") & (individuals != unknown)
    searcher = GallerySearcher(vectors[shown], individuals[shown])
    print_probabilities(record, setting)
    known = encounters_of(table, np.isin(individuals, individuals[shown]))
    if not known:
        return
    strangers = encounters_of(table, individuals == unknown)
    truth = individuals[[rows[0] for rows in known]]
    print(
        f"{len(known)} encounters of {len(set(truth))} individuals, {np.mean([*map(len, known)]):.1f} photographs each;"
    )
    print(f"{len(strangers)} encounters of unknown animals")
    print("| photographs | recall@1 | gain over one (95 %) | decided new, known | decided new, unknown |")
    print("|---|---|---|---|---|")
    hits: dict[int, np.ndarray] = {}
    for most in (1, *VIEWS):
        ranking = searcher.rank(pooled(vectors, known, most), setting)
        hits[most] = (searcher.index.names[ranking.individuals[:, 0]] == truth).astype(np.float64)
        new = [
            float((searcher.rank(pooled(vectors, each, most), setting).cosines[:, 0] < threshold).mean())
            if each
            else np.nan
            for each in (known, strangers)
        ]
        low, high = paired_interval(hits[most], hits[1], truth)
        gained = f"{(hits[most] - hits[1]).mean():+.3f} ({low:+.3f} to {high:+.3f})" if most > 1 else ""
        print(f"| {most} | {hits[most].mean():.3f} | {gained} | {new[0]:.3f} | {new[1]:.3f} |")


if __name__ == "__main__":
    main()
