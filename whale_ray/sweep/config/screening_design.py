"""Screening designs: few trials that estimate the main effect of every two-valued axis.

A run is a row of 0 (first value of an axis) and 1 (second value). The columns come from Hadamard matrices (Sylvester,
1867; Paley, 1933; Plackett and Burman, 1946). The design of 2 N runs extends that of N runs by its fold-over, unless
that repeats a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

import numpy as np

from whale_ray.errors import InputError

MOST_RUNS = 256
_TRIED = 500


def smallest_screen(axes: int) -> int:
    """Return the least number of runs that separates `axes` main effects: a multiple of 4 above their number."""
    sizes = (runs for runs in range(4, MOST_RUNS + 1, 4) if runs > axes and _hadamard(runs) is not None)
    return next(sizes, MOST_RUNS)


def screens_of(axes: int) -> list[int]:
    """Return every number of runs for which `screen` has a design."""
    return [runs for runs in range(4, min(2**axes, MOST_RUNS) + 1, 4) if _design(axes, runs) is not None]


def screen(axes: int, runs: int) -> np.ndarray:
    """Return the design: integers 0 and 1, shape (runs, axes), distinct rows, first row all 0.

    Each value of an axis is in half of the runs, and each pair of values of two axes in a quarter of them.

    Args:
        axes: Number of axes.
        runs: Number of runs.

    Raises:
        InputError: If there is no such design.
    """
    found = _design(axes, runs)
    if found is None:
        near = sorted(screens_of(axes), key=lambda other: (abs(other - runs), other))[:3]
        raise InputError(
            f"a screen of {axes} axes needs a multiple of 4 above {axes} trials, no combination twice, but got {runs}. "
            f"Take {' or '.join(map(str, sorted(near)))}"
        )
    return found


@lru_cache(maxsize=256)
def _design(axes: int, runs: int) -> np.ndarray | None:
    if axes < 2 or runs % 4 or not axes < runs <= min(2**axes, MOST_RUNS):
        return None
    half = _design(axes, runs // 2)
    if half is not None and (doubled := _folded(half)) is not None:
        return doubled
    matrix = _hadamard(runs)
    if matrix is None:
        return None
    return next((rows for rows in _choices(matrix, axes) if _all_differ(rows)), None)


def _folded(design: np.ndarray) -> np.ndarray | None:
    """Return the design and its mirror image, mirrored in one axis if the full image repeats rows."""
    places = range(design.shape[1])
    for mirrored in (tuple(places), *((place,) for place in places)):
        image = design.copy()
        image[:, mirrored] = 1 - image[:, mirrored]
        if _all_differ(doubled := np.vstack([design, image])):
            return doubled
    return None


def _choices(matrix: np.ndarray, axes: int) -> Iterator[np.ndarray]:
    """Designs from `axes` columns of a Hadamard matrix; the last half of a doubled one gives resolution IV."""
    for columns in islice(combinations(range(len(matrix) - 1, 0, -1), axes), _TRIED):
        yield (matrix[:, columns] < 0).astype(np.int64)


def _all_differ(rows: np.ndarray) -> bool:
    return len(np.unique(rows, axis=0)) == len(rows)


@lru_cache(maxsize=64)
def _hadamard(size: int) -> np.ndarray | None:
    """Return a Hadamard matrix whose first row and column are ones; None if no construction here gives one."""
    if size == 2:
        return np.array([[1, 1], [1, -1]])
    if size % 4:
        return None
    if _is_prime(size - 1):
        return _normalised(_paley(size - 1))
    if (half := _hadamard(size // 2)) is not None:
        return np.asarray(np.kron(np.array([[1, 1], [1, -1]]), half))
    return _normalised(_paley_double(size // 2 - 1)) if size // 2 % 4 == 2 and _is_prime(size // 2 - 1) else None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


def _residues(prime: int) -> np.ndarray:
    """Return (prime, prime): 1 if column - row is a square modulo prime, else -1; 0 on the diagonal."""
    signs = np.full(prime, -1)
    signs[[number**2 % prime for number in range(prime)]] = 1
    signs[0] = 0
    places = np.arange(prime)
    return np.asarray(signs[(places[None, :] - places[:, None]) % prime])


def _paley(prime: int) -> np.ndarray:
    """Return a matrix of size prime + 1, a multiple of 4."""
    skew = np.zeros((prime + 1, prime + 1), dtype=np.int64)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, _residues(prime)
    return skew + np.eye(prime + 1, dtype=np.int64)


def _paley_double(prime: int) -> np.ndarray:
    """Return a matrix of size 2 (prime + 1); prime is one more than a multiple of 4."""
    even = np.ones((prime + 1, prime + 1), dtype=np.int64)
    even[0, 0], even[1:, 1:] = 0, _residues(prime)
    diagonal = np.eye(prime + 1, dtype=np.int64)
    return np.asarray(np.kron(even, [[1, 1], [1, -1]]) + np.kron(diagonal, [[1, -1], [-1, -1]]))


def _normalised(matrix: np.ndarray) -> np.ndarray:
    columns = np.asarray(matrix * matrix[0])
    return np.asarray(columns * columns[:, :1])


RESOLUTIONS = {
    0: "every combination, so that nothing is confounded",
    3: "resolution III, main effects are confounded with interactions of two axes, not with each other",
    4: "resolution IV, main effects are clear of interactions of two axes, which are confounded with each other",
    5: "resolution V or more, neither main effects nor interactions of two axes are confounded",
}


@dataclass(frozen=True)
class Confounding:
    """Effects that a design cannot separate.

    Attributes:
        resolution: 3, 4, or 5 for 5 and more; 0 for a full factorial design.
        aliases: For each axis, the pairs of axes whose interaction is part of its main effect, with the signed share.
    """

    resolution: int
    aliases: tuple[tuple[tuple[int, int, float], ...], ...]


def confounding(design: np.ndarray) -> Confounding:
    """Return the confounding of a design's main effects and two-axis interactions."""
    signs = 2.0 * design - 1.0
    runs, axes = signs.shape
    pairs = list(combinations(range(axes), 2))
    products = np.column_stack([signs[:, one] * signs[:, other] for one, other in pairs])
    mixed = np.round(signs.T @ products / runs, 6)
    aliases = tuple(tuple((*pairs[place], float(row[place])) for place in np.flatnonzero(row)) for row in mixed)
    if runs == 2**axes:
        return Confounding(0, aliases)
    if any(aliases):
        return Confounding(3, aliases)
    apart = np.round(products.T @ products / runs, 6)
    return Confounding(5 if np.array_equal(apart, np.eye(len(pairs))) else 4, aliases)


def fold_over(axes: int, runs: int) -> Confounding | None:
    """Return the confounding of twice as many runs; None if these runs are not part of that design.

    Args:
        axes: Number of axes.
        runs: Number of runs now.
    """
    doubled = _design(axes, 2 * runs)
    if doubled is None or not np.array_equal(doubled[:runs], screen(axes, runs)):
        return None
    return confounding(doubled)


def describe_aliases(aliases: Sequence[tuple[int, int, float]], names: Sequence[str]) -> str:
    """Return the interactions in words; partial ones are counted.

    >>> describe_aliases([(0, 1, 1.0)], ["pool", "flip", "blur"])
    'pool x flip'

    Args:
        aliases: Places of two axes and the signed share of their interaction.
        names: Names of the axes.
    """
    whole = [f"{names[one]} x {names[other]}" for one, other, share in aliases if abs(share) == 1]
    parts = [abs(share) for _, _, share in aliases if abs(share) < 1]
    words = [f"up to {max(parts):.2g} of each of {len(parts)} interactions"] if parts else []
    return ", ".join(whole + words)
