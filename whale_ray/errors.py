"""All errors that a user can meet, in one tree. Any other exception is a bug.

    WhaleRayError
    ├── InputError                 the input cannot be used; nothing was started (exit 2)
    │   ├── SettingsError          the sweep file or an option: all faults at once
    │   ├── DataError              the table, the folder, the photographs
    │   ├── EncoderError           an encoder or weights that do not exist or do not fit
    │   └── BundleError            a bundle that is damaged, foreign or differs from its golden images
    ├── ImageError                 one photograph; has the HTTP status of its refusal
    │   ├── ImageTypeError         not an accepted image type              (415)
    │   ├── ImageTooLargeError     too many bytes or pixels                (413)
    │   └── ImageDecodeError       a known type, but damaged or empty      (422)
    ├── StoreError                 the database of enrolments; has the HTTP status of its refusal   (503)
    │   ├── EnrolledElsewhereError the picture is enrolled as another individual (409)
    │   ├── NotWaitingError        the photograph was decided by another call meanwhile (404)
    │   └── NoSuchVersionError     the gallery never had this version      (404)
    └── TrainingError              a loss that is not finite; the trial fails and the sweep continues

Messages have one form: the rule, the value, the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PASSWORD = re.compile(r"(://[^\s:/@]*):\S*@")


def hide_passwords(text: str) -> str:
    """Return a text with the password of each URL replaced by `***`."""
    return _PASSWORD.sub(r"\1:***@", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without a full stop, for a message; its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class WhaleRayError(Exception):
    """Root of every error that whale_ray raises on purpose."""


class InputError(WhaleRayError):
    """The input cannot be used; nothing was started."""


@dataclass(frozen=True)
class Fault:
    """One fault of a settings file.

    Attributes:
        message: The fault.
        line: Line in the file, from 1; None if unknown.
    """

    message: str
    line: int | None = None


class SettingsError(InputError):
    """All faults of one settings file in one message, each with its line; passwords of URLs are hidden.

    Args:
        source: Name of the file.
        faults: The faults.
    """

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[SettingsError], tuple[str, tuple[Fault, ...]]]:
        return SettingsError, (self.source, self.faults)

    def __str__(self) -> str:
        count = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        rows = (
            f"  line {fault.line}: {fault.message}" if fault.line else f"  {fault.message}" for fault in self.faults
        )
        return hide_passwords("\n".join([f"{self.source}: {count}, nothing was started", *rows]))


class DataError(InputError):
    """The table, the folder or the photographs cannot be used."""


class EncoderError(InputError):
    """An encoder or weights that do not exist, cannot be fetched, or do not fit."""


class BundleError(InputError):
    """A bundle that is damaged, foreign, or differs from its golden images."""


class ImageError(WhaleRayError):
    """A photograph cannot be used."""

    status = 400


class ImageTypeError(ImageError):
    """Not an image type that is accepted."""

    status = 415


class ImageTooLargeError(ImageError):
    """More bytes or pixels than are accepted."""

    status = 413


class ImageDecodeError(ImageError):
    """Of a known type, but damaged, truncated or empty."""

    status = 422


class ImageBoxError(ImageError):
    """A box covers no pixel of its photograph."""

    status = 422


class StoreError(WhaleRayError):
    """The database of enrolments cannot be used."""

    status = 503


class EnrolledElsewhereError(StoreError):
    """A picture is enrolled as another individual.

    Args:
        place: Index of the picture in the request.
        individual: The individual that has it.
    """

    status = 409

    def __init__(self, place: int, individual: str) -> None:
        super().__init__(
            f"a picture shows one individual, but picture {place + 1} is enrolled under {individual!r}. "
            "Delete it there first, if that was a mistake"
        )
        self.place, self.individual = place, individual


class NotWaitingError(StoreError):
    """A photograph that was to be enrolled from a queue no longer waits there; nothing was enrolled."""

    status = 404

    def __init__(self) -> None:
        super().__init__(
            "a photograph of a queue must still wait when it is enrolled, but it was decided or erased meanwhile. "
            "List the queue again"
        )


class NoSuchVersionError(StoreError):
    """The gallery never had a version of this number.

    Args:
        number: The requested version.
        last: The newest version.
    """

    status = 404

    def __init__(self, number: int, last: int) -> None:
        super().__init__(
            f"the gallery has had the versions 0 to {last}, but got {number}. GET /v1/versions shows what each changed"
        )


class TrainingError(WhaleRayError):
    """Training cannot continue, for example because the loss is not finite."""
