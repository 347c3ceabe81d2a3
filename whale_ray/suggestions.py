"""Suggestions for misspelled names: the sentence "Did you mean …?" of every error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def suggest(word: str, names: Iterable[str], *, count: int = 1, cutoff: float = 0.55) -> str:
    """Return "Did you mean `name`?" with the names most like a word; empty if none is similar.

    Upper and lower case count as equal.

    >>> suggest("Epoch", ["epochs", "batch_size"])
    'Did you mean `epochs`?'

    Args:
        word: The name that does not exist.
        names: The names that exist.
        count: Largest number of names in the sentence.
        cutoff: Least similarity, 0 to 1, of `difflib.SequenceMatcher`.
    """
    return did_you_mean(nearest_names(word, names, count=count, cutoff=cutoff))


def did_you_mean(names: Sequence[str], *, instead_of: str = "") -> str:
    """Return the question with these names; empty if there are none.

    Args:
        names: Names to offer.
        instead_of: The name that does not exist; the question repeats it if several names are missing.
    """
    asked = f" for `{instead_of}`" if instead_of else ""
    return f"Did you mean {' or '.join(f'`{name}`' for name in names)}{asked}?" if names else ""


def nearest_names(word: str, names: Iterable[str], *, count: int = 1, cutoff: float = 0.55) -> list[str]:
    """Return the names most like a word, the nearest first. Arguments as in `suggest`.

    Args:
        word: The name that does not exist.
        names: The names that exist.
        count: Largest number of names.
        cutoff: Least similarity, 0 to 1.
    """
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)
    return [lower[found] for found in difflib.get_close_matches(word.lower(), lower, n=count, cutoff=cutoff)]
