"""Errors of foreign model code as one `EncoderError` that names the model and the exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from whale_ray.errors import EncoderError, WhaleRayError

_LONGEST = 300


@contextmanager
def named_model_errors(name: str, failure: str, *, remedy: str = "") -> Iterator[None]:
    """Raise any exception of the block as an `EncoderError`; errors of whale_ray pass unchanged.

    Args:
        name: Name of the encoder.
        failure: What fails, such as "cannot be loaded".
        remedy: Sentence for the end of the message.

    Raises:
        EncoderError: If the block raises an exception.
    """
    try:
        yield
    except WhaleRayError:
        raise
    except Exception as error:
        raise EncoderError(f"{name} {failure}: {describe_error(error)}. {remedy}".rstrip(" .")) from error


def describe_error(error: BaseException) -> str:
    """Return type and text of an exception on one line of at most 300 characters."""
    text = " ".join(str(error).split())[:_LONGEST].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
