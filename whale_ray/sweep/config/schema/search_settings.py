"""Schema of the sections `search` and `retrieval`: how trials are drawn and scored."""

from __future__ import annotations

from functools import partial
from typing import Final

from whale_ray.retrieval.evaluation.score_names import DECISION_RULES, OBJECTIVES
from whale_ray.retrieval.search.retrieval_options import RETRIEVAL_OPTIONS
from whale_ray.sweep.config.fields import Setting, brief

SPEED: Final = "milliseconds_per_image"

_free = partial(brief, axis=True)

RETRIEVAL_SETTINGS: tuple[Setting, ...] = (
    *(_free(f"retrieval.{one.name}", one.takes, one.default, one.meaning) for one in RETRIEVAL_OPTIONS),
    brief(
        "retrieval.decide",
        " ".join(("choice", *DECISION_RULES)),
        "balanced",
        "what decides that an animal is new: the probability of new above one half, if half of the animals were new "
        "(balanced) or a share of new_share (cost); or the threshold of map@5. A submission follows map@5",
    ),
    brief(
        "retrieval.new_share",
        "float > 0 < 1 or null",
        None,
        "share of new animals expected in service, for `decide: cost`; null: as in validation",
    ),
)

SEARCH_SETTINGS: tuple[Setting, ...] = (
    brief(
        "search.strategy",
        "choice grid screen random optuna",
        "grid",
        "grid: every combination; screen: a screening design of two values per axis; others: drawn trials",
    ),
    brief(
        "search.trials",
        "int >= 1",
        20,
        "number of drawn trials (not with a grid); size of a screen, by default the smallest",
    ),
    brief(
        "search.hours",
        "float > 0 or null",
        None,
        "hours of all sessions together, after which no trial starts; null: no limit",
    ),
    brief("search.objective", " ".join(("choice", *OBJECTIVES)), "recall@1", "score to maximize"),
    brief(
        "search.also",
        f"choice none {SPEED}",
        "none",
        f"second objective, minimized; `objective: [recall@1, {SPEED}]` is short for both",
    ),
    brief(
        "search.prefer",
        " ".join(("choice none", *OBJECTIVES, SPEED)),
        "none",
        "objective that ranks the trials and chooses the bundle; none: the first",
    ),
    brief("search.scheduler", "choice none asha", "none", "asha stops weak trials early, compared within each encoder"),
    brief(
        "search.resource",
        "choice epochs seconds",
        "epochs",
        "unit of `grace` (asha)",
    ),
    brief("search.grace", "float > 0", 1.0, "resource that every trial gets before it may be stopped (asha)"),
    brief("search.reduction_factor", "int >= 2", 3, "one trial in this many continues (asha)"),
    brief(
        "search.storage",
        "database_url or null",
        None,
        "database of the Optuna study; null: study.db in the run folder. The run folder records no password",
    ),
    brief("search.repeats", "int >= 0", 0, "number of new seeds for each finalist; the best mean wins"),
    brief("search.finalists", "int >= 1", 3, "number of best trials that are repeated"),
    brief(
        "search.ensemble",
        "int >= 0 <= 16",
        0,
        "number of trials whose embeddings are joined at the end, the best of each encoder first; 0: no ensemble",
    ),
    brief("search.seed", "int >= 0 <= 4294967295", 0, "seed of the draws; left out: as `seed` (its first value)"),
)
