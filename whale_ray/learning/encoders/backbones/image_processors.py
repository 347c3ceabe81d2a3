"""Pixel format that a Hugging Face model expects, read from its image processor.

The colors are measured: the processor runs on pictures of one color, and its output must be one linear function of the
red, green, blue or gray value. Where a picture is cut and to which size it is scaled is not read: `data.image_size` and
`data.resize` decide that for every encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.model_errors import named_model_errors

GEOMETRY_SWITCHES: Final = ("do_resize", "do_center_crop", "do_centre_crop")
"""Switches that `data.image_size` and `data.resize` replace."""
COLOR_SWITCHES: Final = ("do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order", "do_grayscale")
"""Switches of color, whose effect is measured."""
LABEL_SWITCHES: Final = ("do_reduce_labels", "do_convert_annotations")
"""Switches that change labels and no picture."""
NO_PROCESSOR: Final = "ImageNet (the model brings no preprocessor_config.json)"
_SPECIAL_STEPS = ("do_flip_channel_order", "do_grayscale", "offset", "rescale_offset", "include_top")
_LUMA = (0.299, 0.587, 0.114)
_PLANES = {"R": (1.0, 0.0, 0.0), "G": (0.0, 1.0, 0.0), "B": (0.0, 0.0, 1.0), "L": _LUMA}
_COLORS = np.array(
    [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [40, 90, 200], [180, 20, 110], [99, 99, 99]],
    dtype=np.uint8,
)
_TOLERANCE, _SAME = 0.01, 1e-4
_SIDE = 64


@dataclass(frozen=True)
class PixelFormat:
    """Channels and scale of a model's input.

    Attributes:
        mean: Subtracted from each channel, which is from 0 to 1.
        std: Divides the rest.
        source: Where the numbers come from, for the recipe.
        channels: Planes in the model's order: R, G, B, or L for gray.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    channels: str = "RGB"


def pixel_format(processor: Any, written: Mapping[str, Any], *, name: str) -> PixelFormat:
    """Return the pixel format of an image processor of transformers.

    Args:
        processor: The processor.
        written: Content of its preprocessor_config.json.
        name: Name of the encoder, for messages.

    Raises:
        EncoderError: If the processor changes pixels in a way that an encoder cannot follow, or fails.
    """
    fields = {**processor.to_dict(), **written}
    _check_steps(type(processor), fields, written, name)
    with named_model_errors(name, "has an image processor that fails on a picture of one color"):
        values = _measure(processor)
    channels = "".join(_plane_of(values[:, place], name) for place in range(values.shape[1]))
    slopes = values[1] - values[0]
    mean, std = -values[0] / slopes, 1.0 / slopes
    written_mean, written_std = _written_statistics(fields, len(channels))
    if np.allclose(mean, written_mean, rtol=_SAME, atol=_SAME) and np.allclose(std, written_std, rtol=_SAME):
        mean, std = written_mean, written_std  # the exact numbers of the file
    replaced = [switch for switch in GEOMETRY_SWITCHES if fields.get(switch)]
    note = f"; data.image_size and data.resize replace {', '.join(replaced)}" if replaced else ""
    return PixelFormat(
        tuple(map(float, mean)), tuple(map(float, std)), f"preprocessor_config.json{note}", channels=channels
    )


def as_channels(pixels: PixelFormat, count: int, *, name: str) -> PixelFormat:
    """Return the pixel format for a model with that many input channels; one channel is the gray value.

    Args:
        pixels: Format of the image processor.
        count: Channels of the model's input.
        name: Name of the encoder, for messages.

    Raises:
        EncoderError: If the model's channels are neither colors nor gray, or differ from those of its processor.
    """
    if count == len(pixels.channels):
        return pixels
    if count != 1:
        raise EncoderError(
            f"{name} takes pictures of {count} channels, but photographs have red, green and blue, and its image "
            f"processor gives {len(pixels.channels)}. Choose an encoder with 3 channels, or 1 for gray"
        )
    if pixels.source != NO_PROCESSOR and len(set(zip(pixels.mean, pixels.std, strict=True))) > 1:
        raise EncoderError(
            f"{name} takes gray pictures, but its preprocessor_config.json has another mean or standard deviation for "
            "each color. Write one number for each"
        )
    mean, std = float(np.dot(_LUMA, pixels.mean)), float(np.dot(_LUMA, pixels.std))
    return PixelFormat((mean,), (std,), pixels.source, channels="L")


def _check_steps(kind: type, fields: Mapping[str, Any], written: Mapping[str, Any], name: str) -> None:
    known = {*GEOMETRY_SWITCHES, *COLOR_SWITCHES, *LABEL_SWITCHES}
    foreign = [key for key, value in fields.items() if key.startswith("do_") and value and key not in known]
    foreign += [key for key in _SPECIAL_STEPS if written.get(key) and not hasattr(kind, key)]
    if foreign:
        raise EncoderError(
            f"every step of a model's image processor must be one that an encoder can follow, but {name} has "
            f"{', '.join(f'{key}: {fields[key]}' for key in foreign)} ({kind.__name__}). Set it to false in its "
            "preprocessor_config.json if the model does not need it, or choose another encoder"
        )


def _measure(processor: Any) -> np.ndarray:
    """Return the output for each of `_COLORS` in the middle of the picture, shape (colors, channels)."""
    from PIL import Image

    pictures = [Image.new("RGB", (_SIDE, _SIDE), tuple(color)) for color in _COLORS.tolist()]
    rows = []
    for picture in pictures:
        values = np.asarray(processor(images=picture, return_tensors="pt")["pixel_values"], dtype=np.float64)
        planes = values.reshape(-1, *values.shape[-3:])[0]
        rows.append(planes[:, planes.shape[1] // 2, planes.shape[2] // 2])
    return np.stack(rows)


def _plane_of(values: np.ndarray, name: str) -> str:
    """Return the plane, R, G, B or L, of which the output values of the colors are a linear function."""
    scale = values[1] - values[0]
    for plane, weights in _PLANES.items():
        expected = values[0] + scale * (_COLORS / 255.0 @ np.array(weights))
        if abs(scale) > 1e-9 and np.abs(values - expected).max() <= _TOLERANCE * abs(scale):
            return plane
    raise EncoderError(
        f"a model's image processor must scale red, green, blue or gray linearly, but that of {name} changes colors in "
        "another way. Choose another encoder"
    )


def _written_statistics(fields: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation for values from 0 to 1 as the fields say, each of shape (channels,)."""
    factor = 255.0 * fields["rescale_factor"] if fields.get("do_rescale") else 255.0
    mean, std = (fields.get(key) if fields.get("do_normalize") else None for key in ("image_mean", "image_std"))
    mean, std = (0.0 if mean is None else mean), (1.0 if std is None else std)
    return np.zeros(count) + np.array(mean) / factor, np.zeros(count) + np.array(std) / factor
