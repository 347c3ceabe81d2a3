"""Separation of the animal from its background: box, GrabCut or Otsu, and pictures of one without the other.

GrabCut: Rother et al., "GrabCut: interactive foreground extraction using iterated graph cuts", SIGGRAPH 2004. Otsu:
"A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and Cybernetics 1979.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BOX, GRABCUT, OTSU = "box", "GrabCut", "Otsu"
GREY = 128
"""Color of the hidden background: one for all pictures, so that it tells nothing of the water."""
_SIDE = 64  # of the picture that is segmented, in pixels: enough for an outline, and a few milliseconds
_RIM = 0.06  # share of each side that is background for certain
_PASSES = 2
_AREA = (0.04, 0.75)  # share of the picture that a separated animal covers
_BORDER_SHARE = 0.35  # of the border that a separated animal may touch
_MIDDLE_SHARE = 0.25  # of the middle quarter of the picture that it covers at least
_GROWN = 0.06  # by which the hidden rectangle exceeds the animal at each side
_MOST_HIDDEN = 0.85  # share of the picture that the rectangle may hide

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the picture."""


@dataclass(frozen=True)
class SeparatedAnimal:
    """A picture with the animal alone and one with the background alone.

    Attributes:
        animal: Everything but the animal is grey, uint8, shape (H, W, 3).
        background: The rectangle around the animal has the mean color of the rest, uint8, shape (H, W, 3). A rectangle,
            since the outline of the hidden area would show the shape of the animal.
        source: `box`, `GrabCut` or `Otsu`.
    """

    animal: np.ndarray
    background: np.ndarray
    source: str


def separate_animal(
    picture: np.ndarray, *, content: Region | None = None, box: Region | None = None
) -> SeparatedAnimal | None:
    """Return the animal and the background of a picture; None if they cannot be told apart.

    Args:
        picture: uint8, shape (H, W, 3).
        content: The part of the picture that is photograph, the rest being padding; None for all.
        box: Box of the animal. It is used if it leaves some of the background visible; otherwise the animal is sought
            inside the picture, as without a box.
    """
    x0, y0, x1, y1 = content or (0, 0, picture.shape[1], picture.shape[0])
    inner = picture[y0:y1, x0:x1]
    if min(inner.shape[:2]) < 8:
        return None
    mask, source = None, BOX
    if box is not None:
        mask = _box_mask(inner.shape[:2], (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0))
    if mask is None or _hidden_share(mask) > _MOST_HIDDEN:
        mask, source = _segment(inner)
    if mask is None or _hidden_share(mask) > _MOST_HIDDEN:
        return None
    animal, background = np.full_like(picture, GREY), np.full_like(picture, GREY)
    animal[y0:y1, x0:x1][mask] = inner[mask]
    background[y0:y1, x0:x1] = _without_rectangle(inner, mask)
    return SeparatedAnimal(animal, background, source)


def _box_mask(shape: tuple[int, int], box: Region) -> np.ndarray | None:
    mask = np.zeros(shape, dtype=bool)
    mask[max(box[1], 0) : max(box[3], 0), max(box[0], 0) : max(box[2], 0)] = True
    return mask if mask.any() else None


def _rectangle(mask: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the grown rectangle around a mask."""
    slices = []
    for axis, size in ((1, mask.shape[0]), (0, mask.shape[1])):
        places = np.flatnonzero(mask.any(axis=axis))
        more = round(_GROWN * size)
        slices.append(slice(max(int(places[0]) - more, 0), min(int(places[-1]) + 1 + more, size)))
    return slices[0], slices[1]


def _hidden_share(mask: np.ndarray) -> float:
    rows, columns = _rectangle(mask)
    return float((rows.stop - rows.start) * (columns.stop - columns.start) / mask.size)


def _without_rectangle(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    hidden = np.zeros(mask.shape, dtype=bool)
    hidden[_rectangle(mask)] = True
    blanked = picture.copy()
    blanked[hidden] = picture[~hidden].mean(axis=0).round().astype(np.uint8)
    return blanked


def _segment(picture: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the mask of the animal, bool, shape (H, W), and the method that found it; None if no method did."""
    import cv2

    height, width = picture.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for method, found in ((GRABCUT, _grabcut), (OTSU, _otsu)):
        mask = found(small)
        if _is_plausible(mask):
            whole = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
            grown = cv2.dilate(whole, np.ones((3, 3), np.uint8), iterations=max(1, round(0.01 * max(height, width))))
            return grown.astype(bool), method
    return None, ""


def _grabcut(small: np.ndarray) -> np.ndarray:
    import cv2

    rows, columns = (max(1, round(_RIM * side)) for side in small.shape[:2])
    mask = np.full(small.shape[:2], cv2.GC_BGD, dtype=np.uint8)
    mask[rows:-rows, columns:-columns] = cv2.GC_PR_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its color clusters start at random
    cv2.grabCut(small, mask, None, *models, _PASSES, cv2.GC_INIT_WITH_MASK)
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _otsu(small: np.ndarray) -> np.ndarray:
    """Return the side of Otsu's threshold that is rarer at the border."""
    import cv2

    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    light = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] > 0
    return np.asarray(~light if _border(light).mean() > 0.5 else light)


def _is_plausible(mask: np.ndarray) -> bool:
    """Return whether a mask can be an animal: of some size, in the middle, mostly off the border."""
    height, width = mask.shape
    middle = mask[height // 4 : height - height // 4, width // 4 : width - width // 4]
    least, most = _AREA
    return bool(
        least <= mask.mean() <= most and _border(mask).mean() <= _BORDER_SHARE and middle.mean() >= _MIDDLE_SHARE
    )


def _border(mask: np.ndarray) -> np.ndarray:
    return np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
