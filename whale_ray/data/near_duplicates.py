"""Near-duplicate images: the same picture re-encoded, cropped or brightened, found by correlating pixels.

Candidate pairs of small grey images come from `coarse_vectors`, then a template is correlated with all windows of the
other image by the fast Fourier transform (Lewis, "Fast normalized cross-correlation", 1995).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from whale_ray.device import available_cpus
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

    Comparisons with the same searched image are made one after another, those of one template size together.
    """
    found = np.full(len(pairs), -1.0)
    groups: dict[int, dict[tuple[int, ...], list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for place, (one, other) in enumerate(pairs.tolist()):
        groups[other][images[one].shape].append((place, one))
        groups[one][images[other].shape].append((place, other))

    def compare(row: int) -> list[np.ndarray]:
        searched = _SearchedImage.of(images[row])
        wanted = ([_center(images[other]) for _, other in each] for each in groups[row].values())
        return [_best_correlations(np.stack(templates), searched) for templates in wanted]

    shown: dict[str, Any] = {"text": "comparing photographs for copies", "progress": progress, "stderr": True}
    with ThreadPoolExecutor(available_cpus()) as threads:
        compared = track_steps(threads.map(compare, groups), total=len(groups), **shown)
        for by_size, correlations in zip(groups.values(), compared, strict=True):
            for wanted, best in zip(by_size.values(), correlations, strict=True):
                places = [place for place, _ in wanted]
                found[places] = np.maximum(found[places], best)
    return found


def _center(image: np.ndarray) -> np.ndarray:
    rows, columns = (int(side * _CROP_MARGIN) for side in image.shape)
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


def _best_correlations(templates: np.ndarray, searched: _SearchedImage) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the largest correlation of each template with a window of the image at any scale, shape (M,).

    Args:
        templates: uint8, shape (M, h, w).
        searched: The image.
    """
    from scipy import fft  # slow to import

    inverse_norms = searched.inverse_norms((templates.shape[1], templates.shape[2]))
    if not len(inverse_norms):
        return np.full(len(templates), -1.0)
    stack, shape = searched.spectra[-len(inverse_norms) :], searched.shape
    rows, columns = inverse_norms.shape[1:]
    beyond = (inverse_norms == 0).astype(np.float32)  # beyond the image at this scale
    best = np.empty(len(templates))
    for start in range(0, len(templates), _TEMPLATES_AT_ONCE):
        wanted = _normalize(templates[start : start + _TEMPLATES_AT_ONCE])
        spectra = fft.rfft2(wanted, shape).conj()[:, None] * stack
        half = fft.ifft(spectra, axis=2, overwrite_x=True)[:, :, :rows]  # only a third of the rows has a window
        correlations = fft.irfft(half, shape[1], axis=3)[..., :columns] * inverse_norms - beyond
        has_pattern = wanted.any(axis=(1, 2))  # a template of one color has none
        best[start : start + len(wanted)] = np.where(has_pattern, correlations.max(axis=(1, 2, 3)), -1.0)
    return best


def _normalize(templates: np.ndarray) -> FloatArray:
    """Return templates with mean 0 and norm 1; zeros for a template of one color."""
    pixels = templates.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt((pixels * pixels).sum(axis=(1, 2), keepdims=True))
    return np.asarray(np.divide(pixels, norms, out=np.zeros_like(pixels), where=norms > 0), dtype=np.float32)


@dataclass(frozen=True)
class _SearchedImage:
    """An image at S scales, prepared for templates of any size.

    Attributes:
        sizes: Height and width at each scale, ascending.
        spectra: complex, shape (S, H', W'').
        shape: Height and width of the transform.
        sums: Integral images of the pixels less their mean, float64, shape (S, H + 1, W + 1).
        squares: Likewise of their squares.
    """

    sizes: list[tuple[int, int]]
    spectra: np.ndarray
    shape: list[int]
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> _SearchedImage:
        """Prepare a grey image, uint8, shape (H, W)."""
        from scipy import fft  # slow to import

        scaled = [np.asarray(_resized(Image.fromarray(image), scale), dtype=np.float32) for scale in _SCALES]
        sizes = [(one.shape[0], one.shape[1]) for one in scaled]
        height, width = sizes[-1]
        shape = [fft.next_fast_len(side, real=True) for side in (height, width)]
        padded = np.zeros((len(scaled), *shape), dtype=np.float32)
        for place, one in enumerate(scaled):
            # A template has mean 0: the correlation is the same, and more precise.
            padded[place, : one.shape[0], : one.shape[1]] = one - one.mean()
        centered = padded[:, :height, :width].astype(np.float64)
        return cls(sizes, fft.rfft2(padded), shape, _integrals(centered), _integrals(centered**2))

    def inverse_norms(self, size: tuple[int, int]) -> FloatArray:
        """Return the inverse norm of each window less its mean, 0 beyond an image, float32, shape (s, rows, columns).

        Args:
            size: Height and width of a window. Of the scales, the s largest contain it.
        """
        fitting = [place for place, one in enumerate(self.sizes) if one[0] >= size[0] and one[1] >= size[1]]
        area = size[0] * size[1]
        variances = _window_sums(self.squares[fitting], size) / area
        variances -= (_window_sums(self.sums[fitting], size) / area) ** 2
        inverse = np.zeros(variances.shape, dtype=np.float32)
        for place, scale in enumerate(fitting):
            height, width = self.sizes[scale]
            within = place, slice(height - size[0] + 1), slice(width - size[1] + 1)
            inverse[within] = 1 / np.sqrt(np.maximum(variances[within], 1e-6) * area)
        return inverse


def _integrals(values: np.ndarray) -> np.ndarray:
    integrals = np.zeros((len(values), values.shape[1] + 1, values.shape[2] + 1))
    np.cumsum(values, axis=1, out=integrals[:, 1:, 1:])
    np.cumsum(integrals[:, 1:, 1:], axis=2, out=integrals[:, 1:, 1:])
    return integrals


def _window_sums(integrals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the sum of each window of a size, shape (S, rows, columns), by integral images."""
    rows, columns = size
    if not len(integrals):
        return np.zeros((0, 0, 0))
    return np.asarray(
        integrals[:, rows:, columns:]
        - integrals[:, :-rows, columns:]
        - integrals[:, rows:, :-columns]
        + integrals[:, :-rows, :-columns]
    )
