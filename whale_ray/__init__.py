"""Finds the best way to recognise individual whales in your photographs, and puts it into service.

Importing this package imports neither torch nor Ray; each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whale_ray.inference.predictor import Bundle as Bundle
    from whale_ray.sweep.config.sweep_spec import load_sweep as load_sweep
    from whale_ray.sweep.execution.driver import run_sweep as run_sweep

__version__ = "0.2.0"
_HOMES = {
    "Bundle": "whale_ray.inference.predictor",
    "load_sweep": "whale_ray.sweep.config.sweep_spec",
    "run_sweep": "whale_ray.sweep.execution.driver",
}
__all__ = ["Bundle", "load_sweep", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whale_ray' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
