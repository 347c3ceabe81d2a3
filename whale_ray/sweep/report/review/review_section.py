"""The section of the report on label errors and copies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from whale_ray.sweep.report.context import ReportContext
from whale_ray.sweep.report.example_matches import missing_files
from whale_ray.sweep.report.review.label_review import REVIEW, Shown, show_review, write_review


@dataclass(frozen=True)
class ReviewSection:
    """Likely label errors and near-duplicates for a person to confirm."""

    review: Mapping[str, Shown]
    path: str


def build_review(page: ReportContext) -> ReviewSection:
    """Return the review section. Writes review.csv unless the sweep is running."""
    if page.best and not page.live and not missing_files(page.best):
        kinds = [str(kind) for kind in page.sweep.retrieval.get("local", ()) if kind != "none"]
        keypoints = kinds[0] if kinds else "sift" if page.thorough else "none"
        write_review(
            page.best,
            page.run,
            page.photographs,
            records=page.records,
            keypoints=keypoints,
            progress=page.progress,
        )
    return ReviewSection(show_review(page.run, page.photographs), shlex.quote(f"{page.run}/{REVIEW}"))
