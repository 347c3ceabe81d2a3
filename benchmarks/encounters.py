"""Benchmark of encounters: recall with the mean embedding of several photographs, compared with one photograph.

python benchmarks/encounters.py RUN      a finished run whose photographs have encounters (data.group_column)

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
from whale_ray.retrieval.search.retrieval_settings import chosen_setting
from whale_ray.retrieval.search.searcher import GallerySearcher
from whale_ray.retrieval.transformed_vectors import TransformedVectors
from whale_ray.sweep.run_folder.records import read_record
from whale_ray.sweep.trials.embeddings_io import read_embeddings

VIEWS = (2, 3, 4, 8)  # maximum number of photographs per encounter


def encounters_of(table: pd.DataFrame, wanted: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each encounter that has several wanted validation photographs of one individual."""
    asked = table[(table["part"] == "val") & wanted & (table["group"] != "")]
    return [np.asarray(rows) for rows in asked.groupby(["individual", "group"]).groups.values() if len(rows) > 1]


def pooled(vectors: np.ndarray, encounters: list[np.ndarray], most: int) -> np.ndarray:
    """Return the L2-normalised mean embedding (E, D) of the first photographs of each encounter."""
    return np.stack([normalize_rows(vectors[rows[:most]].sum(axis=0)[None])[0] for rows in encounters])


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
    known = encounters_of(table, np.isin(individuals, individuals[shown]))
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
            float((found.cosines[:, 0] < threshold).mean())
            for found in (ranking, searcher.rank(pooled(vectors, strangers, most), setting))
        ]
        low, high = paired_interval(hits[most], hits[1], truth)
        gained = f"{(hits[most] - hits[1]).mean():+.3f} ({low:+.3f} to {high:+.3f})" if most > 1 else ""
        print(f"| {most} | {hits[most].mean():.3f} | {gained} | {new[0]:.3f} | {new[1]:.3f} |")


if __name__ == "__main__":
    main()
