"""Kinds of setting values: the check and the canonical form of one value, and the rule for error messages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from whale_ray.suggestions import did_you_mean, suggest

ENCODER_FAMILIES: Final = ("tiny", "torchvision", "hf", "timm")
WEIGHTS_WORDS: Final = ("pretrained", "random")
KEYPOINT_WORDS: Final = ("none", "sift", "orb")


def check_kind(kind: str, value: Any, *, choices: Sequence[str] = ()) -> Any:
    """Return a value in the canonical form of its kind: a float for a number, 256 for "256x256".

    Args:
        kind: `choice` or a key of `RULES`.
        value: Value from the YAML file.
        choices: Allowed values of the kind `choice`.

    Raises:
        ValueError: If the value is not of this kind; with a remedy, or empty if the rule is sufficient.
    """
    if kind != "choice":
        return _CHECKS[kind](value)
    if value not in choices:
        raise ValueError(suggest(str(value), choices))
    return str(value)


def image_size(value: int | str) -> tuple[int, int]:
    """Return height and width in pixels of `256` or `"256x512"`.

    Raises:
        ValueError: If it is neither, or a side is not from 16 to 4096.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(value))
    if not match:
        raise ValueError("Write 256, or '256x512' as height x width.")
    height, width = int(match[1]), int(match[2] or match[1])
    if not all(16 <= side <= 4096 for side in (height, width)):
        raise ValueError
    return height, width


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_unquote(value))
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_unquote(value))
    if not math.isfinite(value):
        raise ValueError("It must be finite.")
    return float(value)


def _unquote(value: Any) -> str:
    return "Take the quotes away." if isinstance(value, str) and re.fullmatch(r"[-+.\deE]*\d", value) else ""


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("" if value is None else "Write it in quotes.")
    if not value.strip() or "\0" in value:
        raise ValueError
    return value


def _folder_name(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]([\w.-]{0,62}[A-Za-z0-9_])?", _text(value), re.ASCII):
        raise ValueError("It names the run folder.")
    return str(value)


def _size(value: Any) -> int | str:
    height, width = image_size(value)
    return height if height == width else f"{height}x{width}"


def _encoder(value: Any) -> str:
    family, colon, name = _text(value).partition(":")
    if family not in ENCODER_FAMILIES:
        raise ValueError(suggest(family, ENCODER_FAMILIES) or did_you_mean([f"torchvision:{value}"]))
    if (family == "tiny") == bool(colon) or (colon and not name):
        raise ValueError("`tiny` takes no name, every other family needs one.")
    return str(value)


def _weights(value: Any) -> str:
    text = _text(value)
    if text not in WEIGHTS_WORDS and not re.search(r"[./\\]", text):
        raise ValueError(suggest(text, WEIGHTS_WORDS) or f"A file here would be written ./{text}")
    return text


def _keypoints(value: Any) -> str:
    text = _text(value)
    if text not in KEYPOINT_WORDS and not text.endswith(".onnx"):
        raise ValueError(suggest(text, KEYPOINT_WORDS))
    return text


def _server_url(value: Any) -> str:
    url = urlsplit(_text(value))
    if "@" in value:
        raise ValueError("Leave user and password out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError
    return str(value).rstrip("/")


def _database_url(value: Any) -> str:
    if not re.fullmatch(r"sqlite:///.+|postgresql(\+psycopg)?://.+", _text(value)):
        raise ValueError
    return str(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "text": _text,
    "folder_name": _folder_name,
    "size": _size,
    "encoder": _encoder,
    "weights": _weights,
    "keypoints": _keypoints,
    "server_url": _server_url,
    "database_url": _database_url,
}

RULES: dict[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "text": "text",
    "folder_name": "1 to 64 letters, digits, . _ or -, beginning and ending with a letter or digit",
    "size": "a side in pixels or 'HEIGHTxWIDTH', each side from 16 to 4096",
    "encoder": "tiny, torchvision:NAME, hf:NAME (a hub id or a folder) or timm:NAME (also hf-hub:ID or a folder)",
    "weights": "pretrained, random or the path of a file",
    "keypoints": "none, sift, orb, an ONNX file or KEYPOINTS.onnx+MATCHER.onnx",
    "database_url": "a URL such as sqlite:///studies.db or postgresql://user@host/name",
    "server_url": "the URL of a server, such as http://127.0.0.1:5000, without user and password",
}
