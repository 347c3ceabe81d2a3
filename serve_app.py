"""`whale_ray.serve_app` for a checkout: `serve run serve_app:app`, or `serve run serve_app:build bundle=PATH`."""

from __future__ import annotations

from typing import Any

from whale_ray import serve_app
from whale_ray.serve_app import build, page

__all__ = ["build", "page"]


def __getattr__(name: str) -> Any:
    return getattr(serve_app, name)
