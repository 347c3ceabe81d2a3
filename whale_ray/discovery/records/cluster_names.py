"""Names of clusters: those of named photographs, or `discovered_0001` that stay with their photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

PREFIX = "discovered_"


def name_clusters(
    labels: np.ndarray,
    images: Sequence[str],
    individuals: Sequence[str],
    *,
    earlier: Mapping[str, Sequence[str]],
) -> tuple[dict[int, str], dict[str, list[str]]]:
    """Return the name of each cluster and the photographs of every discovered name, earlier ones included.

    A cluster with named photographs has their most frequent name. Another cluster of two or more photographs keeps a
    discovered name if it has more than half of that name's photographs that are still there; the largest overlap goes
    first. All others get new numbers. Numbers are never used twice: a name without a cluster keeps its last photographs
    and returns with them. Photographs alone in a cluster get no name.

    Args:
        labels: Cluster of each photograph, int64, shape (N,).
        images: Name of each photograph.
        individuals: Individual of each photograph; "" if unknown.
        earlier: Photographs by discovered name, from the last call.
    """
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(row)
    names: dict[int, str] = {}
    for label, rows in members.items():
        given = Counter(individuals[row] for row in rows if individuals[row])
        if given:
            names[label] = min(given, key=lambda name: (-given[name], name))
    unnamed = {label: rows for label, rows in members.items() if label not in names and len(rows) > 1}
    names |= _kept_names(unnamed, labels, images, earlier)
    taken = {*earlier, *individuals}
    number = 0
    for label in sorted(unnamed, key=lambda label: (-len(unnamed[label]), unnamed[label])):
        if label in names:
            continue
        while (name := f"{PREFIX}{number + 1:04d}") in taken:
            number += 1
        names[label] = name
        taken.add(name)
    current = {names[label]: [images[row] for row in rows] for label, rows in unnamed.items()}
    return names, dict(sorted({**{name: list(rows) for name, rows in earlier.items()}, **current}.items()))


def _kept_names(
    unnamed: Mapping[int, Sequence[int]],
    labels: np.ndarray,
    images: Sequence[str],
    earlier: Mapping[str, Sequence[str]],
) -> dict[int, str]:
    """Return the earlier names of clusters, each for one cluster at most."""
    row_of = {image: row for row, image in enumerate(images)}
    overlaps = []
    for name, old in earlier.items():
        rows = [row_of[image] for image in old if image in row_of]
        for label, count in Counter(labels[rows].tolist()).items():
            if label in unnamed and 2 * count > len(rows):
                overlaps.append((-count, name, unnamed[label][0], label))
    kept: dict[int, str] = {}
    for _, name, _, label in sorted(overlaps):
        if label not in kept and name not in kept.values():
            kept[label] = name
    return kept
