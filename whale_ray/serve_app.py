"""Import paths for Ray Serve: `serve run whale_ray.serve_app:build bundle=PATH`.

`app` reads the environment variable WHALE_RAY_BUNDLE when it is first used; `build` takes settings instead.
"""

from __future__ import annotations

from typing import Any

from whale_ray.serving.deployment.launcher import build, build_from_environment
from whale_ray.serving.deployment.launcher import refuse_page_application as page

__all__ = ["build", "page"]


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_from_environment()
    raise AttributeError(f"whale_ray.serve_app has `app` and `build`, but no {name!r}")
