"""The proxies that a trial's loss has learned: rows beside its photographs' vectors, for a classifier in the retrieval.

Knows arrays and tables; `learning.proxies` knows how a loss holds them, `scores` where they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from whale_ray.errors import InputError
from whale_ray.retrieval.evaluation.search_runs import PROXY

if TYPE_CHECKING:
    from torch import nn

Views = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Proxies:
    """P vectors, float16 (P, D) of unit length, whom each stands for, and in which split it was learned, (P,) each."""

    vectors: np.ndarray
    individuals: np.ndarray
    splits: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """As they stand in embeddings.npz; `stored_proxies` reads them."""
        return {"proxies": self.vectors, "proxy_individual": self.individuals, "proxy_split": self.splits}


def learned_proxies(loss: nn.Module, table: pd.DataFrame, *, num_classes: int, unknown_label: str) -> Proxies | None:
    """The proxies of a loss that was trained on the `train` rows of a table; None where it has none.

    num_classes: of the training. Those beyond the named individuals, in the order of names, are of mirrored ones, whom
    nobody asks for.
    """
    from whale_ray.learning.losses.class_proxies import class_proxies

    vectors = class_proxies(loss, num_classes=num_classes)
    if vectors is None:
        return None
    names = np.array(sorted(set(table.loc[table["part"] == "train", "individual"]) - {unknown_label}), dtype=str)
    kept = vectors[: len(names)]
    individuals = np.repeat(names, kept.shape[1])
    return Proxies(kept.reshape(-1, kept.shape[2]), individuals, np.zeros(len(individuals), dtype=np.int64))


def in_split(proxies: Proxies | None, split: int) -> Proxies | None:
    """The same proxies, learned in another split."""
    return proxies and replace(proxies, splits=np.full(len(proxies.splits), split))


def join_proxies(parts: Sequence[Proxies | None]) -> Proxies | None:
    """The proxies of several splits, one after the other; None where a split has none."""
    found = [part for part in parts if part is not None]
    if not found or len(found) < len(parts):
        return None
    return Proxies(
        *(np.concatenate(each) for each in zip(*(tuple(vars(part).values()) for part in found), strict=True))
    )


def stored_proxies(stored: Mapping[str, np.ndarray], *, size: int) -> Proxies | None:
    """The proxies among the arrays of embeddings.npz, of D = `size`; None where there are none.

    Raises: InputError where they are not what `Proxies.arrays` gave.
    """
    if "proxies" not in stored:
        return None
    vectors, individuals, splits = (stored[name] for name in ("proxies", "proxy_individual", "proxy_split"))
    sound = vectors.dtype == np.float16 and individuals.dtype.kind == "U" and splits.dtype.kind == "i"
    if not sound or vectors.shape != (len(individuals), size) or individuals.shape != splits.shape:
        raise InputError(f"proxies must be float16 (P, {size}) with a name each, but are {vectors.shape}. Train again")
    return Proxies(vectors, individuals, splits)


def with_proxies(views: Views, table: pd.DataFrame, proxies: Proxies | None) -> tuple[Views, pd.DataFrame]:
    """Views and table with a row more for each proxy: of the part `proxy`, without an image, the same in each view."""
    if proxies is None:
        return views, table
    rows: dict[str, Any] = {"individual": proxies.individuals, "part": PROXY, "split": proxies.splits}
    more = pd.DataFrame(rows).reindex(columns=table.columns, fill_value="")
    every = {name: np.concatenate([view, proxies.vectors]) for name, view in views.items()}
    return every, pd.concat([table, more], ignore_index=True)
