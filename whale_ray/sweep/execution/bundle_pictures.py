"""Pictures of a bundle: golden images, thumbnails of the gallery and example photographs."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from whale_ray.data.decoding.thumbnails import shrink_to_jpeg
from whale_ray.data.image_io import Geometry, crop_to_box, fit_image
from whale_ray.inference.bundle_contents import ExamplePhoto
from whale_ray.sweep.planning.dataset import Dataset

GOLDEN_SIDE = 512
EXAMPLE_SIDE = 640


def golden_pictures(dataset: Dataset, images: Iterable[str]) -> tuple[bytes, ...]:
    """Return photographs as PNG, at most 512 pixels wide and high.

    Args:
        dataset: Photographs of the sweep.
        images: Names of the rows.
    """
    pictures = []
    for image in images:
        picture, buffer = _decoded(dataset, image), io.BytesIO()
        picture.thumbnail((GOLDEN_SIDE, GOLDEN_SIDE))
        picture.save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return tuple(pictures)


def gallery_thumbnails(dataset: Dataset, images: Iterable[str]) -> dict[int, bytes]:
    """Return a small JPEG of each photograph, by its position in `images`.

    They were made when the photographs were decoded; what this machine has not is decoded again.

    Args:
        dataset: Photographs of the sweep.
        images: Names of the rows.
    """
    stored, rows = dataset.thumbnails, {name: row for row, name in enumerate(dataset.table["image"])}
    return {
        place: (stored[rows[image]] if stored else b"") or shrink_to_jpeg(_decoded(dataset, image))
        for place, image in enumerate(images)
    }


def example_photographs(dataset: Dataset, count: int) -> tuple[ExamplePhoto, ...]:
    """Return validation photographs, evenly spread over the table, with their individuals.

    Args:
        dataset: Photographs of the sweep.
        count: Number of photographs, at most that of the validation.
    """
    validation = dataset.table[dataset.table["part"] == "val"]
    rows = np.unique(np.linspace(0, len(validation) - 1, min(count, len(validation)), dtype=int))
    return tuple(
        ExamplePhoto(shrink_to_jpeg(_decoded(dataset, image), side=EXAMPLE_SIDE), individual, image)
        for image, individual in validation.iloc[rows][["image", "individual"]].itertuples(index=False)
    )


def fitted_photograph(dataset: Dataset, image: str, geometry: Geometry) -> np.ndarray:
    """Return the photograph of a row as the encoder's input, uint8, shape (H', W', 3).

    Args:
        dataset: Photographs of the sweep.
        image: Name of the row.
        geometry: Size and margin of the input.
    """
    return fit_image(dataset.catalog.decode(image), geometry, box=dataset.catalog.box(image))


def _decoded(dataset: Dataset, image: str) -> Image.Image:
    """Return the photograph of a row, cropped to its box: a service without boxes needs what was trained on."""
    return crop_to_box(dataset.catalog.decode(image), dataset.catalog.box(image))
