"""JSON files of a run folder that may be missing, because they are made anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whale_ray.errors import InputError


def read_optional_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file.

    Raises:
        InputError: If the file is damaged or cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path} must be a readable file, but: {error.strerror}. Delete it, it is made anew") from None
    except ValueError as error:  # also of bytes that are no text
        raise InputError(f"{path} must be JSON, but is damaged ({error}). Delete it, it is made anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, but holds another value. Delete it, it is made anew")
    return content
