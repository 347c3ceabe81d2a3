"""Pseudo-labels: unknown training photographs, labelled by the encoder of the first training round.

Labels and photographs of the validation part are never used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from whale_ray.atomic_files import write_atomically
from whale_ray.errors import InputError
from whale_ray.retrieval.label_quality.pseudo_labels import propose_labels
from whale_ray.retrieval.search.gallery_index import GalleryIndex
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.planning.dataset import Dataset
from whale_ray.sweep.planning.trial_points import corner_points

LABELS = "pseudo_labels.csv"
HELD_SHARE = 0.2


def check_unknown(sweep: Sweep, dataset: Dataset) -> None:
    """Raise InputError if the sweep uses pseudo-labels, but a split has no unknown training photograph.

    Args:
        sweep: The sweep.
        dataset: The photographs.
    """
    asked = any(
        sweep.settings(point)["train"]["pseudo_labels"] for point in corner_points(sweep, "train.pseudo_labels")
    )
    unknown = [(one.table["individual"].iloc[one.rows("train")] == one.unknown_label).any() for one in dataset.splits]
    if asked and not all(unknown):
        raise InputError(
            "`train.pseudo_labels` needs training photographs of unknown individuals, but none is labelled "
            f"{dataset.unknown_label}. Leave it out, or set data.unknown_label"
        )


def hold_out(dataset: Dataset, *, seed: int) -> np.ndarray:
    """Return rows of named training photographs that the first round leaves out, to calibrate the pseudo-labels.

    These are a fifth of the photographs of each individual, in whole groups (encounters); at least one group trains.
    Individuals with one or two photographs and duplicate images are not held out.

    Args:
        dataset: The photographs.
        seed: Seed of the choice.
    """
    rows = dataset.rows("train")
    table = dataset.table.iloc[rows].assign(row=rows, twin=dataset.audit.twins.to_numpy()[rows])
    table = table[table["individual"] != dataset.unknown_label]
    numbers = np.random.default_rng([seed, len(table)])
    held = [_held_of(own, numbers) for _, own in table.groupby("individual")]
    return np.sort(np.concatenate([*held, np.zeros(0, dtype=np.int64)]))


def _held_of(own: pd.DataFrame, numbers: np.random.Generator) -> np.ndarray:
    groups = own["group"].where(own["group"] != "", own["image"])
    wanted, held = int(HELD_SHARE * len(own) + 0.5), list[int]()
    for group in numbers.permutation(groups.unique())[:-1]:
        members = own[(groups == group) & (own["twin"] == "")]
        if len(members) == (groups == group).sum() and len(held) + len(members) <= wanted:
            held += members["row"].tolist()
    return np.array(held, dtype=np.int64)


def label_unknown(dataset: Dataset, vectors: np.ndarray, held: np.ndarray, *, least: float, folder: Path) -> None:
    """Label unknown training photographs and write pseudo_labels.csv: Image, Id, probability.

    A photograph whose likeliest individual is of another species gets no label.

    Args:
        dataset: The photographs.
        vectors: Embeddings of the rows of the training part, in their order, shape (N, D).
        held: Rows that the encoder was not trained on.
        least: Smallest probability of a label that is kept, 0 to 1.
        folder: The trial's folder.
    """
    rows = dataset.rows("train")
    names = dataset.table["individual"].to_numpy()[rows]
    unknown, tried = names == dataset.unknown_label, np.isin(rows, held)
    seen = ~unknown & ~tried
    index = GalleryIndex(vectors[seen], names[seen])
    guesses = propose_labels(vectors[unknown], index, held=vectors[tried], names=names[tried])
    species = dataset.table["species"].to_numpy(dtype=str)[rows]
    possible = may_be_of(species[unknown], guesses.individuals, names=names[seen], species_of_names=species[seen])
    sure = (guesses.probabilities >= least) & possible
    images = dataset.table["image"].to_numpy()[rows[unknown][sure]]
    found = {"Image": images, "Id": guesses.individuals[sure], "probability": guesses.probabilities[sure]}
    write_atomically(folder / LABELS, pd.DataFrame(found).to_csv(index=False))


def may_be_of(
    species: np.ndarray, individuals: np.ndarray, *, names: np.ndarray, species_of_names: np.ndarray
) -> np.ndarray:
    """Return whether photographs may show individuals, by species, bool, shape (Q,); an unknown species allows all.

    >>> names, kinds = np.array(["a", "b"]), np.array(["fin", "blue"])
    >>> may_be_of(np.array(["fin", "fin", ""]), np.array(["a", "b", "b"]), names=names, species_of_names=kinds).tolist()
    [True, False, True]

    Args:
        species: Species of each photograph, "" for unknown, shape (Q,).
        individuals: An individual for each of them, shape (Q,).
        names: Individual of each named photograph, shape (N,).
        species_of_names: Species of each named photograph, "" for unknown, shape (N,).
    """
    kinds = set(zip(names.tolist(), species_of_names.tolist(), strict=True))
    pairs = zip(individuals.tolist(), species.tolist(), strict=True)
    return np.array([not kind or bool({(name, kind), (name, "")} & kinds) for name, kind in pairs], dtype=bool)


def read_labels(dataset: Dataset, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and individuals of pseudo_labels.csv.

    Args:
        dataset: The photographs.
        folder: The trial's folder.
    """
    written = pd.read_csv(folder / LABELS, dtype={"Image": str, "Id": str}, keep_default_na=False)
    places = {image: row for row, image in enumerate(dataset.table["image"])}
    return written["Image"].map(places).to_numpy(dtype=np.int64), written["Id"].to_numpy(dtype=object)
