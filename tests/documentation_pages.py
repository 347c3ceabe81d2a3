"""Text of the README, the contributing guide and the docs, without the generated reference."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ru.md", "CONTRIBUTING.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & set(path.parts)),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}


def blocks(language: str, *, holding: str = "") -> list[str]:
    """Return the fenced blocks of a language on all pages that hold a text."""
    found = (re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for text in TEXTS.values())
    return [block for page in found for block in page if holding in block]


def commands() -> list[str]:
    """Return every shell command of the pages once, in their order, lines joined that end with a backslash."""
    joined = "\n".join(block.replace("\\\n", " ") for block in blocks("sh"))
    lines = [line.strip() for line in joined.splitlines() if not line.startswith("#")]
    return list(dict.fromkeys(filter(None, lines)))
