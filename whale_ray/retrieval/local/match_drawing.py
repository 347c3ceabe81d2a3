"""Pictures of matched keypoints: two photographs side by side, joined by the lines of their inliers."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from whale_ray.retrieval.local.verification import Verified

_GAP = 8
_FINE = 2  # drawn larger and shrunk, for smooth lines
_LINE, _CIRCLE = (255, 214, 0, 170), (0, 200, 255, 255)
_BACKGROUND = (255, 255, 255)


def draw_matches(query: np.ndarray, candidate: np.ndarray, verified: Verified, *, side: int = 320) -> bytes:
    """Return a JPEG of both photographs, the query on the left, with a line for each inlier.

    Args:
        query: Picture of the query from `local_picture`, uint8, shape (H, W, 3).
        candidate: Picture of the candidate, uint8, shape (H', W', 3).
        verified: Result of `verify` for their features.
        side: Longer side of each photograph in pixels.
    """
    left, right = (_resized(picture, side * _FINE) for picture in (query, candidate))
    gap = _GAP * _FINE
    height = max(left.height, right.height)
    corners = [(0, (height - left.height) // 2), (left.width + gap, (height - right.height) // 2)]
    canvas = Image.new("RGB", (left.width + gap + right.width, height), _BACKGROUND)
    for picture, corner in zip((left, right), corners, strict=True):
        canvas.paste(picture, corner)
    overlay = Image.new("RGBA", canvas.size)
    draw = ImageDraw.Draw(overlay)
    ends = verified.matches * np.array([left.size, right.size]) + np.array(corners)
    for first, second in ends.tolist():
        draw.line([*first, *second], fill=_LINE, width=_FINE)
    for x, y in ends.reshape(-1, 2).tolist():
        draw.circle((x, y), 2.5 * _FINE, outline=_CIRCLE, width=_FINE)
    canvas.paste(overlay, mask=overlay)
    drawn = canvas.resize((canvas.width // _FINE, canvas.height // _FINE), Image.Resampling.BOX)
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _resized(picture: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
