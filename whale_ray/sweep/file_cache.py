"""Cache of what was computed from files, for as long as a file does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
_Version = tuple[int, int, int]


class FileCache(Generic[T]):
    """A function of a file that computes each result once per version of the file.

    Callers share the results and must not change them. Results beyond the limit are computed each time.

    Args:
        function: Called with the path and further arguments.
        weigh: Returns the weight of a result.
        most: Largest sum of weights that is kept.
    """

    def __init__(
        self, function: Callable[..., T], *, weigh: Callable[[T], int] = lambda result: 1, most: int = 2**15
    ) -> None:
        self._function, self._weigh, self._most = function, weigh, most
        self._kept: dict[tuple[Hashable, ...], tuple[_Version, T]] = {}
        self._weight = 0

    def __call__(self, path: Path, *arguments: Hashable) -> T:
        """Return the result for the present version of a file.

        Args:
            path: The file.
            arguments: Further arguments of the function.

        Raises:
            FileNotFoundError: If there is no such file.
        """
        key, version = (path, *arguments), _version_of(path)
        kept = self._kept.get(key)
        if kept and kept[0] == version:
            return kept[1]
        result = self._function(path, *arguments)
        weight = self._weight + self._weigh(result) - (self._weigh(kept[1]) if kept else 0)
        if weight <= self._most:
            self._kept[key], self._weight = (version, result), weight
        return result


def _version_of(path: Path) -> _Version:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
