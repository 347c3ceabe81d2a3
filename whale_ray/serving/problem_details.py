"""Problems (RFC 9457): the body of a refusal, and the exception that carries it to the caller."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel

from whale_ray.errors import ImageError, WhaleRayError

PROBLEM_TYPE = "application/problem+json"


class Problem(BaseModel):
    """A refusal; `detail` has the rule, the value and the remedy."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class RefusalError(WhaleRayError):
    """A request that is answered with a problem.

    Args:
        status: HTTP status.
        detail: Text for the caller.
        headers: Further headers.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = problem(status, detail)
        self.headers = headers or {}


def problem(status: int, detail: str) -> Problem:
    """Return a problem whose title is the phrase of its HTTP status (RFC 9457, section 4.2.1).

    Args:
        status: HTTP status.
        detail: Text for the caller.
    """
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def refused_image(error: ImageError) -> RefusalError:
    """Return the refusal for an image error."""
    return RefusalError(error.status, str(error))
