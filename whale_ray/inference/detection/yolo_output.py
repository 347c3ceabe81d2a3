"""Output of YOLOv5 models such as MegaDetector 5: boxes of animals, without overlapping ones."""

from __future__ import annotations

import numpy as np

ANIMAL = 0
"""Class of animals in MegaDetector; 1 are people and 2 vehicles."""
MAX_OVERLAP = 0.45
"""Intersection over union above which the less confident of two boxes is left out, as YOLOv5 has it."""


def animal_boxes(
    output: np.ndarray, *, confidence: float, max_overlap: float = MAX_OVERLAP
) -> tuple[np.ndarray, np.ndarray]:
    """Return the animals in the output of a YOLOv5 model.

    Args:
        output: Shape (N, 5 + classes): center x, center y, width and height in pixels of the input, the confidence that
            an object is there, and a score for each class.
        confidence: Smallest product of the object's confidence and the score of its class.
        max_overlap: Largest intersection over union of two boxes that both stay.

    Returns:
        Boxes x0, y0, x1, y1 in pixels of the input, float64, shape (M, 4), and their confidences, float64, shape (M,),
        the most confident first.
    """
    output = output.astype(np.float64)
    confidences = output[:, 4] * output[:, 5 + ANIMAL]
    is_animal = (output[:, 5:].argmax(axis=1) == ANIMAL) & (confidences >= confidence)
    is_animal &= np.isfinite(output[:, :4]).all(axis=1) & (output[:, 2:4] > 0).all(axis=1)
    centers, halves, confidences = output[is_animal, :2], output[is_animal, 2:4] / 2, confidences[is_animal]
    boxes = np.concatenate([centers - halves, centers + halves], axis=1)
    order = np.argsort(-confidences, kind="stable")
    kept: list[int] = []
    for row in order:
        if not kept or (_overlaps(boxes[row], boxes[kept]) <= max_overlap).all():
            kept.append(int(row))
    return boxes[kept], confidences[kept]


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of a box with others, shape (M,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    shares: np.ndarray = shared / (area + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared)
    return shares
