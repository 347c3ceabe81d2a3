"""The folder of all caches of this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of all caches of this machine: WHALE_RAY_CACHE, else below the user's cache folder."""
    return Path(os.environ.get("WHALE_RAY_CACHE") or Path.home() / ".cache" / "whale_ray")


def pixel_cache() -> Path:
    """Return the folder of decoded images."""
    return cache_folder() / "pixels"
