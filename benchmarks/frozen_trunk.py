"""Benchmark of frozen trunks: epochs on stored features against epochs that run the trunk; forward passes of a grid.

Both train the same neck on the same frozen ResNet-18 with random weights. The passes count the images that the trunk
gets while every trial of a grid embeds both views of all photographs.
"""

from __future__ import annotations

import paired_timing  # isort: skip  # sets one thread; must precede NumPy and torch
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from whale_ray.data.batches import Batches
from whale_ray.data.catalog import read_catalog
from whale_ray.data.image_io import Geometry
from whale_ray.data.pixel_cache import DecodedImages, decode_images
from whale_ray.data.synthetic.dataset import draw_dataset
from whale_ray.learning.encoders.registry import Encoder, build_encoder
from whale_ray.learning.losses.registry import build_loss
from whale_ray.learning.training.loop import start_training, train_epochs
from whale_ray.learning.training.worker_group import SINGLE_WORKER
from whale_ray.sweep.trials.embedder import TrialEmbedder
from whale_ray.sweep.trials.training_setup import build_batches

MODEL = "torchvision:resnet18"
BATCH, PER_INDIVIDUAL = 64, 4
SPEED_GOAL, PASSES_GOAL = 50.0, 1.1
SPEED_OBSTACLE = "On stored features an epoch is the calls of PyTorch for neck, loss and update, not arithmetic."
GRIDS: dict[str, dict[str, list[Any]]] = {
    "embedding sizes and necks": {"embedding_size": [64, 128, 256], "neck": ["linear", "bnneck"]},
    "poolings and layers": {"embedding_size": [64, 128], "pool": ["avg", "gem"], "layers": [1, 2]},
}


def frozen_encoder(geometry: Geometry, **options: Any) -> Encoder:
    """Return a frozen encoder, always with the same random trunk."""
    torch.manual_seed(0)
    size = (geometry.height, geometry.width)
    return build_encoder(MODEL, weights="random", freeze="trunk", image_size=size, **options)


def epochs_of(encoder: Encoder, batches: Batches, *, epochs: int) -> Callable[[], object]:
    """Return a function that trains the next epoch."""
    loss = build_loss("proxy_anchor", num_classes=batches.num_classes, embedding_size=encoder.embedding_size)
    training = start_training(encoder, loss, epochs=epochs, steps=batches.steps, learning_rate=1e-4, seed=0)
    rows = train_epochs(training, batches)
    return lambda: next(rows)


def embedder_of(pixels: DecodedImages, cache: Path, poolings: Sequence[tuple[str, int]] = ()) -> TrialEmbedder:
    """Return the embedder of a trial on this machine, in a sweep with these poolings."""
    options: dict[str, Any] = {"batch_size": BATCH, "device": torch.device("cpu"), "on_batch": lambda: None}
    return TrialEmbedder(pixels, feature_cache=cache, poolings=poolings, **options)


def passes(pixels: DecodedImages, cache: Path, grid: dict[str, list[Any]]) -> float:
    """Return the images that the trunks get in all trials of a grid, divided by those of one pass over both views."""
    seen = 0

    def add(module: torch.nn.Module, images: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(images[0])

    rows = np.arange(len(pixels.array))
    poolings = list(itertools.product(grid.get("pool", ["auto"]), grid.get("layers", [1])))
    for values in itertools.product(*grid.values()):
        encoder = frozen_encoder(pixels.geometry, **dict(zip(grid, values, strict=True)))
        first = next(module for module in encoder.trunk.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_pre_hook(add)
        embedder_of(pixels, cache, poolings).embed_views(encoder, rows)
    return seen / (2 * len(rows))


def main(
    rounds: Annotated[int, typer.Option(help="Rounds, in alternation.", min=1)] = 5,
    photographs: Annotated[int, typer.Option(help="Photographs that are drawn.", min=90)] = 300,
    side: Annotated[int, typer.Option(help="Side of the images in pixels.", min=32)] = 112,
) -> None:
    """Print how much faster epochs on stored features are, and the passes of two grids; about two minutes."""
    torch.set_num_threads(paired_timing.THREADS)
    geometry = Geometry(side, side)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photographs"
        draw_dataset(root, individuals=30, images=photographs, difficulty=0.0)
        pixels = decode_images(read_catalog(root), geometry, cache=Path(scratch) / "pixels")
        labels = np.arange(photographs) // PER_INDIVIDUAL
        options: dict[str, Any] = {"batch_size": BATCH, "images_per_individual": PER_INDIVIDUAL}
        through = Batches(pixels.array, geometry, np.arange(photographs), labels, **options)
        train = {**options, "sampler": "pk", "negatives_share": 0.25, "flip": True}
        train |= dict.fromkeys(("affine", "colour", "blur", "erasing"), 0.0)
        encoders = [frozen_encoder(geometry, embedding_size=128) for _ in range(2)]
        embedder = embedder_of(pixels, Path(scratch) / "features")
        shared: dict[str, Any] = {"train": train, "seed": 0, "embedder": embedder, "workers": SINGLE_WORKER}
        stored = build_batches(encoders[0], np.arange(photographs), labels, **shared)
        both = [epochs_of(*one, epochs=rounds + 1) for one in zip(encoders, (stored, through), strict=True)]
        pair = paired_timing.take_turns(both[1], both[0], rounds=rounds)
        found = {name: passes(pixels, Path(scratch) / name, grid) for name, grid in GRIDS.items()}
    rows = [["on stored features", f"{median(pair.second):.3f}"], ["through the trunk", f"{median(pair.first):.3f}"]]
    paired_timing.print_table([f"{photographs} photographs, {side} px", "seconds per epoch"], rows)
    name = "an epoch through the frozen trunk / on its stored features"
    paired_timing.print_verdict(name, pair.ratio, at_least=SPEED_GOAL, obstacle=SPEED_OBSTACLE)
    for name, ratio in found.items():
        paired_timing.print_verdict(f"passes through the trunk and view, grid of {name}", ratio, at_most=PASSES_GOAL)


if __name__ == "__main__":
    typer.run(main)
