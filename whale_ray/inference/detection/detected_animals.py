"""Animals to identify in photographs: those that a detector finds, or the whole photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from whale_ray.data.image_io import Box
from whale_ray.errors import InputError
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.detection.detector import Detection, Detector
from whale_ray.inference.encoder_input import Photograph, named_errors, open_photograph

PhotographT = TypeVar("PhotographT", bound=Photograph)


class Animal(NamedTuple):
    """An animal to identify.

    Attributes:
        box: Box in pixels of the upright photograph; None for the whole photograph.
        confidence: Confidence of the detector; None if it found no animal.
    """

    box: Box | None
    confidence: float | None


def animals_of(detections: Sequence[Detection]) -> list[Animal]:
    """Return the animals to identify: the detections or, if there are none, the whole photograph."""
    return [Animal(*one) for one in detections] or [Animal(None, None)]


def detect_animals(photographs: Sequence[PhotographT], detector: Detector) -> list[tuple[PhotographT, Animal]]:
    """Return each animal in each photograph, the most confident first.

    Args:
        photographs: Paths, bytes or Pillow images.
        detector: The detector.

    Raises:
        ImageError: If a photograph cannot be decoded.
        DataError: If a file cannot be read.
    """
    found = []
    for photograph in photographs:
        with named_errors(photograph):
            image = open_photograph(photograph)
        found += [(photograph, animal) for animal in animals_of(detector.detect(image))]
    return found


def check_detector_use(contents: BundleContents) -> None:
    """Check that a bundle was trained on crops, as a detector gives them.

    Raises:
        InputError: If it was trained on whole photographs.
    """
    if not contents.is_trained_on_boxes:
        raise InputError(whole_photographs(contents.manifest["id"]))


def whole_photographs(bundle: str) -> str:
    """Return the reason why a detector is not used with a bundle of this id."""
    return (
        f"a detector must be used with a bundle that was trained on crops, but {bundle} was trained on whole "
        "photographs. Leave the detector out, or train with data.boxes"
    )
