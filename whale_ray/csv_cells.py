"""CSV cells that spreadsheets do not take for formulas, and that can be read back."""

from __future__ import annotations

_FORMULA = tuple("=+-@\t")


def as_cell(text: str) -> str:
    """Return the text as a cell: an apostrophe precedes what a spreadsheet would take for a formula.

    >>> as_cell("=HYPERLINK(1)"), as_cell("w_01")
    ("'=HYPERLINK(1)", 'w_01')
    """
    line = text.replace("\r", " ")
    return f"'{line}" if line.lstrip("'").startswith(_FORMULA) else line


def from_cell(cell: str) -> str:
    """Return the text that `as_cell` wrote.

    >>> from_cell("'=HYPERLINK(1)"), from_cell("'quoted'")
    ('=HYPERLINK(1)', "'quoted'")
    """
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
