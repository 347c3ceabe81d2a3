from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whale_ray.data.batches import Batches
from whale_ray.data.image_io import Geometry
from whale_ray.errors import TrainingError
from whale_ray.learning.encoders.registry import Encoder, build_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import Epoch, Training, start_training, train_epochs
from whale_ray.learning.training.optim import Schedule, layer_blocks

pytestmark = pytest.mark.integration

CLASSES = 4
TINY_STAGES = ("stem", "stage1", "stage2", "stage3")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stripes(images: int = 24, *, batch_size: int = 8, seed: int = 0) -> Batches:
    """Batches of striped pictures, 32 pixels wide: an individual is a direction and a width of stripes."""
    numbers = np.random.default_rng(7)
    labels = np.arange(images) % CLASSES
    phases = numbers.random((images, 1))
    waves = np.sin(2 * np.pi * (np.arange(32) / 32 * (2 + labels[:, None] // 2 * 3) + phases))
    rows = np.broadcast_to(waves[:, :, None], (images, 32, 32))
    drawn = np.where((labels % 2 == 0)[:, None, None], rows, rows.transpose(0, 2, 1))
    noisy = drawn[..., None] * 60 + 128 + numbers.normal(0, 12, (images, 32, 32, 3))
    array = noisy.clip(0, 255).astype(np.uint8)
    options = {"batch_size": batch_size, "images_per_individual": None, "colour": 0.2, "seed": seed}
    return Batches(array, Geometry(32, 32), np.arange(images), labels, **options)


def begin(
    loss: str = "proxy_anchor", *, encoder: dict[str, Any] | None = None, memory: int = 0, **options: Any
) -> Training:
    torch.manual_seed(3)
    choice = {"name": "tiny", "embedding_size": 16, "image_size": (32, 32), **(encoder or {})}
    built = build_encoder(**choice)
    terms = build_loss(loss, num_classes=CLASSES, embedding_size=built.embedding_size, memory=memory)
    settings = {"epochs": 4, "steps": 3, "learning_rate": 1e-3, "precision": "fp32", "seed": 5}
    return start_training(built, terms, **{**settings, **options})


def weights(training: Training) -> dict[str, Tensor]:
    return training.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("loss", ["proxy_anchor", "triplet", "arcface"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(loss: str, precision: str) -> None:
    training = begin(loss, epochs=6, precision=precision, schedule="constant")
    epochs = list(train_epochs(training, stripes()))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert all(epoch.images == 24 and epoch.seconds > 0 for epoch in epochs)


@pytest.mark.slow
def test_tiny_learns_to_tell_individuals_apart() -> None:
    training = begin(epochs=15)
    list(train_epochs(training, stripes()))
    training.encoder.eval()
    (pictures, labels), *_ = stripes(64, batch_size=64).epoch(99)
    with torch.no_grad():
        embeddings = nn.functional.normalize(training.encoder(pictures))
    cosines = (embeddings @ embeddings.T).fill_diagonal_(-1)
    assert (labels[cosines.argmax(1)] == labels).float().mean() > 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tiny", "torchvision:mobilenet_v3_small"])
def test_two_and_two_epochs_equal_four_to_the_last_digit(name: str, precision: str, tmp_path: Path) -> None:
    options = {"encoder": {"name": name, "weights": "random", "neck": "bnneck", "pool": "gem"}, "precision": precision}
    whole = begin(**options)
    at_once = list(train_epochs(whole, stripes()))

    first = begin(**options)
    running = train_epochs(first, stripes())
    halves = [next(running), next(running)]
    save_file(first.state_dict(), tmp_path / "half.safetensors")
    torch.rand(7)

    second = begin(**options, seed=5)
    second.load_state_dict(load_file(tmp_path / "half.safetensors"))
    assert second.epoch == 2
    halves += list(train_epochs(second, stripes()))

    assert [(e.number, e.loss, e.learning_rate) for e in halves] == [
        (e.number, e.loss, e.learning_rate) for e in at_once
    ]
    assert equal(weights(whole), weights(second))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    options = {"encoder": {"name": "torchvision:efficientnet_b0", "weights": "random"}, "epochs": 1}
    results = []
    for seed in (5, 5, 6):
        training = begin(**options, seed=seed)
        list(train_epochs(training, stripes(8, batch_size=4)))
        results.append(weights(training))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])  # stochastic depth draws differ


def test_the_state_is_tensors_alone_and_loads_under_weights_only(tmp_path: Path) -> None:
    training = begin()
    next(train_epochs(training, stripes()))
    torch.save(training.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert all(isinstance(value, Tensor) and value.is_contiguous() for value in state.values())
    assert {name.partition(".")[0] for name in state} == {"epoch", "encoder", "loss", "optimiser"}


def test_the_state_is_a_copy_that_later_steps_do_not_change() -> None:
    training = begin()
    epochs = train_epochs(training, stripes())
    next(epochs)
    state = training.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    next(epochs)
    assert equal(state, kept)


def test_a_state_of_another_loss_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        begin("proxy_anchor").load_state_dict(begin("arcface").state_dict())


def test_a_finished_training_has_no_epoch_left() -> None:
    training = begin(epochs=1)
    assert len(list(train_epochs(training, stripes()))) == 1
    assert list(train_epochs(training, stripes())) == []


def test_backbone_head_and_proxies_have_separate_learning_rates() -> None:
    options = {"head_learning_rate": 3e-4, "schedule": "constant", "warmup_epochs": 0, "learning_rate": 1e-4}
    training = begin(**options)
    next(train_epochs(training, stripes()))
    rates = {id(p): group["lr"] for group in training.optimiser.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in training.encoder.trunk.parameters()} == {1e-4}
    assert {rates[id(p)] for p in training.encoder.head.parameters()} == {3e-4}
    assert [rates[id(p)] for p in training.loss.parameters()] == [pytest.approx(1e-2)]
    given = begin(**options, proxy_learning_rate=0.5)
    assert given.optimiser.param_groups[-1]["lr"] == 0.5


def test_biases_and_normalisations_do_not_decay() -> None:
    training = begin(weight_decay=0.1)
    for group in training.optimiser.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.1}


@pytest.mark.parametrize(
    ("step", "schedule", "expected"),
    [
        (0, "cosine", 1 / 11),
        (9, "cosine", 10 / 11),
        (10, "cosine", 1.0),
        (55, "cosine", 0.5),
        (99, "cosine", 0.5 * (1 + math.cos(math.pi * 89 / 90))),
        (0, "constant", 1 / 11),
        (99, "constant", 1.0),
    ],
)
def test_the_rate_rises_in_a_line_and_then_follows_the_schedule(step: int, schedule: str, expected: float) -> None:
    assert Schedule(10, 10, warmup_epochs=1, kind=schedule).factor(step) == pytest.approx(expected)


def test_a_training_of_one_epoch_that_warms_up_throughout_still_learns() -> None:
    training = begin(epochs=1, warmup_epochs=1)
    before = weights(training)
    assert next(train_epochs(training, stripes())).learning_rate > 0
    assert not torch.equal(before["encoder.head.neck.weight"], weights(training)["encoder.head.neck.weight"])


def test_a_frozen_trunk_is_unchanged_by_training() -> None:
    training = begin(encoder={"freeze": "trunk", "neck": "bnneck"})
    before = {key: value.clone() for key, value in training.encoder.trunk.state_dict().items()}
    list(train_epochs(training, stripes()))
    assert equal(before, dict(training.encoder.trunk.state_dict()))
    assert not any("trunk" in key for key in training.state_dict() if key.startswith("optimiser"))


@pytest.mark.parametrize("neck", ["linear", "bnneck"])
@pytest.mark.parametrize("loss", ["proxy_anchor", "supcon"])
def test_a_batch_of_one_image_is_trained_on(neck: str, loss: str) -> None:
    training = begin(loss, encoder={"neck": neck}, epochs=1)
    epoch = next(train_epochs(training, stripes(3, batch_size=1)))
    assert epoch.images == 3
    assert math.isfinite(epoch.loss)
    assert all(layer.training for layer in training.encoder.modules())


class NonFiniteLoss(nn.Module):
    """A loss whose value or gradient stops being finite at the given call."""

    def __init__(self, at: int, kind: str) -> None:
        super().__init__()
        self.at, self.kind, self.calls = at, kind, 0

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        total = embeddings.square().mean()
        if self.calls != self.at:
            return total
        return total * math.nan if self.kind == "loss" else total + (embeddings * 0).sum().sqrt()


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize(("at", "where"), [(2, "step 2 of epoch 1"), (6, "step 3 of epoch 2")])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_training(kind: str, at: int, where: str) -> None:
    encoder = build_encoder("tiny", embedding_size=16, image_size=(32, 32))
    settings = {"epochs": 4, "steps": 3, "learning_rate": 1e-3, "precision": "fp32", "seed": 5}
    training = start_training(encoder, NonFiniteLoss(at, kind), **settings)
    with pytest.raises(TrainingError, match=rf"must be finite, but at {where}.*Lower train.learning_rate"):
        list(train_epochs(training, stripes()))


def test_the_norm_of_a_gradient_is_limited_for_encoder_and_proxies_each() -> None:
    training = begin(clip=1e-3, epochs=1, schedule="constant")
    list(train_epochs(training, stripes()))
    for module in (training.encoder, training.loss):
        norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
        assert torch.stack(norms).norm() <= 1.001e-3


@pytest.mark.parametrize("clip", [None, 0])
def test_clipping_can_be_left_out(clip: float | None) -> None:
    free, wide = begin(clip=clip, epochs=1), begin(clip=1e9, epochs=1)
    list(train_epochs(free, stripes()))
    list(train_epochs(wide, stripes()))
    assert equal(weights(free), weights(wide))


def test_the_epochs_loss_is_the_mean_over_images() -> None:
    training = begin("cosface", epochs=1, learning_rate=0.0)
    training.encoder.recipe["freeze"] = "trunk"  # statistics stay, so that the loss can be recomputed
    epoch = next(train_epochs(training, stripes(11, batch_size=8)))
    with torch.no_grad():
        found = [(training.loss(training.encoder(x), y).item(), len(y)) for x, y in stripes(11).epoch(1)]
    assert [count for _, count in found] == [6, 5]
    assert epoch.loss == pytest.approx(sum(value * count for value, count in found) / 11, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of cosine, constant, but got 'linear'"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16, but got 'fp16'"),
    ],
)
def test_an_unknown_option_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        begin(**options)


def test_nothing_left_to_train_is_refused() -> None:
    encoder = {"freeze": "trunk", "neck": "none", "embedding_size": None}
    with pytest.raises(ValueError, match="something must be left to train"):
        begin("triplet", encoder=encoder)


def test_an_epoch_is_frozen_data() -> None:
    assert Epoch(1, 0.5, 8, 1.0, 1e-3) == Epoch(number=1, loss=0.5, images=8, seconds=1.0, learning_rate=1e-3)
    assert isinstance(begin().encoder, Encoder)


def depths(name: str, **options: Any) -> list[set[str]]:
    """The first names of the modules in each block of an encoder's trunk."""
    trunk = build_encoder(name, embedding_size=8, weights="random", **options).trunk
    names = {id(parameter): key for key, parameter in trunk.named_parameters()}
    blocks = layer_blocks(trunk)
    assert sum(map(len, blocks)) == len(names)
    return [{names[id(parameter)] for parameter in block} for block in blocks]


def starts(block: set[str], *prefixes: str) -> bool:
    return all(name.startswith(prefixes) for name in block)


def test_the_blocks_of_tiny_are_its_stem_and_stages() -> None:
    blocks = depths("tiny", image_size=(32, 32))
    assert [starts(block, f"body.{name}.") for block, name in zip(blocks, TINY_STAGES, strict=True)] == [True] * 4


def test_the_blocks_of_a_resnet_are_its_stem_and_stages() -> None:
    stem, *stages = depths("torchvision:resnet18", image_size=(32, 32))
    assert stem == {"body.conv1.weight", "body.bn1.weight", "body.bn1.bias"}
    assert [starts(block, f"body.layer{place}.") for place, block in enumerate(stages, 1)] == [True] * 4


def test_the_blocks_of_a_vision_transformer_are_its_embeddings_and_layers() -> None:
    first, *layers = depths("torchvision:vit_b_32", image_size=(32, 32))
    assert starts(first, "body.conv_proj.", "body.class_token", "body.encoder.pos_embedding")
    assert all(starts(block, f"body.encoder.layers.encoder_layer_{i}.") for i, block in enumerate(layers[:-1]))
    assert starts(layers[-1], "body.encoder.layers.encoder_layer_11.", "body.encoder.ln.")
    assert len(layers) == 12


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("regnet_y_400mf", 4), ("convnext_tiny", 8), ("efficientnet_b0", 9), ("swin_t", 8), ("mobilenet_v3_small", 13)],
)
def test_blocks_inside_a_wrapper_module_are_found(name: str, blocks: int) -> None:
    stem = 1 if name.startswith("regnet") else 0
    assert len(depths(f"torchvision:{name}", image_size=(64, 64))) == blocks + stem


def test_each_block_learns_at_a_share_of_the_rate_of_the_block_after_it() -> None:
    training = begin(layer_decay=0.5, head_learning_rate=7e-4, schedule="constant", warmup_epochs=0)
    rates = {id(p): group["lr"] for group in training.optimiser.param_groups for p in group["params"]}
    stages = training.encoder.trunk.body.named_children()
    found = {name: {rates[id(p)] for p in stage.parameters()} for name, stage in stages}
    assert found == {"stem": {1e-3 / 8}, "stage1": {1e-3 / 4}, "stage2": {1e-3 / 2}, "stage3": {1e-3}}
    assert {rates[id(p)] for p in training.encoder.head.parameters()} == {7e-4}
    assert next(train_epochs(training, stripes())).learning_rate == 1e-3  # the reported rate is that of the last block


def test_the_average_is_the_recursion_over_the_weights_of_each_step() -> None:
    training = begin(ema=0.6, encoder={"neck": "bnneck"}, epochs=2)
    assert training.average is not None
    assert training.outcome is training.average.encoder
    seen: list[dict[str, Tensor]] = []
    expected = {name: value.clone() for name, value in training.encoder.state_dict().items()}
    update = training.average.update

    def recorded(encoder: Encoder, step: int) -> None:
        seen.append({name: value.clone() for name, value in encoder.state_dict().items()})
        update(encoder, step)

    training.average.update = recorded  # type: ignore[method-assign]
    list(train_epochs(training, stripes()))
    assert len(seen) == 6
    for step, present in enumerate(seen):
        kept = min(0.6, (1 + step) / (10 + step))
        for name, value in present.items():
            counts = not value.is_floating_point()
            expected[name] = value if counts else kept * expected[name] + (1 - kept) * value
    for name, value in training.outcome.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    assert not equal(dict(training.outcome.state_dict()), dict(training.encoder.state_dict()))


def test_averaging_changes_nothing_in_what_is_trained() -> None:
    plain, averaged = begin(), begin(ema=0.99)
    list(train_epochs(plain, stripes()))
    list(train_epochs(averaged, stripes()))
    assert equal(dict(plain.encoder.state_dict()), dict(averaged.encoder.state_dict()))
    assert plain.outcome is plain.encoder


def test_the_backbone_is_frozen_during_the_head_stage_and_trained_afterwards() -> None:
    training = begin(head_epochs=2, encoder={"neck": "bnneck"})
    start = {key: value.clone() for key, value in training.encoder.trunk.state_dict().items()}
    running = train_epochs(training, stripes())
    head = training.encoder.head.neck[0].weight.clone()
    assert [next(running).learning_rate, next(running).learning_rate] == [0.0, 0.0]
    assert equal(start, dict(training.encoder.trunk.state_dict()))  # its batch statistics are among them
    assert not torch.equal(head, training.encoder.head.neck[0].weight)
    assert not any("trunk" in key for key in training.state_dict() if key.startswith("optimiser"))
    assert next(running).learning_rate > 0
    moved = training.encoder.trunk.state_dict()
    assert all(not torch.equal(value, moved[key]) for key, value in start.items())


def test_the_backbone_warms_up_when_it_is_unfrozen_under_the_common_schedule() -> None:
    plain, staged = Schedule(10, 10, warmup_epochs=1), Schedule(10, 10, warmup_epochs=1, head_epochs=3)
    assert [staged.factor(step) for step in range(100)] == [plain.factor(step) for step in range(100)]
    assert [staged.factor(step, waits=True) for step in (0, 29)] == [0.0, 0.0]
    assert staged.factor(30, waits=True) == pytest.approx(plain.factor(30) / 11)
    assert staged.factor(39, waits=True) == pytest.approx(plain.factor(39) * 10 / 11)
    assert [staged.factor(step, waits=True) for step in range(40, 100)] == [plain.factor(s) for s in range(40, 100)]


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize(("loss", "memory"), [("arcface", 0), ("supcon", 20)])
def test_a_stop_after_any_epoch_leaves_averages_stages_and_memory_as_they_were(
    loss: str, memory: int, stop: int, tmp_path: Path
) -> None:
    neck = {"neck": "bnneck"}
    options = {"loss": loss, "memory": memory, "ema": 0.9, "head_epochs": 2, "layer_decay": 0.7, "encoder": neck}
    whole = begin(**options)
    list(train_epochs(whole, stripes()))
    first = begin(**options)
    running = train_epochs(first, stripes())
    for _ in range(stop):
        next(running)
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    second = begin(**options)
    second.load_state_dict(load_file(tmp_path / "state.safetensors"))
    list(train_epochs(second, stripes()))
    assert equal(weights(whole), weights(second))
    assert any(name.startswith("average.trunk") for name in weights(second))
