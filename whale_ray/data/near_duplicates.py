"""Near-duplicate images: the same picture re-encoded, cropped or brightened, found by correlating pixels.

`audit` finds re-encoded copies by their perceptual hash; a hash does not survive a crop. Works on small grey images;
candidate pairs come from `coarse_vectors`. The correlation of a template with all windows of an image is computed with
the fast Fourier transform (Lewis, "Fast normalized cross-correlation", 1995).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from whale_ray.verbosity import track_steps

MIN_CORRELATION = 0.94
"""Above most photographs of one animal in one encounter, below most copies (docs/experiments/data-and-labels.md)."""
GREY_SIDE = 64
"""Pixels of the longer side of the small grey images."""
_COARSE_SIDE = 24
_SQUARE = 12  # pixels of each side of `coarse_vectors`
_MIN_COARSE_CORRELATION = 0.8  # correlation of the coarse images below which the fine ones are not compared
_CROP_MARGIN = 0.15  # the part of each side that is not looked for: a copy may be cropped by it
_SCALES = np.linspace(0.84, 1.2, 10)  # how much larger one may show things
_TEMPLATES_AT_ONCE = 32

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


def shrink_to_grey(image: Image.Image, *, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Return the image in grey, uint8, its longer side `GREY_SIDE` pixels; the aspect ratio is kept.

    Args:
        image: The image, in color or grey.
        box: x0, y0, x1, y1 of the part to show; None for the whole image.
    """
    x0, y0, x1, y1 = box or (0.0, 0.0, *image.size)
    return np.asarray(_resized(image.convert("L"), GREY_SIDE / max(x1 - x0, y1 - y0), (x0, y0, x1, y1)))


def copy_correlations(
    pairs: np.ndarray, images: Mapping[int, np.ndarray], *, progress: bool = False
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how well the center of one image of each pair matches a window of the other, float64, shape (P,).

    The largest correlation of pixels, -1 to 1, over shifts and scales in both directions. It ignores brightness and
    contrast. Images that differ at a coarse size are not compared at the fine size.

    Args:
        pairs: Pairs of rows, int, shape (P, 2).
        images: Small grey images by row, as of `shrink_to_grey`.
        progress: Show a progress bar.
    """
    coarse = {row: _coarsen(images[row]) for row in set(pairs.ravel().tolist())}
    found = _correlate(pairs, coarse, progress=progress)
    alike = np.flatnonzero(found >= _MIN_COARSE_CORRELATION)
    found[alike] = _correlate(pairs[alike], images, progress=progress)
    return found


def find_copies(
    pairs: np.ndarray,
    images: Mapping[int, np.ndarray],
    *,
    least: float = MIN_CORRELATION,
    progress: bool = False,
) -> list[tuple[int, int, float]]:
    """Return the pairs (one, other, correlation) that show the same picture, in the order of `pairs`.

    Args:
        pairs: Candidate pairs of rows, int, shape (P, 2).
        images: Small grey images by row. Pairs with a missing image are left out.
        least: Smallest correlation of a copy.
        progress: Show a progress bar.
    """
    known = np.array([one in images and other in images for one, other in pairs.tolist()], dtype=bool)
    pairs = pairs[known]
    correlations = copy_correlations(pairs, images, progress=progress)
    judged = zip(pairs.tolist(), correlations.tolist(), strict=True)
    return [(one, other, correlation) for (one, other), correlation in judged if correlation >= least]


def coarse_vectors(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return a coarse thumbnail of each grey image as a vector, float64, shape (N, 144), its mean removed.

    A copy lies near its original even if 8 % of every side was cropped: of 150 such copies among a thousand
    photographs, at least 147 had their original as nearest neighbor, on drawn flukes and on land animals.
    """
    squares = [
        np.asarray(Image.fromarray(image).resize((_SQUARE, _SQUARE), Image.Resampling.BOX)).ravel() for image in images
    ]
    pixels = np.array(squares, dtype=np.float64).reshape(-1, _SQUARE * _SQUARE)
    return np.asarray(pixels - pixels.mean(axis=1, keepdims=True))


def _coarsen(image: np.ndarray) -> np.ndarray:
    return np.asarray(_resized(Image.fromarray(image), _COARSE_SIDE / max(image.shape)))


def _resized(image: Image.Image, scale: float, box: tuple[float, float, float, float] | None = None) -> Image.Image:
    x0, y0, x1, y1 = box or (0.0, 0.0, *image.size)
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    return image.resize(
        size, Image.Resampling.BOX if scale < 1 / 3 else Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)
    )


def _correlate(
    pairs: np.ndarray, images: Mapping[int, np.ndarray], *, progress: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the larger correlation of both directions of each pair.

    Comparisons with the same searched image and the same template size are computed together.
    """
    found = np.full(len(pairs), -1.0)
    groups: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = defaultdict(list)
    for place, (one, other) in enumerate(pairs.tolist()):
        groups[other, images[one].shape].append((place, one))
        groups[one, images[other].shape].append((place, other))
    shown = track_steps(groups.items(), "comparing photographs for copies", progress=progress, stderr=True)
    for (searched, _), wanted in shown:
        places = [place for place, _ in wanted]
        templates = np.stack([_center(images[row]) for _, row in wanted])
        found[places] = np.maximum(found[places], _best_correlations(templates, images[searched]))
    return found


def _center(image: np.ndarray) -> np.ndarray:
    rows, columns = (int(side * _CROP_MARGIN) for side in image.shape)
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


def _best_correlations(templates: np.ndarray, image: np.ndarray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the largest correlation of each template with a window of the image at any scale, shape (M,).

    Args:
        templates: uint8, shape (M, h, w).
        image: uint8, shape (H, W).
    """
    from scipy import fft  # slow to import

    size = templates.shape[1:]
    scaled = [np.asarray(_resized(Image.fromarray(image), scale), dtype=np.float32) for scale in _SCALES]
    scaled = [one for one in scaled if one.shape[0] >= size[0] and one.shape[1] >= size[1]]
    if not scaled:
        return np.full(len(templates), -1.0)
    stack, inverse_norms, shape = _prepare_windows(scaled, (size[0], size[1]))
    best = np.empty(len(templates))
    for start in range(0, len(templates), _TEMPLATES_AT_ONCE):
        wanted = _normalize(templates[start : start + _TEMPLATES_AT_ONCE])
        spectra = fft.rfft2(wanted, shape).conj()[:, None]
        products = fft.irfft2(spectra * stack[None], shape)
        rows, columns = inverse_norms.shape[1:]
        correlations = products[:, :, :rows, :columns] * inverse_norms
        correlations[:, inverse_norms == 0] = -1.0  # beyond the image at this scale
        best[start : start + len(wanted)] = correlations.max(axis=(1, 2, 3))
        best[start : start + len(wanted)][~wanted.any(axis=(1, 2))] = -1.0  # a template of one color
    return best


def _normalize(templates: np.ndarray) -> FloatArray:
    """Return templates with mean 0 and norm 1; zeros for a template of one color."""
    pixels = templates.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt((pixels * pixels).sum(axis=(1, 2), keepdims=True))
    return np.asarray(np.divide(pixels, norms, out=np.zeros_like(pixels), where=norms > 0), dtype=np.float32)


def _prepare_windows(scaled: list[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, FloatArray, list[int]]:
    """Return spectra of the images, the inverse norm of each window less its mean, and the shape of the transform.

    Args:
        scaled: Grey images, float32, each at least as large as a window.
        size: Height and width of a window.

    Returns:
        Spectra, complex, shape (S, H', W'); inverse norms, float32, shape (S, rows, columns), 0 beyond an image; and
        height and width of the transform.
    """
    from scipy import fft

    height, width = (max(one.shape[axis] for one in scaled) for axis in (0, 1))
    shape = [fft.next_fast_len(side, real=True) for side in (height, width)]
    padded = np.zeros((len(scaled), *shape), dtype=np.float32)
    inverse_norms = np.zeros((len(scaled), height - size[0] + 1, width - size[1] + 1), dtype=np.float32)
    for place, one in enumerate(scaled):
        centered = one - one.mean()  # a template has mean 0: the correlation is the same, and more precise
        padded[place, : one.shape[0], : one.shape[1]] = centered
        variances = _window_sums(centered.astype(np.float64) ** 2, size) / (size[0] * size[1])
        variances -= (_window_sums(centered.astype(np.float64), size) / (size[0] * size[1])) ** 2
        norms = np.sqrt(np.maximum(variances, 1e-6) * (size[0] * size[1]))
        inverse_norms[place, : norms.shape[0], : norms.shape[1]] = 1 / norms
    return fft.rfft2(padded), inverse_norms, shape


def _window_sums(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the sum of each window of a size, by an integral image."""
    integral = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    integral[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    rows, columns = size
    return np.asarray(
        integral[rows:, columns:]
        - integral[:-rows, columns:]
        - integral[rows:, :-columns]
        + integral[:-rows, :-columns]
    )
