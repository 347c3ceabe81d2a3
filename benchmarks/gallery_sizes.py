"""Benchmark of the service with 1, 10 and 100 thousand gallery images: p50 against 1,000, at 1 and 32 clients.

The same encoder, ResNet-18 with random weights and 512 dimensions at 64 pixels, answers with galleries that are
drawn as in `large_gallery.py`. All services run at once and are measured in alternation.
"""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import paired_timing
import typer
from clients import ask_for, photograph_request
from large_gallery import draw
from serving import behind_haproxy, free_port, make_bundle, pictures, server, service_command, wait_for_quiet

CLIENTS = (1, 32)
SIZES = (1_000, 10_000, 100_000)
GOAL = 1.5
OBSTACLE = (
    "Beside the encoder, a query in 100,000 images costs the search in its lists and the exact cosines of 256 "
    "candidates; their share grows where the encoder is fast."
)
SIDE = 64  # pixels
SPREAD = 0.3  # within an individual, of that between individuals


def with_gallery(bundle: Path, folder: Path, images: int) -> Path:
    """Write a copy of a bundle with a drawn gallery, and return its folder.

    Args:
        bundle: The bundle.
        folder: Folder of the new bundle's folder.
        images: Number of gallery images.
    """
    import numpy as np
    import pandas as pd

    from whale_ray.inference.bundle import read_bundle, write_bundle

    contents = read_bundle(bundle)
    vectors, labels, _ = draw(images, SPREAD)
    names = labels.tolist()
    manifest = contents.manifest | {"id": f"gallery-{images}", "images": images, "individuals": len(set(names))}
    table = pd.DataFrame({"image": [f"{row}.jpg" for row in range(images)], "individual": names})
    made = dataclasses.replace(contents, manifest=manifest, gallery=vectors.astype(np.float16), table=table)
    return write_bundle(made, folder / str(manifest["id"]))


def measure(
    bundles: dict[int, Path], *, seconds: float, rounds: int, patience: float
) -> dict[tuple[int, int], list[float]]:
    """Return the p50 in milliseconds of each round, by gallery size and number of clients.

    Args:
        bundles: Bundle by gallery size.
        seconds: Seconds per measurement.
        rounds: Rounds, in alternation.
        patience: Seconds to wait for a quiet machine before each measurement.
    """
    requests = [photograph_request(body) for body in pictures(32)]
    found: dict[tuple[int, int], list[float]] = {}
    with ExitStack() as stack:
        ports = {size: free_port() for size in bundles}
        for size, bundle in bundles.items():
            command = service_command([str(bundle)], ports[size], "threads=1", "decoders=2", "calls=192", "page=off")
            stack.enter_context(server(command, ready="/v1/identify", **behind_haproxy()))
        for port in ports.values():
            ask_for(2.0, port, requests, clients=8)
        for _ in range(rounds):
            for clients in CLIENTS:
                for size, port in ports.items():
                    wait_for_quiet(patience)
                    answers = ask_for(seconds, port, requests, clients=clients)
                    found.setdefault((size, clients), []).append(answers.milliseconds(50))
    return found


def main(
    seconds: Annotated[float, typer.Option(help="Seconds per measurement.", min=0.5)] = 8.0,
    rounds: Annotated[int, typer.Option(help="Rounds, with the services in alternation.", min=1)] = 3,
    patience: Annotated[float, typer.Option(help="Most seconds to wait for a quiet machine.", min=0.0)] = 60.0,
    short: Annotated[
        bool, typer.Option("--short", help="One round of 2 s of the smallest and largest gallery.")
    ] = False,
) -> None:
    """Print the p50 with each gallery divided by that with 1,000 images; about five minutes on two cores."""
    seconds, rounds, patience = (2.0, 1, 5.0) if short else (seconds, rounds, patience)
    sizes = (SIZES[0], SIZES[-1]) if short else SIZES
    with tempfile.TemporaryDirectory() as scratch:
        encoder = make_bundle(Path(scratch), SIDE, gallery=SIZES[0])
        bundles = {size: with_gallery(encoder, Path(scratch), size) for size in sizes}
        found = measure(bundles, seconds=seconds, rounds=rounds, patience=patience)
    rows = [[f"{size:,}", str(clients), f"{median(each):.1f}"] for (size, clients), each in found.items()]
    paired_timing.print_table(["gallery", "clients", "p50 ms"], rows)
    for size in sizes[1:]:
        for clients in CLIENTS:
            rounds_of = zip(found[size, clients], found[sizes[0], clients], strict=True)
            ratio = median(large / small for large, small in rounds_of)
            name = f"p50 with {size:,} gallery images / with {sizes[0]:,}, {clients} client{'s' * (clients > 1)}"
            paired_timing.print_verdict(name, ratio, at_most=GOAL, obstacle=OBSTACLE)


if __name__ == "__main__":
    typer.run(main)
