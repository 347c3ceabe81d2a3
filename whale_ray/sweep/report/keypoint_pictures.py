"""Pictures of the matched keypoints of example queries, for a best trial that ranks by local features too."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from whale_ray.device import available_cpus
from whale_ray.errors import InputError
from whale_ray.retrieval.local.learned.network_registry import features_kind, kind_of, matcher_of
from whale_ray.retrieval.local.local_features import LocalFeatures, extract_features, local_picture
from whale_ray.retrieval.local.match_drawing import draw_matches
from whale_ray.retrieval.local.verification import verify
from whale_ray.sweep.report.example_matches import Example, Examples
from whale_ray.sweep.report.thumbnails import SIDE, KeypointPicture, Photographs, jpeg_uri


def with_keypoints(examples: Examples, kind: str, photographs: Photographs) -> Examples:
    """Return the examples with a picture of matched keypoints for each mistake, and the first answer of the others.

    Args:
        examples: The examples.
        kind: Local features of the best trial's setting; `none` for no pictures.
        photographs: The photographs.
    """
    if kind == "none":
        return examples
    try:
        drawer = _Drawer(kind_of(kind), photographs)
    except InputError:  # the file of the network is no longer there
        return examples
    shown = [(one, 2) for one in examples.mistakes] + [(one, 1) for one in (*examples.strangers, *examples.right)]
    drawer.find([photograph for one, count in shown for photograph in _photographs(one, count)])
    return Examples(
        mistakes=tuple(drawer.drawn(one, 2) for one in examples.mistakes),
        strangers=tuple(drawer.drawn(one, 1) for one in examples.strangers),
        right=tuple(drawer.drawn(one, 1) for one in examples.right),
    )


def _photographs(example: Example, count: int) -> list[str]:
    return [example.query.image, *(answer.image for answer in example.answers[:count])]


@dataclass(frozen=True)
class _Found:
    picture: np.ndarray
    features: LocalFeatures


class _Drawer:
    """Finds the keypoints of each photograph once."""

    def __init__(self, kind: str, photographs: Photographs) -> None:
        self._kind, self._matcher, self._photographs = features_kind(kind), matcher_of(kind), photographs
        self._found: dict[str, _Found | None] = {}

    def find(self, images: Sequence[str]) -> None:
        """Find the keypoints of photographs on all cores."""
        names = list(dict.fromkeys(images))
        with ThreadPoolExecutor(available_cpus()) as threads:
            self._found |= dict(zip(names, threads.map(self._keypoints, names), strict=True))

    def drawn(self, example: Example, count: int) -> Example:
        """Return the example with the pictures of its first `count` answers."""
        query = self._found[example.query.image]
        pictures = []
        for answer in example.answers[:count]:
            other = self._found[answer.image]
            if query is None or other is None:
                continue
            verified = verify(query.features, other.features, matcher=self._matcher)
            jpeg = draw_matches(query.picture, other.picture, verified, side=SIDE)
            pictures.append(KeypointPicture(answer.role, answer.individual, jpeg_uri(jpeg), verified.inliers))
        return replace(example, keypoints=tuple(pictures))

    def _keypoints(self, image: str) -> _Found | None:
        photograph, _ = self._photographs.open(image)
        if photograph is None:
            return None
        picture = local_picture(photograph)
        return _Found(picture, extract_features(picture, self._kind))
