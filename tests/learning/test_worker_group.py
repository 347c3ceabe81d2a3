"""Several workers with the batches of one: the same losses and the same weights, within float tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whale_ray.data.batches import Batches
from whale_ray.data.image_io import Geometry
from whale_ray.errors import TrainingError
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import start_training, train_epochs
from whale_ray.learning.training.synchronized_norms import synchronized_batch_norm
from whale_ray.learning.training.worker_group import SINGLE_WORKER, FirstWorkerError, WorkerGroup

pytestmark = pytest.mark.integration

WORKERS, CLASSES, IMAGES = 2, 4, 22
CASES: dict[str, dict[str, Any]] = {
    "arcface": {"loss": "arcface", "images_per_individual": 2},
    "proxy_anchor with a moving average": {"loss": "proxy_anchor", "images_per_individual": None, "ema": 0.9},
    "triplet with a memory": {"loss": "triplet", "memory": 16, "images_per_individual": 2},
    "a frozen backbone first": {"loss": "arcface", "images_per_individual": None, "head_epochs": 1},
}


@dataclass(frozen=True)
class Trained:
    """What a training leaves behind."""

    losses: list[float]
    images: int
    gradients: list[Tensor]
    state: dict[str, Tensor]


def train(case: dict[str, Any], workers: WorkerGroup) -> Trained:
    """Train `tiny`, which has batch normalizations, on noise; batches of 11 are odd."""
    torch.set_num_threads(1)
    options = dict(case)
    loss, memory = options.pop("loss"), options.pop("memory", 0)
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    batches = Batches(
        array,
        Geometry(32, 32),
        np.arange(IMAGES),
        np.arange(IMAGES) % CLASSES,
        batch_size=11,
        images_per_individual=options.pop("images_per_individual"),
        flip="augment",
        colour=0.2,
        rank=workers.rank,
        workers=workers.size,
    )
    torch.manual_seed(3)
    encoder = build_encoder(name="tiny", embedding_size=16, image_size=(32, 32))
    terms = build_loss(loss, num_classes=CLASSES, embedding_size=16, memory=memory)
    settings = {"epochs": 2, "steps": batches.steps, "learning_rate": 1e-3, "precision": "fp32", "seed": 5}
    training = start_training(encoder, terms, workers=workers, **settings, **options)
    gradients: list[Tensor] = []

    def keep_first(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        gradients.extend([] if gradients else [one.grad.clone() for one in parameters])

    training.optimiser.register_step_pre_hook(keep_first)
    epochs = list(train_epochs(training, batches))
    return Trained([epoch.loss for epoch in epochs], epochs[-1].images, gradients, training.state_dict())


def normalize(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normalized images and the running variance after a step with uneven shares."""
    mean, variance = torch.full((3,), 100.0), torch.ones(3)
    return synchronized_batch_norm(images, mean, variance, weight, None), variance


def run_worker(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    workers = WorkerGroup(rank, WORKERS)
    found: dict[str, Any] = {name: train(case, workers) for name, case in CASES.items()}
    found["norm"] = normalize(images_of_norm()[rank::WORKERS], torch.ones(3))
    found["value"] = workers.from_first(lambda: f"made by {rank}")
    try:
        workers.from_first(lambda: 1 // 0)
    except (ZeroDivisionError, FirstWorkerError) as error:
        found["error"] = type(error).__name__
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def images_of_norm() -> Tensor:
    return 100 + torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(run_worker, (folder,), nprocs=WORKERS)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORKERS)]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_like_one(found: list[dict[str, Any]], case: str) -> None:
    one, two = train(CASES[case], SINGLE_WORKER), found[0][case]
    assert two.images == one.images
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    # Gradients and not weights: Adam divides a gradient by its size, which turns rounding into whole steps.
    for mine, wanted in zip(two.gradients, one.gradients, strict=True):
        assert torch.linalg.vector_norm(mine - wanted) <= 1e-4 * torch.linalg.vector_norm(wanted) + 1e-7


@pytest.mark.parametrize("case", CASES)
def test_all_workers_have_the_same_weights_to_the_last_digit(found: list[dict[str, Any]], case: str) -> None:
    first, second = (one[case] for one in found)
    assert first.losses == second.losses
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_batch_normalization_counts_every_image_of_all_workers_once(found: list[dict[str, Any]]) -> None:
    images, variance = images_of_norm(), torch.ones(3)
    whole = nn.functional.batch_norm(images, torch.full((3,), 100.0), variance, torch.ones(3), None, training=True)
    for rank, (normalized, seen) in enumerate(one["norm"] for one in found):
        assert torch.allclose(normalized, whole[rank::WORKERS], atol=1e-4)
        assert torch.allclose(seen, variance, atol=1e-5)


def test_the_others_get_what_the_first_worker_makes_and_end_if_it_fails(found: list[dict[str, Any]]) -> None:
    assert [one["value"] for one in found] == ["made by 0"] * WORKERS
    assert [one["error"] for one in found] == ["ZeroDivisionError", "FirstWorkerError"]


def test_a_batch_with_fewer_images_than_workers_is_refused_with_the_remedy() -> None:
    with pytest.raises(TrainingError, match="each of 12 workers needs an image of every batch, but a batch has 11"):
        train(CASES["arcface"] | {"images_per_individual": None}, WorkerGroup(0, 12))
