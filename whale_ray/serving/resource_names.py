"""Names of individuals and images: their URL paths, names that a path cannot hold, and the rule for new names.

Clients and proxies resolve `.` and `..` in a path, also percent-encoded, and some decode `%2F`. Such a name is given by
a query parameter, and its path segment is `-`.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from whale_ray.serving.problem_details import RefusalError

PLACEHOLDER = "-"
"""Path segment whose name is in the query."""
MAX_NAME_LENGTH = 100


def resolve_name(segment: str, given: str | None, *, parameter: str) -> str:
    """Return the name that a call addresses: that of the query parameter, or else that of the path.

    Args:
        segment: Name in the path.
        given: Value of the query parameter; None if it was not sent.
        parameter: Name of the query parameter.

    Raises:
        RefusalError: 400, if both name something.
    """
    if given is None:
        return segment
    if segment != PLACEHOLDER:
        raise RefusalError(
            400,
            f"the path must have `{PLACEHOLDER}` where `{parameter}` is in the query, but has {segment!r}. Write "
            f"`{PLACEHOLDER}` there, or leave out `{parameter}`",
        )
    return given


def individual_path(name: str) -> tuple[str, dict[str, str]]:
    """Return path and query of an individual.

    >>> individual_path("w_01"), individual_path("..")
    (('/v1/individuals/w_01', {}), ('/v1/individuals/-', {'individual': '..'}))
    """
    if "/" in name or not _survives(name):
        return f"/v1/individuals/{PLACEHOLDER}", {"individual": name}
    return f"/v1/individuals/{quote(name, safe='')}", {}


def thumbnail_path(image: str) -> tuple[str, dict[str, str]]:
    """Return path and query of a gallery image's thumbnail."""
    if not _survives(image):
        return f"/v1/images/{PLACEHOLDER}", {"image": image}
    return f"/v1/images/{quote(image, safe='')}", {}


def _survives(name: str) -> bool:
    """Return whether a name in a path stays what it is in clients and proxies that normalise or decode paths again."""
    return "%" not in name and not {"", ".", ".."} & set(name.split("/"))


def check_new_name(name: str) -> None:
    """Raise RefusalError 400 unless a new individual may have this name."""
    is_plain = name.isprintable() and "/" not in name and name == unicodedata.normalize("NFC", name.strip())
    if not (is_plain and 0 < len(name) <= MAX_NAME_LENGTH and name not in (".", "..")):
        raise RefusalError(
            400,
            f"the name of a new individual must have 1 to {MAX_NAME_LENGTH} printable characters (NFC), no slash "
            f"and no space at either end, but got {name[:MAX_NAME_LENGTH]!r}. Choose another name",
        )
