"""Benchmark of the service against a bare loop, Ray Serve's minimal app and plain FastAPI: same bundle and threads.

ResNet-18 with random weights, 512 dimensions and a gallery of 17,000 photographs, at 64 and at 224 pixels, with the
runtime that the bundle names on this machine. All servers run at once and are measured in alternation, each when the
machine is idle. The ratio of two servers is the median over the rounds of their neighbouring measurements; the bare
loop runs before the servers. The clients share the machine with the servers. The service runs behind HAProxy. With
`--gpus` every server encodes on a GPU, and the service runs twice: joined, and split into four ingresses in front of
one encoder.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import paired_timing
import psutil
import typer
from clients import Answers, ask_for, photograph_request

HERE = Path(__file__).parent
CLIENTS = (1, 8, 32, 128)
GALLERY = 17_000
OBSTACLES = {
    1: "A call passes HAProxy, Ray Serve and the socket of a decoder's process: about 0.4 ms more than uvicorn for the "
    "first two, 0.4 to 0.6 for the last, and two more wake-ups of a sleeping thread or process.",
    32: "A call takes 4.4 ms of processor time, FastAPI's 2.8: the event loop of Ray Serve 0.6 more, the decoder "
    "0.2, encoder and search 0.3, HAProxy and Ray's other processes 0.4. On two cores this is the rate.",
}
DIRECT = "service past HAProxy"  # the replica, called at its own port; measured with one client
PAST_HAPROXY = "A call still passes Ray Serve and the socket of a decoder's process, and its wake-ups."
INGRESSES = 4  # of the split service
QUIET_PERCENT = 15.0  # of all cores; idle Ray processes take half of it


def pictures(count: int, *, jitter: int = 0) -> list[bytes]:
    """Return JPEGs of about 12 KB with different coarse patterns; `jitter` seeds their noise."""
    import numpy as np
    from PIL import Image

    found = []
    for number in range(count):
        coarse = np.random.default_rng(number).uniform(0, 255, (5, 8, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((320, 200), Image.Resampling.BICUBIC), dtype=float)
        noise = np.random.default_rng(1_000_000 + 1_000 * jitter + number).normal(0, 8, (200, 320, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
        found.append(buffer.getvalue())
    return found


def make_bundle(
    folder: Path,
    size: int,
    *,
    seed: int = 0,
    encoder_name: str = "torchvision:resnet18",
    gallery: int = GALLERY,
    on_gpu: bool = False,
) -> Path:
    """Write a bundle of an encoder at this size, with the pictures in its gallery and its fastest runtime.

    Args:
        folder: Folder of the bundle.
        size: Side of the images in pixels.
        seed: Seed of the weights.
        encoder_name: Name of the encoder, as in a sweep file.
        gallery: Number of gallery images, at least 128.
        on_gpu: Use the runtime torch, the only one on a GPU.
    """
    import dataclasses

    import numpy as np
    import pandas as pd
    import torch

    from whale_ray.inference.bundle import write_bundle
    from whale_ray.inference.bundle_contents import BundleContents
    from whale_ray.inference.golden_images import largest_tolerance
    from whale_ray.inference.predictor import Bundle
    from whale_ray.inference.runtime_benchmark import BenchmarkQueries, with_fastest_runtime
    from whale_ray.learning.encoders.registry import build_encoder

    torch.manual_seed(seed)
    encoder = build_encoder(encoder_name, embedding_size=512, weights="random", image_size=(size, size))
    shown, names = pictures(32), [f"w_{row // 4:04d}" for row in range(gallery)]
    manifest: dict[str, Any] = {
        "id": f"{encoder_name.partition(':')[2]}-{size}-{seed}",
        "settings": {"model": {"encoder": encoder_name}},
        "preprocessing": {"height": size, "width": size, "resize": "pad", "margin": 0.0},
        "encoder": encoder.recipe,
        "embedding_size": 512,
        "retrieval": {"vote": "nearest", "neighbours": None, "temperature": 0.05, "flip": "none"},
        "threshold": 0.9,
        "calibration": None,
        "unknown_label": "new_whale",
        "scores": {"known_queries": 0, "queries": 0},
        "measured_gallery": gallery,
        "individuals": len(set(names)),
        "images": gallery,
        "data_fingerprint": "benchmark",
        "tolerance": 1e-4,
    }
    rows = np.random.default_rng(seed).normal(size=(gallery, 512))
    table = pd.DataFrame({"image": [f"{row}.jpg" for row in range(gallery)], "individual": names})
    made = BundleContents(
        manifest, encoder.state_dict(), rows.astype(np.float16), table, tuple(shown[:4]), np.zeros((4, 512))
    )
    bundle = Bundle(made)
    known = bundle.embed([bundle.prepare(picture) for picture in shown])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[: 4 * len(known) : 4] = known
    golden = np.concatenate([bundle.embed([bundle.prepare(picture)]) for picture in shown[:4]])
    whole = dataclasses.replace(
        made,
        manifest=manifest | {"tolerance": float(min(1e-4, largest_tolerance(golden)))},
        gallery=rows.astype(np.float16),
        golden_vectors=golden,
    )
    if on_gpu:
        return write_bundle(whole, folder / str(manifest["id"]))
    queries = [bundle.prepare(picture) for picture in pictures(32, jitter=1)]
    named = with_fastest_runtime(whole, BenchmarkQueries(queries, names[: 4 * 32 : 4], np.arange(gallery)))
    return write_bundle(named, folder / str(manifest["id"]))


@contextlib.contextmanager
def server(command: list[str], *, ready: str, **variables: str) -> Iterator[tuple[list[str], int]]:
    """Start a server; yield the lines that it printed until it was ready, and its process. The block ends it."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **variables}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    lines: list[str] = []
    try:
        while not any(ready in line for line in lines):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("a server ended:\n" + "".join(lines))
            lines.append(line)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield lines, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # Ray's minimal app still answers calls of closed connections
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_command(bundles: list[str], port: int, *settings: str) -> list[str]:
    """Return the command that serves these bundles."""
    options = [word for setting in settings for word in ("--set", setting)]
    entry = "from whale_ray.cli import main; main()"
    return [sys.executable, "-c", entry, "serve", *bundles, "--port", str(port), *options]


def behind_haproxy() -> dict[str, str]:
    """Return the environment in which Ray Serve puts HAProxy in front of its replicas."""
    ports = {"STATS": free_port(), "METRICS": free_port()}
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # instead of 30 s at the end of each service
        **{f"RAY_SERVE_HAPROXY_{name}_PORT": str(port) for name, port in ports.items()},
    }


@dataclass(frozen=True)
class Means:
    """Resources of each server: threads of its encoder, processes or threads that decode, a share of the GPU."""

    threads: int = 1
    decoders: int = 2
    gpus: float = 0.0

    @property
    def device(self) -> str:
        """Return the device of the encoders."""
        return "cuda" if self.gpus else "cpu"

    def settings(self, *others: str) -> list[str]:
        """Return the resources as serve settings."""
        page = ["page=off"] if self.gpus else []
        return [
            f"threads={self.threads}",
            f"decoders={self.decoders}",
            f"gpus={self.gpus}",
            "calls=192",
            *page,
            *others,
        ]


@contextlib.contextmanager
def all_servers(bundle: Path, means: Means) -> Iterator[dict[str, int]]:
    """Start all servers; yield name → port."""
    services = {"service": means.settings()}
    if means.gpus:
        services["split"] = means.settings("shape=split", f"replicas={INGRESSES}")
    rivals = ("minimal", "plain")
    ports = {name: free_port() for name in (*services, *rivals)}
    with contextlib.ExitStack() as stack:
        for name, settings in services.items():
            command = service_command([str(bundle)], ports[name], *settings)
            own = free_port()  # of the replica
            least, most = (f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT" for end in ("MIN", "MAX"))
            variables = behind_haproxy() | {least: str(own), most: str(own + 20)}
            stack.enter_context(server(command, ready="/v1/identify", **variables))
            if name == "service":
                ports[DIRECT] = own
        for name in rivals:
            wanted = (name, bundle, ports[name], means.threads, means.decoders, means.device)
            command = [sys.executable, str(HERE / "rivals.py"), *map(str, wanted)]
            stack.enter_context(server(command, ready="ready"))
        yield ports


def measure(
    bundle: Path, means: Means, *, seconds: float, rounds: int, patience: float = 60.0, load: Sequence[int] = CLIENTS
) -> tuple[float, dict[tuple[str, int], list[Answers]]]:
    """Return the photographs per second of the bare loop, and the rounds of each server and number of clients.

    Args:
        bundle: The bundle that all servers load.
        means: Threads and processes of each server.
        seconds: Seconds per measurement.
        rounds: Rounds, in alternation.
        patience: Seconds to wait for a quiet machine before each measurement.
        load: Numbers of clients.
    """
    from rivals import bare_loop

    shown = pictures(32)
    requests = [photograph_request(body) for body in shown]
    loops = [
        bare_loop(bundle, shown, threads=means.threads, device=means.device, seconds=seconds) for _ in range(rounds)
    ]
    found: dict[tuple[str, int], list[Answers]] = {}
    with all_servers(bundle, means) as ports:
        for name, port in ports.items():
            ask_for(min(seconds, 2.0), port, requests, clients=8)
            print(f"{name} answers", flush=True)
        for _ in range(rounds):
            for clients in load:
                for name, port in ports.items():
                    if name == DIRECT and clients > 1:
                        continue
                    wait_for_quiet(patience)
                    found.setdefault((name, clients), []).append(ask_for(seconds, port, requests, clients=clients))
    return median(loops), found


def wait_for_quiet(seconds: float) -> None:
    """Wait until this machine is nearly idle, for at most `seconds`."""
    until = time.monotonic() + seconds
    while psutil.cpu_percent(interval=1.0) > QUIET_PERCENT:
        if time.monotonic() > until:
            print(f"the machine is not quiet after {seconds:g} s: measuring nevertheless", flush=True)
            return


def report(size: int, loop: float, found: dict[tuple[str, int], list[Answers]]) -> None:
    """Print the table of one size, and its ratios with their goals."""

    def figures_of(name: str, clients: int, figure: str) -> list[float]:
        rounds = found[name, clients]
        return [each.rate if figure == "rate" else each.milliseconds(int(figure)) for each in rounds]

    def middle(name: str, clients: int, figure: str) -> float:
        return median(figures_of(name, clients, figure))

    def beside(name: str, clients: int, figure: str, *, ours: str = "service") -> float:
        rounds = zip(figures_of(ours, clients, figure), figures_of(name, clients, figure), strict=True)
        return median(first / second for first, second in rounds)

    rows = [["bare loop", "", f"{loop:.0f}", "", "", ""]]
    for name, clients in found:
        failed = sum(sum(each.failed.values()) for each in found[name, clients])
        figures = (f"{middle(name, clients, 'rate'):.0f}", *(f"{middle(name, clients, p):.0f}" for p in ("50", "99")))
        rows.append([name, str(clients), *figures, str(failed)])
    print(f"\n{size} px")
    paired_timing.print_table(["case", "clients", "images/s", "p50 ms", "p99 ms", "failed"], rows)
    at_least = {64: 0.85, 224: 0.9}[size]
    name, rate = f"{size} px, 32 clients: service / plain FastAPI", beside("plain", 32, "rate")
    paired_timing.print_verdict(name, rate, at_least=at_least, obstacle=OBSTACLES[32])
    if size == 224:
        paired_timing.print_verdict(
            "224 px, 32 clients: service / bare loop", middle("service", 32, "rate") / loop, at_least=0.8
        )
    else:
        paired_timing.print_verdict(
            "64 px, 32 clients: service / minimal Ray Serve", beside("minimal", 32, "rate"), at_least=2.0
        )
    if ("split", 32) in found:
        for clients in sorted({clients for _, clients in found}):
            print(f"{size} px, {clients} clients: joined / split {beside('split', clients, 'rate'):.3g}")
    for ours in ("service", DIRECT):
        waited = beside("plain", 1, "50", ours=ours)
        name = f"{size} px, 1 client: p50 of the {ours} / of plain FastAPI"
        paired_timing.print_verdict(
            name, waited, at_most=1.15, obstacle=PAST_HAPROXY if ours == DIRECT else OBSTACLES[1]
        )


def main(
    seconds: Annotated[float, typer.Option(help="Seconds per measurement.", min=0.5)] = 8.0,
    rounds: Annotated[int, typer.Option(help="Rounds, with the servers in alternation.", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="Threads of each encoder.", min=1)] = 1,
    decoders: Annotated[int, typer.Option(help="Decoding processes or threads of each server.", min=1)] = 2,
    gpus: Annotated[float, typer.Option(help="GPU share of each encoder; 0: CPU.", min=0.0)] = 0.0,
    encoder: Annotated[str, typer.Option(help="The encoder's name.")] = "torchvision:resnet18",
    sizes: Annotated[str, typer.Option(help="64, 224 or both.")] = "64,224",
    patience: Annotated[float, typer.Option(help="Most seconds to wait for a quiet machine.", min=0.0)] = 60.0,
    load: Annotated[str, typer.Option(help="Numbers of clients; 1 and 32 are needed.")] = ",".join(map(str, CLIENTS)),
    short: Annotated[bool, typer.Option("--short", help="One round of 2 s, as a smoke test.")] = False,
) -> None:
    """Time all servers; about half an hour on two cores."""
    from whale_ray.inference.bundle import read_bundle

    seconds, rounds, patience = (2.0, 1, 5.0) if short else (seconds, rounds, patience)
    clients = (1, 32) if short else tuple(map(int, load.split(",")))
    with tempfile.TemporaryDirectory() as scratch:
        for size in map(int, sizes.split(",")):
            bundle = make_bundle(Path(scratch), size, encoder_name=encoder, on_gpu=gpus > 0)
            runtime = read_bundle(bundle).manifest.get("runtime") or {"name": "torch", "reason": "it runs on a GPU"}
            print(f"{encoder}, {size} px: {runtime}", flush=True)
            means = Means(threads, decoders, gpus)
            found = measure(bundle, means, seconds=seconds, rounds=rounds, patience=patience, load=clients)
            report(size, *found)


if __name__ == "__main__":
    typer.run(main)
