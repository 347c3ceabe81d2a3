"""Names of the scores: the recall cutoffs and everything that a sweep may maximize. Imports no numpy."""

from __future__ import annotations

from typing import Final

CUTOFFS: Final = (1, 2, 4, 8, 16, 32)
"""The values of K in recall@K and image_recall@K."""

MAP: Final = "map@5"
RECALLS: Final = tuple(f"recall@{cutoff}" for cutoff in CUTOFFS)
IMAGE_RECALLS: Final = tuple(f"image_recall@{cutoff}" for cutoff in CUTOFFS)
OBJECTIVES: Final = (*RECALLS, *IMAGE_RECALLS, MAP)
"""The scores that a sweep may maximize."""
