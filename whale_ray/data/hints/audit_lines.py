"""Text of an audit's findings: a line for each kind of finding and each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whale_ray.data.encounters.grouping import describe_encounters
from whale_ray.data.encounters.same_day import describe_same_day

MAX_LISTED = 10


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun in the singular or the plural.

    Args:
        number: 0 or more.
        one: The words that follow 1.
        many: The words that follow any other number; left out: `one` with an s.

    >>> count_of(1, "photograph"), count_of(0, "photograph"), count_of(2, "picture is", "pictures are")
    ('1 photograph', '0 photographs', '2 pictures are')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def describe_findings(found: Mapping[str, Any], *, most: int | None = MAX_LISTED) -> list[str]:
    """Return the findings of an audit as lines of text.

    Args:
        found: The findings, as in audit.json.
        most: Largest number of rows per kind of finding; None for all.
    """
    lines = [_summary(found)]
    for (one, many), rows in _sections(found):
        lines += _section(one, many, rows, most)
    lines += [f"hint: {hint}" for hint in found["hints"]]
    lines = lines if len(lines) > 1 else [*lines, "nothing wrong was found"]
    closing = (describe_encounters(found), describe_same_day(found.get("same_day", {})), found.get("drawn", ""))
    return [*lines, *filter(None, closing)]


def _summary(found: Mapping[str, Any]) -> str:
    aside = len(found["set_aside"])
    named = found["animals"] - aside - found["unknown"]
    rows = count_of(found["photographs"], "photograph")
    if found["animals"] > found["photographs"]:
        rows = f"{count_of(found['animals'], 'animal')} in {rows}"
    return (
        f"{rows}: {named} of {count_of(found['individuals'], 'named individual')} "
        f"({found['singletons']} with one photograph), {found['unknown']} of unknown ones"
        + (f", {aside} unusable" if aside else "")
        + (f"; {count_of(found['groups'], 'encounter')}" if found["groups"] else "")
    )


def _sections(found: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Yield the heading of each kind of finding, in the singular and the plural, and its rows."""
    yield (
        ("photograph cannot be used and is set aside", "photographs cannot be used and are set aside"),
        [f"{row['image']}: {row['status']}, {row['reason']}" for row in found["set_aside"]],
    )
    yield (
        ("individual has no photograph that can be used", "individuals have no photograph that can be used"),
        list(found["without_photograph"]),
    )
    conflicting = [one["images"] for one in found["conflicts"]]
    together = "; the split keeps the copies together"
    yield (
        (f"picture is there more than once{together}", f"pictures are there more than once{together}"),
        [", ".join(images) for images in found["twins"] if images not in conflicting],
    )
    wrong = "two individuals or more, so that a label is wrong"
    yield (
        (f"picture has {wrong}; it is trained on only", f"pictures have {wrong}; they are trained on only"),
        [f"{' and '.join(one['individuals'])}: {', '.join(one['images'])}" for one in found["conflicts"]],
    )
    wrong = "two species or more, so that a label is wrong"
    yield (
        (f"individual has {wrong}", f"individuals have {wrong}"),
        [f"{one['individual']}: {', '.join(one['species'])}" for one in found.get("several_species", ())],
    )
    yield (
        ("photograph was read, but the decoder warns", "photographs were read, but the decoder warns"),
        [f"{row['image']}: {row['remark']}" for row in found["remarks"]],
    )


def _section(one: str, many: str, rows: Sequence[str], most: int | None) -> list[str]:
    """Return a heading with the number of rows and the first rows; nothing if there are no rows."""
    if not rows:
        return []
    more = len(rows) - len(rows[:most])
    lines = [f"{count_of(len(rows), one, many)}:", *(f"  {row}" for row in rows[:most])]
    return [*lines, f"  and {more} more in audit.json"] if more else lines
