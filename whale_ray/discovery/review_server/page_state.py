"""State of a discovery session as JSON for the review page."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from whale_ray.discovery.constraints import Contradiction
from whale_ray.discovery.question_queue import Question
from whale_ray.discovery.records.answers import Answer
from whale_ray.discovery.session import DiscoverySession, DiscoveryState

_QUESTIONS = 12
_MATES = 6


def page_state(session: DiscoverySession) -> dict[str, Any]:
    """Return progress, the next questions, contradictions and the last answer."""
    state, answers = session.state, session.log.valid
    grouping, animals = state.grouping, state.grouping.animals
    return {
        "clustering": state.number,
        "is_clustering": session.is_clustering,
        "failure": session.failure,
        "photographs": len(session.images),
        "clusters": grouping.clusters,
        "singletons": grouping.singletons,
        "answers": len(answers),
        "animals": animals and {"count": animals.count, "low": animals.low, "high": animals.high},
        "questions": [_question(session, state, one) for one in session.open_questions[:_QUESTIONS]],
        "contradictions": [_contradiction(session, one, answers) for one in grouping.contradictions],
        "last": _answer(answers[-1]) if answers else None,
    }


def _question(session: DiscoverySession, state: DiscoveryState, question: Question) -> dict[str, Any]:
    return {
        "first": _photograph(session, state, question.first, other=question.second),
        "second": _photograph(session, state, question.second, other=question.first),
        "probability": question.probability,
    }


def _photograph(session: DiscoverySession, state: DiscoveryState, row: int, *, other: int) -> dict[str, Any]:
    labels = state.grouping.labels
    mates = [mate for mate in np.flatnonzero(labels == labels[row]).tolist() if mate not in (row, other)]
    return {
        "row": row,
        "image": session.images[row],
        "name": state.names.get(int(labels[row]), ""),
        "size": int((labels == labels[row]).sum()),
        "mates": [{"row": mate, "image": session.images[mate]} for mate in mates[:_MATES]],
    }


def _contradiction(session: DiscoverySession, found: Contradiction, answers: list[Answer]) -> dict[str, Any]:
    """Return both photographs and the answers that contradict each other: the chain of "same", and "different"."""
    chain = [session.images[row] for row in found.chain]
    first, second = (session.images[row] for row in found.pair)
    links = {frozenset(pair) for pair in pairwise(chain)}
    verdicts = [
        one
        for one in answers
        if (one.verdict == "same" and frozenset(one.pair) in links)
        or (one.verdict == "different" and set(one.pair) == {first, second})
    ]
    return {
        "first": {"row": found.pair[0], "image": first},
        "second": {"row": found.pair[1], "image": second},
        "chain": chain,
        "answers": [_answer(one) for one in verdicts],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "number": answer.number,
        "first": answer.first,
        "second": answer.second,
        "verdict": answer.verdict,
        "person": answer.person,
        "time": answer.time,
    }
