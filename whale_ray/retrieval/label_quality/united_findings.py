"""Label errors by several votes: trained encoders, a keypoint matcher, and both together.

An encoder learns wrong labels by heart when it trains on them; a matcher that is not trained cannot. Encoders see
individuals under two names better.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from whale_ray.device import available_cpus
from whale_ray.retrieval.label_quality.label_errors import KINDS, LabelErrors, find_label_errors

_RECOGNISED = "recognised"


def joined_vectors(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return vectors whose cosines are the means of those of several encoders.

    Args:
        vectors: Unit vectors of the same N photographs by each encoder, shape (N, D_i).

    Returns:
        Shape (N, sum of D_i), of length 1.
    """
    return np.asarray(np.concatenate(vectors, axis=1) / np.sqrt(len(vectors)))


def unite_findings(
    encoders: Sequence[np.ndarray],
    matcher: np.ndarray | None,
    *,
    images: np.ndarray,
    individuals: np.ndarray,
    parts: np.ndarray,
    unknown_label: str,
) -> LabelErrors:
    """Return the findings of the encoders, of the matcher and of both together, each with its largest confidence.

    With a matcher, unknown animals are recognised by its vote alone or with the encoders, not by the encoders alone:
    encoders push the individuals that they know apart, and unknown animals lie between them.

    Args:
        encoders: Unit vectors by each encoder, one at least, shape (N, D_i).
        matcher: Unit vectors of a matcher, from `match_vectors`; None if there is none.
        images: File name of each row, shape (N,).
        individuals: Individual of each row, shape (N,).
        parts: Part of each row, shape (N,).
        unknown_label: Label of unknown individuals.
    """
    find = functools.partial(
        find_label_errors, images=images, individuals=individuals, parts=parts, unknown_label=unknown_label
    )
    together = joined_vectors(encoders)
    if matcher is None:
        return find(together)
    with ThreadPoolExecutor(available_cpus()) as threads:
        found, both, alone = threads.map(find, (together, joined_vectors([together, matcher]), matcher))
    first = found.table[found.table["kind"] != _RECOGNISED]
    doubts = _strongest(pd.concat([first, both.table, alone.table[alone.table["kind"] != "new_individual"]]))
    kept = both.reasons if both.reasons.keys() <= found.reasons.keys() else found.reasons
    return LabelErrors(doubts, {kind: reason for kind, reason in kept.items() if not (doubts["kind"] == kind).any()})


def _strongest(table: pd.DataFrame) -> pd.DataFrame:
    """Return each finding once, the most confident first, without those that a double name explains."""
    table = table.sort_values(["confidence", "image"], ascending=[False, True], kind="stable")
    doubles = table[table["kind"] == "same_individual"]
    explained = {frozenset(pair) for pair in zip(doubles["individual"], doubles["other_individual"], strict=True)}
    seen: set[tuple[str, frozenset[str]]] = set()
    rows: list[dict[str, object]] = []
    for row in table.to_dict("records"):
        kind = str(row["kind"])
        subject = {"same_individual": {row["individual"], row["other_individual"]}}.get(
            kind, {row["image"], row["other_image"]} if kind == "new_individual" else {row["image"]}
        )
        key = (kind, frozenset(map(str, subject)))
        is_explained = kind == "mislabelled" and frozenset((row["individual"], row["suggested"])) in explained
        if key not in seen and not is_explained:
            rows.append({str(name): value for name, value in row.items()})
            seen.add(key)
    united = pd.DataFrame(rows, columns=table.columns)
    order = united["kind"].map({kind: place for place, kind in enumerate(KINDS)})
    return united.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
