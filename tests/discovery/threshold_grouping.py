"""A small discovery whose grouping is simple: photographs joined by the answer "same" are a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from whale_ray.data.catalog import Catalog
from whale_ray.discovery.constraints import Contradiction
from whale_ray.discovery.grouping import Grouping
from whale_ray.discovery.question_queue import Question
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
from whale_ray.discovery.session import DiscoverySession, RowAnswers

COUNT = 5


def group_by_answers(answers: RowAnswers) -> Grouping:
    """Join photographs that were answered "same", and ask about all other pairs in order."""
    labels = np.arange(COUNT)
    for first, second in answers.same:
        labels[labels == labels[second]] = labels[first]
    done = {frozenset(pair) for pair in (*answers.same, *answers.different, *answers.undecided)}
    questions = [
        Question(first, second, 0.5, 1.0)
        for first, second in combinations(range(COUNT), 2)
        if frozenset((first, second)) not in done
    ]
    conflicts = [Contradiction((a, b), (a, b)) for a, b in answers.different if labels[a] == labels[b]]
    return Grouping(labels, np.ones(COUNT), questions, conflicts)


@contextmanager
def little_session(folder: Path) -> Iterator[DiscoverySession]:
    """A session on five photographs of noise, the first one named."""
    names = [f"{row}<b>.png" for row in range(COUNT)]
    generator = np.random.default_rng(0)
    (folder / "photographs").mkdir()
    for name in names:
        Image.fromarray(generator.integers(0, 255, (40, 80, 3), dtype=np.uint8)).save(folder / "photographs" / name)
    rows = pd.DataFrame({"image": names, "individual": ["Ada", *["new_whale"] * (COUNT - 1)]})
    catalog = Catalog(rows, folder / "photographs", "new_whale")
    opened = DiscoveryFolder(folder / "discover")
    with opened.opened(folder / "photographs"):
        session = DiscoverySession(opened, catalog, names, group_by_answers)
        yield session
        session.wait()
