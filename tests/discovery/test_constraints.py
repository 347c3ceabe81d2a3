"""Constraints: links that hold, implied answers and contradictions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from whale_ray.discovery.constraints import Constraints, Contradiction, find_contradictions, link_photographs


def test_same_answers_join_and_different_answers_part_whole_groups() -> None:
    links = link_photographs(Constraints(same=((0, 1), (1, 2), (4, 3))), 6)
    assert links.component.tolist() == [0, 0, 0, 1, 1, 2]
    links = link_photographs(Constraints(same=((0, 1), (4, 3)), different=((3, 1),)), 6)
    assert links.are_same(0, 1)
    assert links.are_different(0, 4)
    assert links.are_decided(4, 0)
    assert not links.are_decided(0, 2)


def test_names_join_photographs_of_one_name_and_part_those_of_two() -> None:
    links = link_photographs(Constraints(same=((0, 5),), names={0: "a", 2: "a", 3: "b"}), 6)
    assert links.are_same(0, 2)
    assert links.are_same(2, 5)
    assert links.are_different(5, 3)
    assert not links.are_decided(1, 3)


@pytest.mark.parametrize(
    ("constraints", "expected", "component"),
    [
        pytest.param(
            Constraints(same=((0, 1), (1, 2)), different=((0, 2),)),
            [Contradiction((0, 2), (0, 1, 2))],
            [0, 0, 1],
            id="the newest same of a chain has no effect",
        ),
        pytest.param(
            Constraints(same=((1, 2), (0, 1)), different=((2, 0),)),
            [Contradiction((0, 2), (0, 1, 2))],
            [0, 1, 1],
            id="in the order of the answers",
        ),
        pytest.param(
            Constraints(same=((0, 1),), different=((1, 0), (0, 1))),
            [Contradiction((0, 1), (0, 1))],
            [0, 1, 2],
            id="one pair with both answers",
        ),
        pytest.param(
            Constraints(same=((0, 2), (2, 1)), names={0: "a", 1: "b"}),
            [Contradiction((0, 1), (0, 2, 1))],
            [0, 1, 0],
            id="two names joined by answers",
        ),
        pytest.param(
            Constraints(different=((0, 2),), names={0: "a", 1: "a", 2: "a"}),
            [Contradiction((0, 2), (0, 2))],
            [0, 0, 1],
            id="one name called different",
        ),
        pytest.param(
            Constraints(different=((1, 1),)), [Contradiction((1, 1), (1,))], [0, 1, 2], id="one photograph with itself"
        ),
        pytest.param(Constraints(same=((0, 1),), different=((1, 2),)), [], [0, 0, 1], id="no contradiction"),
    ],
)
def test_contradictions_are_listed_and_not_merged(
    constraints: Constraints, expected: list[Contradiction], component: list[int]
) -> None:
    assert find_contradictions(constraints) == expected
    assert link_photographs(constraints, 3).component.tolist() == component


def test_a_photograph_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"photographs are 0 to 2, but the constraints have 3\. Leave it out"):
        link_photographs(Constraints(same=((0, 3),)), 3)


def test_many_random_answers_never_join_what_was_called_different() -> None:
    generator = np.random.default_rng(0)
    pairs = [tuple(sorted(generator.choice(30, 2, replace=False).tolist())) for _ in range(60)]
    constraints = Constraints(same=tuple(pairs[:40]), different=tuple(pairs[40:]), names={0: "a", 9: "b", 20: "a"})
    links = link_photographs(constraints, 30)
    assert not any(links.are_same(*pair) for pair in constraints.different)
    assert not links.are_same(0, 9)
    chains = [found.chain for found in find_contradictions(constraints)]
    joined = {frozenset(pair) for pair in (*constraints.same, (0, 20))}
    assert chains
    assert all(frozenset(step) in joined for chain in chains for step in itertools.pairwise(chain))
