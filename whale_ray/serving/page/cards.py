"""What the page shows of one photograph, of one candidate, and of what was done: each as a line of HTML.

Knows the page's words and the service's answers; knows no Gradio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale_ray.serving.page.gradio_guard import TEMPLATES
from whale_ray.serving.schemas import Problem
from whale_ray.serving.translations import Words

_CARDS: Any = TEMPLATES.get_template("cards.html.j2").module


@dataclass(frozen=True, eq=False)  # Gradio hashes what a page remembers
class Asked:
    """A photograph and what the service says of it. struck: whom the reader rejected. said: what became of it."""

    path: str
    result: dict[str, Any]
    struck: tuple[str, ...] = ()
    said: str = ""

    @property
    def name(self) -> str:
        """What the reader calls it."""
        return Path(self.path).name

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Those that were not rejected."""
        return [one for one in self.result.get("candidates", ()) if one["individual"] not in self.struck]

    @property
    def is_open(self) -> bool:
        """Whether the reader may still confirm or reject."""
        return not self.said and "candidates" in self.result

    @property
    def likely(self) -> bool:
        """Whether what was decided has a probability of at least a half, or none is known: scores decide, not those."""
        new = self.result["new_individual"]
        probability = new["probability"] if new["decision"] == "new" else self.candidates[0]["probability"]
        return probability is None or probability >= 0.5


def verdict(words: Words, asked: Asked) -> str:
    """Known or new, and how probable that is; or the problem of the photograph, or what became of it."""
    return str(_CARDS.verdict(words, asked))


def query(words: Words, asked: Asked) -> str:
    """The reader's photograph."""
    return str(_CARDS.query(words, asked))


def candidate(words: Words, one: dict[str, Any]) -> str:
    """Whom it may show, beside the photograph that it resembles."""
    return str(_CARDS.candidate(words, one))


def refusal(words: Words, problem: Problem) -> str:
    """Why the service refused, in the page's language where there are words for it, and in the service's own."""
    return str(_CARDS.refusal(words, problem.status, problem.detail))


def note(text: str, *, is_problem: bool = False) -> str:
    """What was done, or why it could not be."""
    return str(_CARDS.note(text, is_problem))
