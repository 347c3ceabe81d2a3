"""Names the application for Ray Serve: `serve run serve_app:app`, or `serve run serve_app:build bundle=PATH`."""

from __future__ import annotations

from typing import Any

from whale_ray.serving.deployment.launcher import build, build_from_environment
from whale_ray.serving.deployment.launcher import build_page_beside as page

__all__ = ["build", "page"]


def __getattr__(name: str) -> Any:
    # `app` is made when it is asked for, so that `build` needs no WHALE_RAY_BUNDLE.
    if name == "app":
        return build_from_environment()
    raise AttributeError(f"serve_app has `app`, `build` and `page`, but no {name!r}")
