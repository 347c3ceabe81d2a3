"""Table of the retrieval options: values, default, meaning, and under which other option each has an effect.

The sweep file, the table of settings, the importance analysis and the report read this table. Imports no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from whale_ray.retrieval.option_conditions import Condition


@dataclass(frozen=True, kw_only=True)
class RetrievalOption:
    """One option of `RetrievalSetting`, and one key of `retrieval` in a sweep file.

    Attributes:
        name: Field of `RetrievalSetting`, key of the sweep file and column of retrieval.csv.
        takes: Kind and limits of its values, as `sweep.config.fields.brief` reads them.
        default: Value in a sweep file that does not name it.
        meaning: Text of the settings reference.
        off: Value without effect; None if there is no such value.
        shown: Format of the value in a report.
        condition: The option that it depends on; None for none.
    """

    name: str
    takes: str
    default: Any
    meaning: str
    off: Any = None
    shown: str = "{}"
    condition: Condition | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """Values of an option of the kind `choice`; empty for numbers."""
        kind, *words = self.takes.split()
        return tuple(words) if kind == "choice" else ()

    @property
    def dtype(self) -> str | None:
        """Dtype of its column; None for text."""
        kind = self.takes.split()[0]
        return {"int": "Int64" if self.off is None else "int64", "float": "float64"}.get(kind)


_BY_IMAGES: Final = Condition("vote", unless=("centroid",))
_RERANKED: Final = Condition("rerank", only=("k_reciprocal",))

RETRIEVAL_OPTIONS: Final = (
    RetrievalOption(
        name="neighbours",
        takes="int >= 1 <= 1000",
        default=10,
        meaning="k: number of gallery images that vote",
        shown="k {:.0f}",
        condition=Condition("vote", only=("majority", "softmax")),
    ),
    RetrievalOption(
        name="vote",
        takes="choice nearest majority softmax centroid",
        default="nearest",
        meaning="how the nearest images become ranked individuals",
    ),
    RetrievalOption(
        name="temperature",
        takes="float > 0",
        default=0.05,
        meaning="temperature of the softmax vote",
        shown="τ {:g}",
        condition=Condition("vote", only=("softmax",)),
    ),
    RetrievalOption(
        name="flip",
        takes="choice none average",
        default="none",
        meaning="average: average the embeddings of the plain and the mirrored photograph",
        off="none",
        shown="plain and mirrored",
    ),
    RetrievalOption(
        name="whiten",
        takes="choice none pca learned",
        default="none",
        meaning="linear map of the vectors, fitted on the training photographs: pca, or learned from their labels",
        off="none",
        shown="whitened ({})",
    ),
    RetrievalOption(
        name="whitened_size",
        takes="int >= 2 <= 65536 or null",
        default=128,
        meaning="dimensions after whitening; null: all",
        shown="{:.0f} dimensions",
        condition=Condition("whiten", unless=("none",)),
    ),
    RetrievalOption(
        name="expand_query",
        takes="int >= 0 <= 1000",
        default=0,
        meaning="nearest gallery vectors added to the query, each weighted by its cosine cubed; 0: none",
        off=0,
        shown="query + {:.0f}",
    ),
    RetrievalOption(
        name="augment_gallery",
        takes="int >= 0 <= 1000",
        default=0,
        meaning="nearest gallery vectors added to each gallery vector, weighted likewise; 0: none",
        off=0,
        shown="gallery + {:.0f}",
    ),
    RetrievalOption(
        name="rerank",
        takes="choice none k_reciprocal",
        default="none",
        meaning="k_reciprocal: re-rank by shared reciprocal neighbors (not with the vote centroid)",
        off="none",
        shown="re-ranked ({})",
        condition=_BY_IMAGES,
    ),
    RetrievalOption(
        name="rerank_k1",
        takes="int >= 1 <= 1000",
        default=20,
        meaning="k_reciprocal: size of the reciprocal neighborhoods",
        shown="k1 {:.0f}",
        condition=_RERANKED,
    ),
    RetrievalOption(
        name="rerank_k2",
        takes="int >= 1 <= 1000",
        default=6,
        meaning="k_reciprocal: number of nearest encodings that are averaged; 1: none",
        shown="k2 {:.0f}",
        condition=_RERANKED,
    ),
    RetrievalOption(
        name="rerank_lambda",
        takes="float > 0 <= 1",
        default=0.3,
        meaning="k_reciprocal: weight of the cosine in the score",
        shown="λ {:g}",
        condition=_RERANKED,
    ),
    RetrievalOption(
        name="classifier_weight",
        takes="float >= 0 <= 1",
        default=0.0,
        meaning="weight of the cosine to the individual's proxy, for losses with proxies (not with the vote centroid)",
        off=0.0,
        shown="classifier {:g}",
        condition=_BY_IMAGES,
    ),
    RetrievalOption(
        name="side",
        takes="choice any same weighted",
        default="any",
        meaning="gallery images of another viewpoint (data.view_column); same: left out; weighted: with a penalty",
        off="any",
        shown="side {}",
    ),
    RetrievalOption(
        name="side_penalty",
        takes="float > 0 <= 2",
        default=0.1,
        meaning="weighted: number subtracted from the cosine or score of gallery images of another viewpoint",
        shown="penalty {:g}",
        condition=Condition("side", only=("weighted",)),
    ),
    RetrievalOption(
        name="local",
        takes="keypoints",
        default="none",
        meaning="keypoints that are fused with the embedding to re-rank the first individuals",
        off="none",
        shown="local {}",
    ),
)

_BY_NAME: Final = {option.name: option for option in RETRIEVAL_OPTIONS}


def option_choices(name: str) -> tuple[str, ...]:
    """Return the values of an option of the kind `choice`."""
    return _BY_NAME[name].choices


def has_effect(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether an option has an effect beside the values of the other options.

    >>> has_effect("temperature", {"vote": "softmax"}), has_effect("temperature", {"vote": "nearest"})
    (True, False)

    Args:
        name: Name of the option.
        values: Value by option; one that is missing is off, or at its default if it cannot be off.
    """
    condition = _BY_NAME[name].condition
    if condition is None:
        return True
    other = _BY_NAME[condition.key]
    absent = other.default if other.off is None else other.off
    return condition.holds(values.get(condition.key, absent)) and has_effect(condition.key, values)


def effective_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with every option that has no effect turned off, or left out if it cannot be off.

    >>> effective_values({"vote": "centroid", "neighbours": 5, "classifier_weight": 0.5})
    {'vote': 'centroid', 'classifier_weight': 0.0}
    """
    found = {}
    for name, value in values.items():
        if has_effect(name, values):
            found[name] = value
        elif _BY_NAME[name].off is not None:
            found[name] = _BY_NAME[name].off
    return found


def describe_setting(values: Mapping[str, Any]) -> str:
    """Return the options that are on, in few words; empty without a vote.

    >>> describe_setting({"vote": "softmax", "neighbours": 5, "temperature": 0.05, "flip": "none", "expand_query": 2})
    'softmax, k 5, τ 0.05, query + 2'

    Args:
        values: Value by option, such as a row of retrieval.csv; NaN and None count as missing.
    """
    given = {name: value for name in _BY_NAME if (value := values.get(name)) is not None and value == value}
    if "vote" not in given:
        return ""
    used = effective_values(given)
    on = [name for name in dict.fromkeys(("vote", *_BY_NAME)) if name in used and used[name] != _BY_NAME[name].off]
    return ", ".join(_BY_NAME[name].shown.format(used[name]) for name in on)
