"""The section of the report on the shortcut audit."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from whale_ray.data.hints.audit_lines import count_of
from whale_ray.retrieval.shortcuts.shortcut_scores import ANIMAL, BACKGROUND, MARGIN, SHARE, WHOLE
from whale_ray.sweep.report.context import ReportContext
from whale_ray.sweep.report.shortcut_audit import audit_shortcuts, read_shortcut_audit

_TITLES = {WHOLE: "whole photograph", ANIMAL: "animal alone", BACKGROUND: "background alone"}


@dataclass(frozen=True)
class ShortcutRow:
    """Recall@1 on one part of the photographs; `low` and `high` are None if there is no interval."""

    title: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ShortcutSection:
    """Recall@1 of the bundle's encoder on whole photographs, the animal alone and the background alone.

    Attributes:
        verdict: A sentence; "" if there are no scores.
        flagged: The verdict is that the background is recognized.
        rows: Recall@1 by part.
        sampled: A sentence on the photographs that were used.
        audit: shortcut_audit.json.
        command: The command that uses all photographs.
        reason: Why there are no scores; "" if there are, or if the sweep is running.
        margin: Recall above chance that a flag needs.
        share: Share of the recall above chance that a flag needs.
    """

    verdict: str
    flagged: bool
    rows: tuple[ShortcutRow, ...]
    sampled: str
    audit: dict[str, Any]
    command: str
    reason: str
    margin: float = MARGIN
    share: float = SHARE


def build_shortcuts(page: ReportContext) -> ShortcutSection:
    """Return the section. Writes shortcut_audit.json unless the sweep is running."""
    catalog = page.photographs.catalog
    if page.best is None:
        audit: dict[str, Any] = {}
    elif page.live:
        audit = read_shortcut_audit(page.run)
    elif catalog is None:
        audit = {"reason": "the photographs cannot be read"}
    else:
        options: dict[str, Any] = {"thorough": page.thorough, "progress": page.progress}
        audit = audit_shortcuts(page.run, page.best, catalog, load=lambda: page.bundle, **options)
    command = f"whale-ray report {shlex.quote(str(page.run))} --thorough"
    if "recall" not in audit:
        return ShortcutSection("", False, (), "", audit, command, audit.get("reason", ""))
    rows = tuple(
        ShortcutRow(title, audit["recall"][part], *audit["intervals"][part]) for part, title in _TITLES.items()
    )
    return ShortcutSection(describe_verdict(audit), bool(audit["flagged"]), rows, _sampled(audit), audit, command, "")


def describe_verdict(audit: dict[str, Any]) -> str:
    """Return the verdict of an audit with scores as a sentence."""
    whole, background = audit["recall"][WHOLE], audit["recall"][BACKGROUND]
    figures = (
        f"recall@1 is {background:.2f} on the background alone, {whole:.2f} on whole photographs and "
        f"{audit['chance']:.2f} by chance"
    )
    if audit["flagged"] is None:
        return f"{count_of(audit['queries'], 'query', 'queries')}: too few to tell a shortcut from chance ({figures})"
    if not audit["flagged"]:
        return f"No shortcut was found: {figures}"
    share = f", {audit['share']:.0%} of the gain over chance" if audit["share"] is not None else ""
    return f"The encoder recognizes the place, not only the animal: {figures}{share}"


def _sampled(audit: dict[str, Any]) -> str:
    left_out = audit["asked"] - audit["separated"]
    found = ", ".join(f"{number} by {source}" for source, number in sorted(audit["sources"].items()))
    return (
        f"{count_of(audit['queries'], 'query', 'queries')} against {count_of(audit['gallery'], 'gallery photograph')}. "
        f"The animal was separated in {audit['separated']} of {count_of(audit['asked'], 'photograph')}: {found}"
        + (f"; {left_out} left out" if left_out else "")
        + (
            f". After {audit['seconds']:.0f} s, {audit['wanted'] - audit['asked']} of the sample were not looked at"
            if audit["asked"] < audit["wanted"]
            else ""
        )
    )
