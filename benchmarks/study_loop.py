"""Benchmark of training: images/s of a trial divided by those of a plain training loop; goal 3.

The loop decodes each photograph with Pillow and resizes it in every step, and trains in float32 in batches of 8. Both
train the same torchvision model with the same loss on one thread. The photographs are drawn, 600 x 1,050 pixels.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from training_step import EMBEDDING, PLACES, Case, library_model, trial_round

from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.device import keep_freed_memory
from whale_ray.learning.losses.registry import build_loss

GOAL = 3.0
OBSTACLE = "Forward and backward pass, which both do, are most of the time; only the number format makes them faster."
PHOTOGRAPH, BATCH = (600, 1050), 8
CASES = (Case("resnet18", (64, 64), 64), Case("mobilenet_v2", (128, 128), 32), Case("resnet18", (224, 224), 32))


def study_round(files: list[Path], case: Case, steps: int) -> Callable[[], None]:
    """Return a function that trains `steps` batches of 8 from the files.

    Args:
        files: The photographs, at least 8.
        case: Model and image size.
        steps: Batches of each call.
    """
    model = library_model(case)
    loss = build_loss("proxy_anchor", num_classes=len(files), embedding_size=EMBEDDING)
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()])
    order = itertools.cycle(range(len(files)))

    def train() -> None:
        for _ in range(steps):
            rows = [next(order) for _ in range(BATCH)]
            images = torch.stack([_read(files[row], case.size) for row in rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(images), torch.tensor(rows)))
            optimizer.step()

    return train


def _read(file: Path, size: tuple[int, int]) -> torch.Tensor:
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of both, in alternation.", min=1)] = 5,
    short: Annotated[bool, typer.Option("--short", help="Two rounds of the first case.")] = False,
) -> None:
    """Print images/s of a trial divided by those of the study's loop; about two minutes on one thread."""
    torch.set_num_threads(paired_timing.THREADS)
    keep_freed_memory()
    rounds, cases = (2, CASES[:1]) if short else (rounds, CASES)
    place, rows, ratios = PLACES["cpu"], [], {}
    with tempfile.TemporaryDirectory() as scratch:
        draw_dataset(Path(scratch) / "photographs", individuals=8, images=32, difficulty=0.0, size=PHOTOGRAPH)
        files = sorted((Path(scratch) / "photographs").rglob("*.jpg"))
        for case in cases:
            images = place.steps * case.batch
            study = study_round(files, case, images // BATCH)
            pair = paired_timing.take_turns(
                study, trial_round(place, case, Path(scratch), rounds=rounds), rounds=rounds
            )
            rows.append([case.name, *(f"{images / median(side):.1f}" for side in (pair.second, pair.first))])
            ratios[case.name] = pair.ratio
    paired_timing.print_table(["case", "trial images/s", "study's images/s"], rows)
    for name, ratio in ratios.items():
        text = f"a trial's images/s / those of the study's loop, {name}"
        paired_timing.print_verdict(text, ratio, at_least=GOAL, obstacle=OBSTACLE)


if __name__ == "__main__":
    typer.run(main)
