"""JSON files with photographs and boxes: COCO, and the output of MegaDetector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whale_ray.errors import DataError

_MOST_BYTES = 2**31


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If the file cannot be read or is not JSON, with line and column.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"a JSON file has at most {_MOST_BYTES:,} bytes, but {path} has more. Split it")
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} must be JSON, but is not at line {error.lineno}, column {error.colno}: {error.msg}. Export it "
            "again"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be JSON in UTF-8, but byte {error.start} is not. Export it again") from None
    except RecursionError:
        raise DataError(f"{path} must be JSON, but is nested too deeply. Export it again") from None
    except OSError as error:
        raise DataError(f"{path} must be a readable JSON file, but: {error.strerror}. Name another file") from None


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file has the lists of COCO."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def is_megadetector(content: Any) -> bool:
    """Return whether the content of a JSON file is the output of MegaDetector."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list) or is_coco(content):
        return False
    entries = content["images"]
    return "detection_categories" in content or any(isinstance(one, dict) and "detections" in one for one in entries)


def described(content: Any) -> str:
    """Return the top level of a JSON file as words, for messages."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__} at the top"
    return f"the keys {', '.join(map(str, list(content)[:8]))}" if content else "no key"


def text_of(entry: Mapping[str, Any], *keys: str) -> str:
    """Return the first value of these keys that is a text or a number, as text; "" if there is none.

    Args:
        entry: An object of a JSON file.
        *keys: Keys, the preferred one first.
    """
    for key in keys:
        value = entry.get(key)
        is_text = isinstance(value, str | int | float) and not isinstance(value, bool) and value == value
        if is_text and str(value).strip():
            return str(value).strip().encode(errors="replace").decode()  # JSON may hold half of a surrogate pair
    return ""
