"""Number format of a training: as requested, or the faster one for the encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.learning.training import precision
from whale_ray.learning.training.precision import operations_per_output, training_dtype


@pytest.mark.parametrize(
    ("name", "has_bfloat16", "expected"),
    [
        ("tiny", True, torch.bfloat16),
        ("tiny", False, torch.float32),
        ("torchvision:squeezenet1_1", True, torch.bfloat16),
        ("torchvision:mobilenet_v3_small", True, torch.float32),
    ],
)
def test_the_format_is_the_requested_one_or_the_faster_one(
    name: str, has_bfloat16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: has_bfloat16)
    encoder = build_encoder(name, embedding_size=8, weights="random", image_size=(64, 64))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert training_dtype("auto", "cpu", encoder) == expected
    assert training_dtype("fp32", "cpu", encoder) == torch.float32
    assert training_dtype("bf16", "cpu", encoder) == torch.bfloat16
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


class TwoLayers(nn.Module):
    """A depthwise convolution with 96 outputs of 9 operations, and a linear layer with 4 outputs of 96."""

    def __init__(self) -> None:
        super().__init__()
        self.recipe: dict[str, Any] = {"image_size": [8, 8]}
        self.register_buffer("mean", torch.zeros(1))
        self.depthwise = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
        self.linear = nn.Linear(96, 4)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.linear(self.depthwise(images).flatten(1))
        return found


def test_operations_are_counted_for_each_output_of_convolutions_and_linear_layers() -> None:
    counted = operations_per_output(TwoLayers())  # type: ignore[arg-type]  # a stand-in
    assert counted == pytest.approx((96 * 9 + 4 * 96) / 100)
