"""Verbosity of the command line: `--quiet`, the default, `--verbose`."""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("whale_ray")


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Set the level of the `whale_ray` logger: DEBUG with `verbose`, WARNING with `quiet`, else INFO.

    Args:
        verbose: Also write log records of level DEBUG to standard error.
        quiet: Write results, warnings and errors only. `verbose` wins if both are given.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    _LOGGER.setLevel(level)
    if verbose and not _LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _LOGGER.addHandler(handler)


def is_quiet() -> bool:
    """Return whether progress output is switched off."""
    return _LOGGER.level == logging.WARNING
