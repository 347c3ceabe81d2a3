"""Class proxies of a trial: read from its loss, joined over its splits, converted to and from stored arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from whale_ray.errors import InputError
from whale_ray.retrieval.search.proxy_classifier import ClassProxies

if TYPE_CHECKING:
    from torch import nn

SplitProxies = Mapping[int, ClassProxies]
"""The class proxies of a trial by split; empty if its loss has none."""


def learned_proxies(
    loss: nn.Module, table: pd.DataFrame, *, num_classes: int, unknown_label: str
) -> ClassProxies | None:
    """Return the class proxies of a trained loss; None if it has none.

    Args:
        loss: The loss.
        table: The photographs of its split: columns individual and part. The named individuals of the part `train`,
            in the order of their names, are the first classes.
        num_classes: Number of classes in training. Classes after the named individuals are those of mirrored images;
            they are left out.
        unknown_label: Label of unknown individuals.
    """
    from whale_ray.learning.losses.proxy_extraction import class_proxies

    vectors = class_proxies(loss, num_classes=num_classes)
    if vectors is None:
        return None
    names = np.array(sorted(set(table.loc[table["part"] == "train", "individual"]) - {unknown_label}), dtype=str)
    kept = vectors[: len(names)]
    return ClassProxies(kept.reshape(-1, kept.shape[2]), np.repeat(names, kept.shape[1]))


def join_proxies(proxies: SplitProxies) -> ClassProxies | None:
    """Return the class proxies of all splits as one; None if there are none."""
    if not proxies:
        return None
    parts = proxies.values()
    return ClassProxies(
        np.concatenate([part.vectors for part in parts]), np.concatenate([part.individuals for part in parts])
    )


def proxies_to_arrays(proxies: SplitProxies) -> dict[str, np.ndarray]:
    """Return the arrays of embeddings.npz that hold the class proxies; no array if there are none."""
    joined = join_proxies(proxies)
    if joined is None:
        return {}
    splits = np.repeat(np.array(list(proxies), dtype=np.int64), [len(part) for part in proxies.values()])
    return {"proxies": joined.vectors, "proxy_individual": joined.individuals, "proxy_split": splits}


def proxies_from_arrays(stored: Mapping[str, np.ndarray], *, size: int) -> dict[int, ClassProxies]:
    """Return the class proxies that `proxies_to_arrays` stored, by split.

    Args:
        stored: Arrays of embeddings.npz.
        size: Dimension D of the embeddings.

    Raises:
        InputError: If the arrays have another type or shape.
    """
    if "proxies" not in stored:
        return {}
    vectors, individuals, splits = (stored[name] for name in ("proxies", "proxy_individual", "proxy_split"))
    sound = vectors.dtype == np.float16 and individuals.dtype.kind == "U" and splits.dtype.kind == "i"
    if not sound or vectors.shape != (len(individuals), size) or individuals.shape != splits.shape:
        raise InputError(f"proxies must be float16 (P, {size}) with a name each, but are {vectors.shape}. Train again")
    return {
        split: ClassProxies(vectors[splits == split], individuals[splits == split])
        for split in np.unique(splits).tolist()
    }
