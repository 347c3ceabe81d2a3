from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from whale_ray.learning.encoders.backbones.image_processors import NO_PROCESSOR, PixelFormat, as_channels, pixel_format
from whale_ray.learning.encoders.layers import select_channels

import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
import transformers  # isort: skip

FOREIGN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}


def read(kind: str, **fields: object) -> tuple[PixelFormat, object]:
    processor = getattr(transformers, f"{kind}ImageProcessor").from_dict(fields)
    return pixel_format(processor, fields, name="hf:model"), processor


def scaled(pixels: PixelFormat, picture: torch.Tensor) -> torch.Tensor:
    """Return the input of the model as the encoder makes it, of a picture, uint8, shape (3, H, W)."""
    planes = select_channels(picture[None] / 255, pixels.channels)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (pixels.mean, pixels.std))
    return (planes - mean) / std


@pytest.mark.parametrize(
    ("kind", "fields", "channels"),
    [
        ("ViT", FOREIGN, "RGB"),
        ("ViT", {**FOREIGN, "do_normalize": False}, "RGB"),
        ("ViT", {**FOREIGN, "do_rescale": False}, "RGB"),
        ("ViT", {"do_rescale": False, "do_normalize": False}, "RGB"),
        ("ViT", {**FOREIGN, "rescale_factor": 1 / 127.5}, "RGB"),
        ("ViT", {**FOREIGN, "do_reduce_labels": True}, "RGB"),
        ("CLIP", {}, "RGB"),
        ("ConvNext", {"crop_pct": 0.8, "resample": 0}, "RGB"),
        ("MobileViT", {}, "BGR"),
        ("MobileViT", {**FOREIGN, "do_flip_channel_order": False, "do_normalize": True}, "RGB"),
        ("EfficientNet", FOREIGN, "RGB"),
        ("EfficientNet", {**FOREIGN, "rescale_offset": True, "rescale_factor": 1 / 127.5}, "RGB"),
        ("EfficientNet", {**FOREIGN, "include_top": False}, "RGB"),
        ("SuperPoint", {"do_grayscale": True}, "LLL"),
    ],
)
def test_every_step_of_color_reaches_the_model_as_its_processor_makes_it(
    kind: str, fields: dict[str, object], channels: str
) -> None:
    pixels, processor = read(kind, do_resize=False, do_center_crop=False, **fields)
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    expected = 1.0 * processor(images=image, return_tensors="pt")["pixel_values"]
    assert pixels.channels == channels
    found = scaled(pixels, picture)
    largest = 255.0 if not fields.get("do_rescale", True) else 1.0
    torch.testing.assert_close(found, expected, atol=(0.01 if "L" in channels else 1e-4) * largest, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("ViT", "do_invert"),
        ("ViT", "do_convert_grayscale"),
        ("ViT", "do_flip_channel_order"),
        ("ViT", "do_grayscale"),
        ("ViT", "do_pad"),
        ("ViT", "do_thumbnail"),
        ("ViT", "rescale_offset"),
        ("ViT", "offset"),
        ("ConvNext", "do_color_quantize"),
        ("DonutSwin", "do_align_long_axis"),
    ],
)
def test_a_step_that_the_encoder_cannot_follow_is_refused_by_name(kind: str, field: str) -> None:
    kind = kind.replace("DonutSwin", "Donut")
    with pytest.raises(EncoderError, match=rf"hf:model has .*{field}: True.*Set it to false"):
        read(kind, **{field: True})


def test_a_step_that_is_off_does_no_harm() -> None:
    pixels, _ = read("ViT", do_invert=False, do_pad=None, **FOREIGN)
    assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def test_geometry_is_that_of_the_sweep_and_the_recipe_says_so() -> None:
    pixels, _ = read("CLIP")
    assert pixels.source.endswith("data.image_size and data.resize replace do_resize, do_center_crop")


def test_a_processor_that_mixes_colors_or_fails_is_refused() -> None:
    class Squaring:
        def to_dict(self) -> dict[str, object]:
            return {}

        def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, np.ndarray]:
            return {"pixel_values": (np.asarray(images, dtype=float).transpose(2, 0, 1) / 255)[None] ** 2}

    with pytest.raises(EncoderError, match="linearly, but that of hf:model changes colors"):
        pixel_format(Squaring(), {}, name="hf:model")
    with pytest.raises(EncoderError, match=r"hf:model has an image processor that fails .*: ValueError: .image_mean"):
        read("ViT", image_mean=None, do_normalize=True)


def test_a_gray_model_takes_one_channel_with_one_mean() -> None:
    pixels, _ = read("ViT", image_mean=[0.4], image_std=[0.2])
    assert as_channels(pixels, 1, name="hf:gray") == PixelFormat((0.4,), (0.2,), pixels.source, channels="L")
    unlike, _ = read("ViT", **FOREIGN)
    with pytest.raises(EncoderError, match=r"hf:gray takes gray pictures.*Write one number"):
        as_channels(unlike, 1, name="hf:gray")
    imagenet = as_channels(PixelFormat(IMAGENET_MEAN, IMAGENET_STD, NO_PROCESSOR), 1, name="hf:gray")
    assert (len(imagenet.mean), imagenet.channels) == (1, "L")


@pytest.mark.parametrize("count", [2, 4])
def test_a_model_of_other_channels_is_refused_by_their_number(count: int) -> None:
    with pytest.raises(EncoderError, match=f"hf:model takes pictures of {count} channels, but photographs have red"):
        as_channels(read("ViT")[0], count, name="hf:model")


def test_gray_is_that_of_pillow() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    gray = select_channels(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), "L")[0, 0]
    assert np.abs(gray.numpy() - np.asarray(Image.fromarray(picture).convert("L"), dtype=float)).max() <= 1
