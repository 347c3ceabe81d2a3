"""Largest photograph file. Imports nothing, so that a sweep file is checked without an image library."""

from typing import Final

MAX_BYTES: Final = 2**30  # for training and commands; a service has its own, smaller limit
