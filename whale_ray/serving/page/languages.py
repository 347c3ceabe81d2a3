"""Languages of the web page: their texts, and the choice of one from an `Accept-Language` header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

ASSETS = files(__package__) / "assets"
LANGUAGES: Mapping[str, Mapping[str, Any]] = {
    code: json.loads((ASSETS / f"{code}.json").read_text("utf-8")) for code in ("en", "ru")
}
"""Language code → texts of the page by key. Braces in a text are placeholders, such as `{individual}`."""


def preferred_language(accept: str) -> str:
    """Return the first language of an `Accept-Language` header that the page has; "en" if it has none of them.

    >>> preferred_language("ru-RU,ru;q=0.9,en;q=0.8"), preferred_language("de,en;q=0.5"), preferred_language("")
    ('ru', 'en', 'en')
    """
    codes = (part.partition(";")[0].strip().lower()[:2] for part in accept.split(","))
    return next((code for code in codes if code in LANGUAGES), "en")
