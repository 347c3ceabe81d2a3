"""Augmentations of image batches: affine, color, blur, erasing, each with a strength from 0 (off) to 1.

They work on float batches (B, 3, H, W) from 0 to 1, on any device. Mirroring is part of `batches`, since a mirrored
image may be another individual.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from whale_ray.data.image_io import Geometry

# What strength 1 of each augmentation means.
ROTATION_DEGREES, SCALE, SHEAR_DEGREES = 25.0, 0.25, 10.0
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.5, 0.6
ERASED_SHARE = 0.3
_GREY = (0.299, 0.587, 0.114)


class BatchRandom:
    """Random numbers for a batch.

    Args:
        count: Images in the batch.
        generator: Source of randomness on the device of the batch.
        own: Images of the batch that this worker loads. Numbers are drawn for all images, so that an image has the
            same numbers for any number of workers.
    """

    def __init__(self, count: int, generator: torch.Generator, own: slice = slice(None)) -> None:
        self._count, self._generator, self._own = count, generator, own

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return one number per image of this worker, uniform in [low, high).

        Args:
            low: Smallest value.
            high: Largest value.
        """
        return low + (high - low) * self.uniform_of_all()[self._own]

    def uniform_of_all(self) -> Tensor:
        """Return one number per image of the batch, uniform in [0, 1)."""
        return torch.rand(self._count, generator=self._generator, device=self._generator.device)


def apply_affine(pictures: Tensor, geometry: Geometry, strength: float, draw: BatchRandom) -> Tensor:
    """Rotate, scale, shear and shift each image; the border supplies the pixels that move in.

    Args:
        pictures: Images with their border, float32, shape (B, 3, H', W').
        geometry: Geometry of the images.
        strength: 0 to 1.
        draw: Random numbers for the batch.

    Returns:
        Images without border, shape (B, 3, H, W).
    """
    angle = torch.deg2rad(draw.uniform(-1, 1) * ROTATION_DEGREES * strength)
    shear = torch.tan(torch.deg2rad(draw.uniform(-1, 1) * SHEAR_DEGREES * strength))
    scale = torch.exp(draw.uniform(-1, 1) * math.log1p(SCALE * strength))
    height, width = geometry.height, geometry.width
    stored_height, stored_width = geometry.stored
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = geometry.margin * strength
    rows = [
        (cosine * width / stored_width, (shear * cosine - sine) * height / stored_width, draw.uniform(-shift, shift)),
        (sine * width / stored_height, (shear * sine + cosine) * height / stored_height, draw.uniform(-shift, shift)),
    ]
    return sample_affine(pictures, torch.stack([torch.stack(row, dim=1) for row in rows], dim=1), height, width)


def sample_affine(pictures: Tensor, matrices: Tensor, height: int, width: int) -> Tensor:
    """Return images whose pixels are bilinear samples at transformed positions; the border goes on outside.

    Args:
        pictures: Images, float32, shape (B, 3, H', W').
        matrices: Affine maps from positions in the new image to positions in the old one, both x and y from -1 to 1
            between the outer edges; shape (B, 2, 3).
        height: Height H of the new images, in pixels.
        width: Width W of the new images, in pixels.

    Returns:
        Images, shape (B, 3, H, W).
    """
    if pictures.device.type == "cpu":
        return _sample_on_processor(pictures, matrices, height, width)
    x, y = _pixel_centers(width, pictures.device), _pixel_centers(height, pictures.device)[:, None]
    # affine_grid does the same by many products with 3 x 2 matrices
    grid = matrices[:, :, 0, None, None] * x + matrices[:, :, 1, None, None] * y + matrices[:, :, 2, None, None]
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sample_on_processor(pictures: Tensor, matrices: Tensor, height: int, width: int) -> Tensor:
    """Return the same by OpenCV, in a third of the time of `grid_sample`."""
    import cv2

    old_height, old_width = pictures.shape[2:]
    from_pixels = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    to_pixels = np.array([[old_width, 0, old_width - 1], [0, old_height, old_height - 1]]) / 2
    last_row = np.broadcast_to([[0.0, 0.0, 1.0]], (len(pictures), 1, 3))
    of_pixels = to_pixels @ np.concatenate([matrices.numpy(), last_row], axis=1) @ from_pixels
    moved = np.empty((*pictures.shape[:2], height, width), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, matrix, planes in zip(pictures.numpy(), of_pixels, moved, strict=True):
        for plane, out in zip(image, planes, strict=True):
            cv2.warpAffine(plane, matrix, (width, height), dst=out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(moved)


def _pixel_centers(size: int, device: torch.device) -> Tensor:
    """Return the positions of `size` pixel centers between -1 and 1, the outer edges."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _jitter_color(pictures: Tensor, strength: float, draw: BatchRandom) -> Tensor:
    """Change brightness, contrast and saturation of each image."""
    brightness, contrast, saturation = (
        torch.exp(draw.uniform(-1, 1) * math.log1p(most * strength))[:, None, None]
        for most in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    weights = torch.stack([torch.full((), share, device=pictures.device) for share in _GREY])  # nothing to be sent
    to_grey = weights.expand(3, 3)
    matrix = brightness * contrast * torch.lerp(to_grey, torch.eye(3, device=pictures.device), saturation)
    mean = (pictures.mean(dim=(2, 3)) @ weights)[:, None, None]
    offset = (brightness * (1 - contrast) * mean).expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, pictures.flatten(2)).clamp_(0.0, 1.0).view_as(pictures)


def _blur(pictures: Tensor, strength: float, draw: BatchRandom) -> Tensor:
    """Blend each image with its 5 x 5 mean; half of the images stay sharp."""
    weight = (draw.uniform(-1, 1) * strength).clamp_(min=0.0)[:, None, None, None]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return torch.lerp(pictures, _sum_of_five(_sum_of_five(padded, dim=2), dim=3).div_(25.0), weight)


def _sum_of_five(pictures: Tensor, *, dim: int) -> Tensor:
    """Return sliding sums of five rows or columns. Takes a tenth of the time of avg_pool2d."""
    size = pictures.shape[dim] - 4
    total = pictures.narrow(dim, 0, size) + pictures.narrow(dim, 1, size)
    for start in (2, 3, 4):
        total += pictures.narrow(dim, start, size)
    return total


def _erase(pictures: Tensor, strength: float, draw: BatchRandom) -> Tensor:
    """Grey out a rectangle of each image, half of them not at all (random erasing, Zhong et al., AAAI 2020)."""
    height, width = pictures.shape[2:]
    area = draw.uniform(-1, 1).clamp_(min=0.0) * ERASED_SHARE * strength
    aspect = torch.exp(draw.uniform(-1, 1))
    tall, wide = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    top, left = draw.uniform() * (1 - tall), draw.uniform() * (1 - wide)
    y = (torch.arange(height, device=pictures.device) + 0.5) / height
    x = (torch.arange(width, device=pictures.device) + 0.5) / width
    inside_y = (y >= top[:, None]) & (y < (top + tall)[:, None])
    inside_x = (x >= left[:, None]) & (x < (left + wide)[:, None])
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return pictures.masked_fill(inside, 0.5)


AUGMENTATIONS: dict[str, Callable[[Tensor, float, BatchRandom], Tensor]] = {
    "colour": _jitter_color,
    "blur": _blur,
    "erasing": _erase,
}
"""Name → (pictures, strength, random numbers) → the pictures, varied; in this order, after they were moved."""
