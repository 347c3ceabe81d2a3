"""Constraints of a clustering: answers and names as must-link and cannot-link, and contradictions among them.

Links are made in a fixed order: photographs of one name first, then the answers "same" in the order of the answers.
A link is left out if it would join photographs of two names, or two photographs that were called different. Answers
"different" therefore never yield: if the answers of a chain contradict one of them, the newest "same" of the chain
is the one without an effect, and `find_contradictions` lists it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

Pair = tuple[int, int]


@dataclass(frozen=True)
class Constraints:
    """Answers about pairs of photographs, oldest first, and names of photographs.

    Attributes:
        same: Pairs that show the same animal.
        different: Pairs that show two animals.
        names: Photograph → name. One name is one animal; two names are two animals.
    """

    same: tuple[Pair, ...] = ()
    different: tuple[Pair, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    def check(self, count: int) -> None:
        """Raise ValueError if a photograph is not one of 0 to `count` - 1."""
        used = [*(row for pair in (*self.same, *self.different) for row in pair), *self.names]
        wrong = [row for row in used if not 0 <= row < count]
        if wrong:
            raise ValueError(f"photographs are 0 to {count - 1}, but the constraints have {wrong[0]}. Leave it out")


@dataclass(frozen=True)
class Contradiction:
    """Two photographs that must be different and are joined by a chain of "same".

    Attributes:
        pair: The photographs that were called different or have two names.
        chain: Photographs from the first of the pair to the second, each the same animal as the next.
    """

    pair: Pair
    chain: tuple[int, ...]


@dataclass(frozen=True)
class LinkedPhotographs:
    """The links that hold: photographs in components, and components that must stay apart.

    Attributes:
        component: Component of each photograph, int64, shape (N,), numbered by its first photograph's order.
        apart: Pairs of components that were called different, the smaller number first.
        names: Component → name.
    """

    component: np.ndarray
    apart: frozenset[Pair]
    names: Mapping[int, str]

    def are_same(self, first: int, second: int) -> bool:
        """Return whether the links say that two photographs show the same animal."""
        return bool(self.component[first] == self.component[second])

    def are_different(self, first: int, second: int) -> bool:
        """Return whether the links say that two photographs show two animals."""
        return self.must_differ(int(self.component[first]), int(self.component[second]))

    def must_differ(self, one: int, other: int) -> bool:
        """Return whether two components must stay apart."""
        names = self.names.get(one), self.names.get(other)
        return (min(one, other), max(one, other)) in self.apart or (None not in names and names[0] != names[1])

    def are_decided(self, first: int, second: int) -> bool:
        """Return whether a pair needs no question: it was answered, or follows from answers and names."""
        return self.are_same(first, second) or self.are_different(first, second)


def link_photographs(constraints: Constraints, count: int) -> LinkedPhotographs:
    """Return the links that hold among `count` photographs, as the module's docstring defines them.

    Args:
        constraints: Answers and names.
        count: Number of photographs, N.

    Raises:
        ValueError: If a photograph is not one of 0 to N - 1.
    """
    constraints.check(count)
    groups = _Groups(count, constraints.names)
    for first, second in constraints.different:
        groups.separate(first, second)
    for first, second in (*_name_links(constraints.names), *constraints.same):
        groups.join(first, second)
    roots = np.array([groups.find(row) for row in range(count)], dtype=np.int64)
    firsts, component = np.unique(roots, return_inverse=True)
    number = {int(root): place for place, root in enumerate(firsts)}
    apart = {
        (min(number[root], number[other]), max(number[root], number[other]))
        for root in number
        for other in (groups.find(row) for row in groups.others[root])
    }
    names = {number[root]: name for root, name in groups.names.items() if root in number}
    return LinkedPhotographs(component.astype(np.int64), frozenset(apart), names)


class _Groups:
    """Union-find whose groups know their name and the photographs that they must stay apart from."""

    def __init__(self, count: int, names: Mapping[int, str]) -> None:
        self.parent = list(range(count))
        self.names = dict(names)
        self.others: list[set[int]] = [set() for _ in range(count)]

    def find(self, row: int) -> int:
        """Return the root of a photograph's group."""
        while self.parent[row] != row:
            self.parent[row] = self.parent[self.parent[row]]
            row = self.parent[row]
        return row

    def separate(self, first: int, second: int) -> None:
        """Keep two photographs apart, before any group is joined."""
        if first != second:
            self.others[first].add(second)
            self.others[second].add(first)

    def join(self, first: int, second: int) -> None:
        """Join the groups of two photographs, unless these must stay apart."""
        kept, joined = sorted((self.find(first), self.find(second)))
        if kept == joined or joined in {self.find(row) for row in self.others[kept]}:
            return
        names = {self.names[root] for root in (kept, joined) if root in self.names}
        if len(names) > 1:
            return
        self.parent[joined] = kept
        self.others[kept] |= self.others[joined]
        if names:
            self.names[kept] = names.pop()


def _name_links(names: Mapping[int, str]) -> Iterator[Pair]:
    """Yield links that join the photographs of each name to its first."""
    first: dict[str, int] = {}
    for row in sorted(names):
        if first.setdefault(names[row], row) != row:
            yield first[names[row]], row


def find_contradictions(constraints: Constraints) -> list[Contradiction]:
    """Return each pair that must be different and is joined by a shortest chain of "same" or of one name.

    Two names that a chain joins are one contradiction, of the two nearest photographs of the chain.
    """
    neighbors: dict[int, list[int]] = {}
    for first, second in (*_name_links(constraints.names), *constraints.same):
        neighbors.setdefault(first, []).append(second)
        neighbors.setdefault(second, []).append(first)
    found = []
    for first, second in dict.fromkeys((min(pair), max(pair)) for pair in constraints.different):
        chain = _chain(neighbors, first, second.__eq__)
        if chain:
            found.append(Contradiction((first, second), chain))
    return found + _joined_names(constraints.names, neighbors)


def _joined_names(names: Mapping[int, str], neighbors: Mapping[int, list[int]]) -> list[Contradiction]:
    """Return one contradiction for each two names that a chain of answers joins directly."""
    found: dict[tuple[str, str], Contradiction] = {}
    for row in sorted(names):

        def is_other_name(other: int, own: str = names[row]) -> bool:
            return names.get(other, own) != own

        chain = _chain(neighbors, row, is_other_name)
        if chain:
            key = (min(names[row], names[chain[-1]]), max(names[row], names[chain[-1]]))
            if key not in found or len(chain) < len(found[key].chain):
                found[key] = Contradiction((row, chain[-1]), chain)
    return list(found.values())


def _chain(neighbors: Mapping[int, list[int]], start: int, is_goal: Callable[[int], bool]) -> tuple[int, ...]:
    """Return the shortest path from `start` to a goal, both included; empty if there is none."""
    before, waiting = {start: start}, deque([start])
    while waiting:
        row = waiting.popleft()
        if is_goal(row):
            path = [row]
            while path[-1] != start:
                path.append(before[path[-1]])
            return tuple(reversed(path))
        for other in neighbors.get(row, ()):
            if other not in before:
                before[other] = row
                waiting.append(other)
    return ()
