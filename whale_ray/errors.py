"""Every error a person can meet, in one tree; what is not in it is a bug of ours.

    WhaleRayError
    ├── InputError                 what was given cannot be used; nothing was started (exit 2)
    │   ├── SettingsError          the sweep file, an option: every fault at once
    │   ├── DataError              the table, the folder, the photographs
    │   ├── EncoderError           an encoder or weights that do not exist or do not fit
    │   └── BundleError            a bundle that is damaged, foreign or differs from its golden images
    ├── ImageError                 one photograph; carries the HTTP status of its refusal
    │   ├── ImageTypeError         not an image type that is accepted      (415)
    │   ├── ImageTooLargeError     too many bytes or pixels                (413)
    │   └── ImageDecodeError       of a known type, but damaged or empty   (422)
    ├── StoreError                 the database of enrolments; carries the HTTP status of its refusal   (503)
    │   ├── EnrolledElsewhereError the picture is another individual's     (409)
    │   └── NoSuchVersionError     the gallery never had it                (404)
    └── TrainingError              a loss that is not finite; the trial fails, the sweep goes on

Messages follow one form: the rule, what came instead, the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class WhaleRayError(Exception):
    """Root of every error that whale_ray raises on purpose."""


class InputError(WhaleRayError):
    """What was given cannot be used; nothing was started."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a settings file: what, and where (`line` counts from 1; None where there is no line)."""

    message: str
    line: int | None = None


class SettingsError(InputError):
    """All faults of one settings file, in one message, each with its line."""

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
        return "\n".join([f"{self.source}: {count}, nothing was started", *rows])


class DataError(InputError):
    """The table, the folder or the photographs cannot be used as asked."""


class EncoderError(InputError):
    """An encoder or weights that do not exist, cannot be fetched, or do not fit."""


class BundleError(InputError):
    """A bundle that is damaged, foreign, or differs from its golden images."""


class ImageError(WhaleRayError):
    """One photograph cannot be used."""

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


class StoreError(WhaleRayError):
    """The database of what was enrolled cannot be used, or not as asked."""

    status = 503


class EnrolledElsewhereError(StoreError):
    """A picture is enrolled under another individual; `place` is its place among those that came."""

    status = 409

    def __init__(self, place: int, individual: str) -> None:
        super().__init__(
            f"a picture shows one individual, but picture {place + 1} is enrolled under {individual!r}. "
            "Delete it there first, if that was a mistake"
        )
        self.place, self.individual = place, individual


class NoSuchVersionError(StoreError):
    """The gallery never had a version of this number."""

    status = 404

    def __init__(self, number: int, last: int) -> None:
        super().__init__(
            f"the gallery has had the versions 0 to {last}, but got {number}. GET /v1/versions shows what each changed"
        )


class TrainingError(WhaleRayError):
    """Training cannot go on, as when the loss is not finite."""
