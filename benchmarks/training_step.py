"""Images/s of a real trial over those of the bare training step on tensors that are ready; goal 0.9.

The trial: Batches (PxK, the default augmentation) from a memory map, into train_epochs. The bare step: torchvision's
own model, forward, the same loss, backward, AdamW, in whichever number format and memory format is the fastest here.
"""

from __future__ import annotations

import pairs  # isort: skip  # one thread, settled before NumPy and torch are loaded
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from whale_ray.data.batches import Batches
from whale_ray.data.pixels import Geometry
from whale_ray.learning.encoders import build_encoder
from whale_ray.learning.losses import build_loss
from whale_ray.learning.training import start_training, train_epochs
from whale_ray.sweep.dataset import MARGIN
from whale_ray.sweep.reference import section_settings

GOAL = 0.9
STEPS = 3  # of a round, on both sides
EMBEDDING, PER_INDIVIDUAL = 512, 4
FORMATS = [
    (dtype, layout)
    for dtype in (torch.float32, torch.bfloat16)
    for layout in (torch.contiguous_format, torch.channels_last)
]


@dataclass(frozen=True)
class Case:
    """One model of torchvision at one picture size."""

    model: str
    size: int
    batch: int

    @property
    def individuals(self) -> int:
        """How many individuals the epoch's photographs show."""
        return self.batch * STEPS // PER_INDIVIDUAL


CASES = (Case("resnet18", 64, 64), Case("resnet18", 224, 32), Case("mobilenet_v2", 192, 32))


def bare_step(case: Case, dtype: torch.dtype, layout: torch.memory_format) -> Callable[[], None]:
    """A function that does one bare training step on a batch that is ready."""
    import whale_ray.torchvision_ops  # noqa: F401  # isort: skip
    from torchvision import models

    model = models.get_model(case.model, num_classes=EMBEDDING).to(memory_format=layout)  # its last layer embeds
    loss = build_loss("proxy_anchor", num_classes=case.individuals, embedding_size=EMBEDDING)
    optimiser = torch.optim.AdamW([*model.parameters(), *loss.parameters()], fused=True)
    pictures = torch.randn(case.batch, 3, case.size, case.size).to(memory_format=layout)
    labels = torch.arange(case.batch) // PER_INDIVIDUAL
    half = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()

    def step() -> None:
        with half:
            embeddings = model(pictures)
        value: Tensor = loss(embeddings.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimiser.step()

    return step


def fastest_format(case: Case) -> tuple[Callable[[], None], str]:
    """The bare step in the format that is the fastest here, of three turns each, and what it is called."""
    candidates = [bare_step(case, dtype, layout) for dtype, layout in FORMATS]
    taken = [[pairs.seconds(candidate)[0] for candidate in candidates] for _ in range(3)]
    best = int(np.median(taken, axis=0).argmin())
    return candidates[best], " ".join(str(part).removeprefix("torch.") for part in FORMATS[best])


def _repeat(step: Callable[[], None]) -> None:
    for _ in range(STEPS):
        step()


def trial_round(case: Case, folder: Path, *, rounds: int) -> Callable[[], object]:
    """A function that trains the next epoch of STEPS steps as a trial does, from the memory map."""
    geometry = Geometry(case.size, case.size, margin=MARGIN)
    batches = _batches(case, geometry, folder / f"{case.model}_{case.size}.npy")
    encoder = build_encoder(
        f"torchvision:{case.model}",
        embedding_size=EMBEDDING,
        weights="random",
        image_size=(case.size, case.size),
    )
    loss: nn.Module = build_loss("proxy_anchor", num_classes=batches.num_classes, embedding_size=EMBEDDING)
    training = start_training(encoder, loss, epochs=rounds + 1, steps=batches.steps, learning_rate=1e-4, seed=0)
    epochs = train_epochs(training, batches)
    return lambda: next(epochs)


def _batches(case: Case, geometry: Geometry, path: Path) -> Batches:
    count = case.batch * STEPS
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
    )


def main(rounds: Annotated[int, typer.Option(help="Rounds of both, in turns.", min=1)] = 7) -> None:
    """Divides a real trial's images/s by the bare training step's; some minutes on one thread."""
    torch.set_num_threads(pairs.THREADS)
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            bare, layout = fastest_format(case)
            pair = pairs.take_turns(
                partial(_repeat, bare), trial_round(case, Path(folder), rounds=rounds), rounds=rounds
            )
            name, images = f"{case.model} at {case.size} px", STEPS * case.batch
            ratios[name] = pair.ratio
            rates = (f"{images / median(side):.1f}" for side in (pair.second, pair.first))
            rows.append([name, str(case.batch), layout, *rates, f"{pair.ratio:.3f}", f"{pair.cpu_ratio:.3f}"])
    head = ["case", "batch", "best format", "trial images/s", "bare images/s", "ratio", "ratio, processor time"]
    pairs.print_table(head, rows)
    for name, ratio in ratios.items():
        pairs.print_verdict(f"a trial's images/s / the bare step's, {name}", ratio, at_least=GOAL)


if __name__ == "__main__":
    typer.run(main)
