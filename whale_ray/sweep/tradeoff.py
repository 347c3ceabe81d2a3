"""Two objectives at once: a score that is to be large and a cost that is to be small, and what is best of both.

Knows records of trials; how a plot is drawn is known by `figures`.
"""

from __future__ import annotations

from collections.abc import Sequence

from whale_ray.sweep.figures import Curve, plot_curves, scale_of
from whale_ray.sweep.leaderboard import Record
from whale_ray.sweep.plots import Plot, describe, is_finite, is_share

_SAID = {"milliseconds_per_image": "milliseconds a photograph"}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, score) that no other beats in one without losing in the other, by cost.

    >>> pareto_front([(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (2.0, 0.3)])
    [0, 1]
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def front_of(records: Sequence[Record], *, score: str, cost: str) -> list[Record]:
    """The finished trials on the Pareto front, the cheapest first."""
    known = _known(records, score, cost)
    places = pareto_front([(float(one.result[cost]), float(one.result[score])) for one in known])
    return [known[place] for place in places]


def plot_tradeoff(records: Sequence[Record], *, score: str, cost: str) -> Plot | None:
    """Score against cost of the finished trials, the front joined by a line; None where there is none."""
    known, front = _known(records, score, cost), front_of(records, score=score, cost=cost)
    if not front:
        return None
    place = {one.trial: (float(one.result[cost]), float(one.result[score])) for one in known}
    best = {one.trial for one in front}
    line = Curve("the front: no trial is better in both", "c0", tuple(place[one.trial] for one in front))
    others = [Curve(describe(one), "c1", (place[one.trial],)) for one in known if one.trial not in best]
    x = scale_of([cost for cost, _ in place.values()], _SAID.get(cost, cost), zero=True)
    y = scale_of([score for _, score in place.values()], score, percent=is_share(score))
    said = "; ".join(
        f"{describe(one)}: {y.text(place[one.trial][1])} at {x.text(place[one.trial][0])}" for one in front
    )
    svg = plot_curves([line, *others], x=x, y=y, alt=f"{score} against {x.label}. On the front: {said}.")
    legend = (("c0", line.name), *((("c1", "other trials"),) if others else ()))
    return Plot(f"{score} against {x.label}", svg, legend, "Measured as the trial embedded its photographs.")


def _known(records: Sequence[Record], score: str, cost: str) -> list[Record]:
    finished = [one for one in records if one.status == "finished"]
    return [one for one in finished if is_finite(one.result.get(score)) and is_finite(one.result.get(cost))]
