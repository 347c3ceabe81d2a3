from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbone_families import ENCODERS
from whale_ray.learning.encoders.backbones.backbone import Backbone
from whale_ray.learning.encoders.encoder_checks import check_training_step
from whale_ray.learning.encoders.registry import Encoder, build_encoder, rebuild_encoder

Forward = Callable[["Body", Tensor], Tensor]


class Body(nn.Module):
    """A convolution whose map `change` alters."""

    def __init__(self, change: Forward) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 4, stride=4)
        self.change = change
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self, self.convolution(images))


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[Forward], Encoder]:
    def build(change: Forward) -> Encoder:
        monkeypatch.setitem(ENCODERS, "tiny", lambda name, **options: Backbone(Body(change)))
        return build_encoder("tiny", embedding_size=4, image_size=(16, 24))

    return build


def masked(body: Body, features: Tensor) -> Tensor:
    return features * (torch.rand(len(features), 1, *features.shape[2:]) > 0.5)


def dropped_out(body: Body, features: Tensor) -> Tensor:
    return nn.functional.dropout(features, 0.05, training=True)


def counted(body: Body, features: Tensor) -> Tensor:
    body.calls += 1
    return features * torch.linspace(1, body.calls, features.shape[1])[:, None, None]


def normalized_by_the_batch(body: Body, features: Tensor) -> Tensor:
    return nn.functional.batch_norm(features, None, None, training=True)


def mixed_with_the_next_picture(body: Body, features: Tensor) -> Tensor:
    return features + 0.1 * features.roll(1, 0)


def rejecting_batches(body: Body, features: Tensor) -> Tensor:
    return features if len(features) == 1 else features[0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (masked, "moves by .* when it is embedded a second time"),
        (dropped_out, "moves by .* when it is embedded a second time"),
        (counted, "moves by .* when it is embedded a second time"),
        (normalized_by_the_batch, "moves by .* beside another picture"),
        (mixed_with_the_next_picture, "moves by .* beside another picture"),
        (rejecting_batches, "tiny cannot embed two pictures: IndexError: too many indices"),
        (lambda body, features: features[:1], "one embedding of 4 numbers a picture, but tiny gives"),
        (lambda body, features: features / 0, "must be finite, but tiny gives NaN or infinity"),
    ],
)
def test_an_encoder_that_is_no_function_of_the_picture_is_refused(
    build: Callable[[Forward], Encoder], change: Forward, said: str
) -> None:
    with pytest.raises(EncoderError, match=said):
        build(change)


def test_a_sound_encoder_keeps_its_mode_and_the_random_numbers(build: Callable[[Forward], Encoder]) -> None:
    torch.manual_seed(0)
    encoder = build(lambda body, features: features)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    rebuild_encoder(encoder.recipe)  # the same without the check
    assert torch.equal(torch.rand(3), drawn)
    assert encoder.training


@pytest.mark.parametrize("error", [TypeError("no //"), AttributeError("x"), IndexError(), AssertionError("y\nz")])
def test_any_exception_of_model_code_is_one_line_that_names_model_and_exception(
    build: Callable[[Forward], Encoder], error: Exception
) -> None:
    def fail(body: Body, features: Tensor) -> Tensor:
        raise error

    with pytest.raises(EncoderError, match=rf"tiny fails on pictures of 16x24 and .*{type(error).__name__}") as caught:
        build(fail)
    assert "\n" not in str(caught.value)


def test_an_exception_in_training_mode_alone_is_found_by_a_training_step(
    build: Callable[[Forward], Encoder],
) -> None:
    def fail(body: Body, features: Tensor) -> Tensor:
        if body.training:
            raise TypeError("labels are missing")
        return features

    encoder = build(fail)
    with pytest.raises(EncoderError, match=r"tiny cannot train: TypeError: labels are missing\. Write model.freeze"):
        check_training_step(encoder, name="tiny", image_size=(16, 24))
    check_training_step(build(lambda body, features: features), name="tiny", image_size=(16, 24))


def test_another_size_is_the_remedy_only_if_it_passes(build: Callable[[Forward], Encoder]) -> None:
    def only_large(body: Body, features: Tensor) -> Tensor:
        return features if features.shape[2] > 40 else features.view(7, -1)

    with pytest.raises(
        EncoderError, match=r"cannot take pictures of 16x24.*Choose another data.image_size, such as 224"
    ):
        build(only_large)


def test_features_that_are_neither_map_nor_tokens_are_refused(build: Callable[[Forward], Encoder]) -> None:
    with pytest.raises(EncoderError, match=r"gives a map \(1, C, h, w\) or tokens .*but tiny gives \(1, 8\)"):
        build(lambda body, features: features.mean((2, 3)))


def test_a_deep_network_with_random_weights_is_judged_with_batch_statistics() -> None:
    encoder = build_encoder("timm:efficientnetv2_rw_t", embedding_size=8, weights="random", image_size=(64, 64))
    assert encoder.training
    statistics = [layer.running_mean for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(bool((mean == 0).all()) for mean in statistics)
