"""Benchmark of a trial: its images/s divided by those of the bare training step on prepared tensors; goal 0.95.

It runs on one CPU thread, or with `--device cuda` on a GPU beside that thread. The trial: Batches (PxK, the default
augmentation) from a memory map into the training loop. The bare step: torchvision's own model, forward, the same
loss, backward and AdamW, in the number format and memory format that is fastest on this machine.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from whale_ray.data.batches import Batches
from whale_ray.data.image_io import Geometry
from whale_ray.device import keep_freed_memory, limit_threads
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import start_training, train_epochs
from whale_ray.sweep.config.schema.all_settings import section_settings
from whale_ray.sweep.planning.dataset import MARGIN

GOAL = 0.95
OBSTACLES = {
    "cpu": "The thread that trains also makes the batch (10 to 13 ms of a step of 390 ms at 64 px) and clips gradients "
    "(4 ms); the bare step has a batch and does not clip.",
    "cuda": "The CPU starts the kernels of a small encoder one by one and also makes the batches; the step is neither "
    "compiled nor captured as a CUDA graph.",
}
EMBEDDING, PER_INDIVIDUAL = 512, 4
FORMATS = [
    (dtype, layout)
    for dtype in (torch.float32, torch.bfloat16)
    for layout in (torch.contiguous_format, torch.channels_last)
]


@dataclass(frozen=True)
class Case:
    """A model of torchvision, or of timm with the prefix `timm:`, at one image size."""

    model: str
    size: tuple[int, int]
    batch: int

    @property
    def name(self) -> str:
        """Return the name in the table."""
        return f"{self.model} at {self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Place:
    """A device, its cases and the number of steps per round."""

    device: str
    steps: int
    cases: tuple[Case, ...]

    def individuals(self, case: Case) -> int:
        """Return the number of individuals of an epoch."""
        return case.batch * self.steps // PER_INDIVIDUAL

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device == "cuda":
            torch.cuda.synchronize()


PLACES = {
    "cpu": Place(
        "cpu",
        3,
        (
            Case("resnet18", (64, 64), 64),
            Case("resnet18", (224, 224), 32),
            Case("mobilenet_v2", (128, 128), 32),
            Case("timm:vit_tiny_patch16_224", (224, 224), 16),
        ),
    ),
    "cuda": Place(
        "cuda",
        20,
        (
            Case("resnet18", (64, 64), 64),
            Case("resnet18", (224, 224), 64),
            Case("vit_b_16", (224, 224), 64),
            Case("convnext_small", (256, 512), 64),
        ),
    ),
}


def library_model(case: Case) -> nn.Module:
    """Return the library's own model with random weights, whose last layer gives the embedding."""
    import whale_ray.learning.encoders.backbones._torchvision_compat  # noqa: F401  # isort: skip
    import timm
    from torchvision import models

    family, _, name = case.model.rpartition(":")
    model: nn.Module = (timm.create_model if family else models.get_model)(name, num_classes=EMBEDDING)
    return model


def bare_step(place: Place, case: Case, dtype: torch.dtype, layout: torch.memory_format) -> Callable[[], None]:
    """Return a function that does one bare training step on a prepared batch."""
    model = library_model(case).to(place.device)
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    loss = build_loss("proxy_anchor", num_classes=place.individuals(case), embedding_size=EMBEDDING).to(place.device)
    optimiser = torch.optim.AdamW([*model.parameters(), *loss.parameters()], fused=True)
    pictures = torch.randn(case.batch, 3, *case.size, device=place.device).to(memory_format=layout)
    labels = torch.arange(case.batch, device=place.device) // PER_INDIVIDUAL
    half = torch.autocast(place.device, torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()

    def step() -> None:
        with half:
            embeddings = model(pictures)
        value: Tensor = loss(embeddings.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimiser.step()

    return step


def fastest_format(place: Place, case: Case) -> tuple[Callable[[], None], str]:
    """Return a round of bare steps in the fastest format (median of three timings), and the name of that format."""
    steps = [bare_step(place, case, dtype, layout) for dtype, layout in FORMATS]
    once = [partial(_repeat, place, step, 1) for step in steps]
    taken = [[paired_timing.seconds(one)[0] for one in once] for _ in range(4)][1:]  # the first warms up
    best = int(np.median(taken, axis=0).argmin())
    return partial(_repeat, place, steps[best], place.steps), " ".join(
        str(part).removeprefix("torch.") for part in FORMATS[best]
    )


def _repeat(place: Place, step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()
    place.wait()


def trial_round(place: Place, case: Case, folder: Path, *, rounds: int) -> Callable[[], object]:
    """Return a function that trains the next epoch (a round of steps) from the memory map, as a trial does."""
    geometry = Geometry(*case.size, margin=MARGIN)
    batches = _batches(place, case, geometry, folder / f"{case.model.rpartition(':')[2]}_{case.size[0]}.npy")
    encoder = build_encoder(
        case.model if ":" in case.model else f"torchvision:{case.model}",
        embedding_size=EMBEDDING,
        weights="random",
        image_size=case.size,
    )
    loss: nn.Module = build_loss("proxy_anchor", num_classes=batches.num_classes, embedding_size=EMBEDDING)
    training = start_training(
        encoder, loss, epochs=rounds + 1, steps=batches.steps, learning_rate=1e-4, device=place.device, seed=0
    )
    epochs = train_epochs(training, batches)
    return lambda: next(epochs)


def _batches(place: Place, case: Case, geometry: Geometry, path: Path) -> Batches:
    count = case.batch * place.steps
    noise = np.random.default_rng(0).integers(0, 256, (count, *geometry.stored, 3), dtype=np.uint8)
    np.save(path, noise)
    defaults = section_settings("train")
    return Batches(
        np.load(path, mmap_mode="r"),
        geometry,
        np.arange(count),
        np.arange(count) // PER_INDIVIDUAL,
        batch_size=case.batch,
        images_per_individual=PER_INDIVIDUAL,
        affine=float(defaults["affine"].default),
        colour=float(defaults["colour"].default),
        device=place.device,
    )


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of both, in alternation.", min=1)] = 7,
    device: Annotated[str, typer.Option(help=f"{' or '.join(PLACES)}.")] = "cpu",
    short: Annotated[bool, typer.Option("--short", help="Three rounds of the first case.")] = False,
) -> None:
    """Print images/s of a trial divided by those of the bare training step; some minutes on one thread."""
    limit_threads(paired_timing.THREADS)
    keep_freed_memory()  # as a trial does
    place = PLACES[device]
    if short:
        rounds, place = 3, replace(place, cases=place.cases[:1])
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for case in place.cases:
            bare, layout = fastest_format(place, case)
            pair = paired_timing.take_turns(bare, trial_round(place, case, Path(folder), rounds=rounds), rounds=rounds)
            images = place.steps * case.batch
            ratios[case.name] = pair.ratio
            rates = (f"{images / median(side):.1f}" for side in (pair.second, pair.first))
            rows.append([case.name, str(case.batch), layout, *rates, f"{pair.ratio:.3f}", f"{pair.cpu_ratio:.3f}"])
    head = ["case", "batch", "best format", "trial images/s", "bare images/s", "ratio", "ratio, processor time"]
    paired_timing.print_table(head, rows)
    for name, ratio in ratios.items():
        paired_timing.print_verdict(
            f"a trial's images/s / the bare step's, {name}", ratio, at_least=GOAL, obstacle=OBSTACLES[device]
        )


if __name__ == "__main__":
    typer.run(main)
