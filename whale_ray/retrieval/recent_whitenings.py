"""Whitenings that were fitted last, by their training vectors, for a process that needs the same ones again.

At the end of a sweep an ensemble is scored, and then the report shows its matches.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from whale_ray.retrieval.search.whitening import Whitening

_MOST_BYTES = 2**28


class RecentWhitenings:
    """Keeps the whitenings that were used last; threads may share it.

    Args:
        most_bytes: Largest size of all of them; with 0 none is kept.
    """

    def __init__(self, most_bytes: int = 0) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Whitening] = OrderedDict()

    def get_or_fit(
        self,
        fit: Callable[[], Whitening],
        vectors: np.ndarray,
        individuals: np.ndarray,
        *,
        kind: str,
        size: int | None,
        unknown_label: str,
    ) -> Whitening:
        """Return a kept whitening, or fit it; without a size it is as large as its vectors, and not kept.

        Args:
            fit: Returns the whitening of the other arguments, which are those of `fit_whitening`.
            vectors: Shape (N, D).
            individuals: Shape (N,).
            kind: `pca` or `learned`.
            size: Dimensions after whitening; None for all.
            unknown_label: Label of unknown individuals.
        """
        if not self.most_bytes or size is None:
            return fit()
        key = _digest(vectors, individuals, kind, size, unknown_label)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        fitted = fit()
        if fitted.all_directions is None:
            self._keep(key, fitted)
        return fitted

    def _keep(self, key: str, fitted: Whitening) -> None:
        # A copy, which does not hold the matrix that it is a part of; its order in memory is the same.
        copied = Whitening(fitted.mean, fitted.matrix.copy(order="K"))
        with self._lock:
            self._kept[key] = copied
            while sum(one.matrix.nbytes for one in self._kept.values()) > self.most_bytes:
                self._kept.popitem(last=False)

    @contextmanager
    def keeping(self, most_bytes: int = _MOST_BYTES) -> Iterator[None]:
        """Keep whitenings within the block.

        Args:
            most_bytes: Largest size of all of them.
        """
        self.most_bytes = most_bytes
        try:
            yield
        finally:
            self.most_bytes = 0
            self._kept.clear()


def _digest(vectors: np.ndarray, individuals: np.ndarray, kind: str, size: int, unknown_label: str) -> str:
    found = hashlib.sha256(repr((kind, size, unknown_label, vectors.shape, vectors.dtype.str)).encode())
    found.update(vectors.tobytes())
    found.update("\0".join(individuals.tolist()).encode())
    return found.hexdigest()


RECENT_WHITENINGS = RecentWhitenings()
"""Those of this process; `keeping` begins to keep them."""
