"""Names in a CSV that a spreadsheet may open: none of them is taken for a formula, and all can be read back."""

from __future__ import annotations

_FORMULA = tuple("=+-@\t")


def as_cell(text: str) -> str:
    """The text as a cell holds it: with an apostrophe before what a spreadsheet would take for a formula.

    >>> as_cell("=HYPERLINK(1)"), as_cell("w_01")
    ("'=HYPERLINK(1)", 'w_01')
    """
    line = text.replace("\r", " ")
    return f"'{line}" if line.lstrip("'").startswith(_FORMULA) else line


def from_cell(cell: str) -> str:
    """The text that `as_cell` wrote.

    >>> from_cell("'=HYPERLINK(1)"), from_cell("'quoted'")
    ('=HYPERLINK(1)', "'quoted'")
    """
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
