"""What settings of one sweep forbid each other, found before anything starts.

Knows settings that are right by themselves (`reading`); what concerns retrieval stands here.
"""

from __future__ import annotations

from whale_ray.learning.proxies import PROXY_LOSSES
from whale_ray.sweep import search_conflicts, training_conflicts
from whale_ray.sweep.idle import check_idle
from whale_ray.sweep.reading import Reading
from whale_ray.sweep.training_conflicts import listed


def find_conflicts(reading: Reading) -> None:
    """Adds a fault for each pair of settings that cannot go together."""
    for check in (*search_conflicts.CHECKS, *training_conflicts.CHECKS, _check_scored_images, check_idle):
        check(reading)


def _check_scored_images(reading: Reading) -> None:
    asked = {
        "rerank: k_reciprocal": "k_reciprocal" in reading.retrieval.get("rerank", ()),
        "classifier_weight": any(reading.retrieval.get("classifier_weight", ())),
    }
    for written in (name for name, is_asked in asked.items() if is_asked):
        key = written.partition(":")[0]
        if reading.retrieval.get("vote") == ("centroid",):
            message = f"`{written}` scores images, but the vote centroid looks at none."
            reading.fault(f"retrieval.{key}", f"{message} Leave it out, or give another vote beside it.")
    losses = reading.possible("loss.name")
    if asked["classifier_weight"] and losses and not set(losses) & set(PROXY_LOSSES):
        message = (
            f"`classifier_weight` needs a loss with proxies ({', '.join(PROXY_LOSSES)}), but got {listed(losses)}."
        )
        reading.fault("retrieval.classifier_weight", f"{message} Leave it out, or take another loss.")
