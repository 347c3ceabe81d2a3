from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
import uvicorn
from drawn_photographs import IMAGES_EACH, INDIVIDUALS, draw, encode
from server_processes import end_within_limit, free_port
from waiting import SECONDS, wait_until

from whale_ray.inference.bundle import write_bundle
from whale_ray.inference.bundle_contents import BundleContents, ExamplePhoto
from whale_ray.inference.predictor import Bundle
from whale_ray.learning.encoders.registry import build_encoder
from whale_ray.serving.auth.access_control import AccessPolicy
from whale_ray.serving.auth.api_keys import read_keys
from whale_ray.serving.engine.animal_finder import AnimalFinder
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_gallery import LiveGallery
from whale_ray.serving.gallery.review.review_queue import ReviewQueue
from whale_ray.serving.http.app import build_app
from whale_ray.serving.http.model_service import ModelService
from whale_ray.serving.http.uploads import Limits

KEY = "a key of a person"
LIMITS = Limits(image_bytes=400_000, call_bytes=1_000_000, images=8)
TOP = Path(__file__).parents[2]


def contents() -> BundleContents:
    """A bundle of a tiny encoder with random weights; its last gallery photograph has no thumbnail."""
    torch.manual_seed(0)
    encoder = build_encoder("tiny", embedding_size=32, weights="random", image_size=(48, 64))
    pictures = [draw(individual, view) for individual in range(len(INDIVIDUALS)) for view in range(IMAGES_EACH)]
    names = [name for name in INDIVIDUALS for _ in range(IMAGES_EACH)]
    table = pd.DataFrame({"image": [f"{name}/{row}.jpg" for row, name in enumerate(names)], "individual": names})
    manifest = {
        "id": "tiny-00000000",
        "settings": {"model": {"encoder": "tiny"}},
        "preprocessing": {"height": 48, "width": 64, "resize": "pad", "margin": 0.0},
        "encoder": encoder.recipe,
        "embedding_size": 32,
        "retrieval": {"vote": "nearest", "neighbours": None, "temperature": 0.05, "flip": "none"},
        "threshold": 0.999,
        "calibration": None,
        "unknown_label": "new_whale",
        "scores": {"recall@1": 0.5, "recall@1_low": 0.4, "recall@1_high": 0.6, "known_queries": 6, "queries": 7},
        "measured_gallery": 12,
        "individuals": len(INDIVIDUALS),
        "images": len(table),
        "data_fingerprint": "0123456789abcdef",
        "tolerance": 1e-4,
    }
    golden = tuple(encode(picture, "PNG") for picture in pictures[:: 2 * IMAGES_EACH])
    blank = np.zeros((len(table), 32), dtype=np.float16)
    made = BundleContents(manifest, encoder.state_dict(), blank, table, golden, np.zeros((len(golden), 32)))
    bundle = Bundle(made)
    return dataclasses.replace(
        made,
        gallery=bundle.embed([bundle.prepare(picture) for picture in pictures]).astype(np.float16),
        golden_vectors=bundle.embed([bundle.prepare(picture) for picture in golden]),
        thumbnails={row: encode(picture, "JPEG") for row, picture in enumerate(pictures[:-1])},
        examples=(
            ExamplePhoto(encode(draw(0, 9), "JPEG"), INDIVIDUALS[0], "w_00/1.jpg"),
            ExamplePhoto(encode(draw(9, 9), "JPEG"), "new_whale", "9.jpg"),
        ),
    )


def write_named(folder: Path, name: str, threshold: float | None = None, **changes: Any) -> Path:
    """The bundle of `contents` under this id; all of them have the same encoder and gallery."""
    whole = contents()
    manifest = whole.manifest | {"id": name} | ({} if threshold is None else {"threshold": threshold})
    return write_bundle(dataclasses.replace(whole, manifest=manifest, **changes), folder / name)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(contents(), tmp_path_factory.mktemp("serving") / "bundle")


def locked(**others: Any) -> AccessPolicy:
    """A policy for KEY alone."""
    return AccessPolicy(read_keys(None, KEY), **others)


def web_service(
    bundle: Path,
    *,
    limits: Limits = LIMITS,
    most_calls: int = 16,
    store: EnrolmentStore | None = None,
    keep: bool = False,
    finder: AnimalFinder | None = None,
    name: str = "",
) -> ModelService:
    loaded = Bundle.load(bundle)
    encoder = LocalEncoder(loaded, threads=1, batch=32)
    recognizer = Recognizer(
        LiveGallery(loaded, store),
        encoder,
        DecoderPool(
            loaded.geometry,
            count=2,
            bytes_=LIMITS.image_bytes,
            pixels=LIMITS.image_pixels,
            local="none" if loaded.keypoints is None else loaded.keypoints.kind,
            network=None if loaded.contents.keypoints is None else loaded.contents.keypoints.network,
        ),
        threads=1,
        batch=32,
    )
    queue = ReviewQueue(store) if store and keep else None
    return ModelService(
        loaded, recognizer, limits=limits, most_calls=most_calls, review_queue=queue, finder=finder, name=name
    )


@contextmanager
def plain_server(service: ModelService, policy: AccessPolicy | None = None, **others: ModelService) -> Iterator[str]:
    """The same web application without Ray, in a thread of this process.

    others: models beside the default, by their names.
    """
    port, services = free_port(), {"default": service, **others}
    app = build_app(services, policy)
    settings = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="error", log_config=None, ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        for one in services.values():
            one.recognizer.decoders.close()


@contextmanager
def enrolment_server(bundle: Path, folder: Path, policy: AccessPolicy | None = None) -> Iterator[str]:
    """As `plain_server`, with a store in this folder that also keeps photographs for a person."""
    store = EnrolmentStore(f"sqlite:///{folder}/enrolled.db")
    with plain_server(web_service(bundle, store=store, keep=True), policy) as address:
        yield address
    store.close()


@contextmanager
def process(
    *command: str, ready: str, output: list[str] | None = None, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed `ready`; SIGTERM ends it with the block. `output` receives its lines until then."""
    settings = {
        **os.environ,
        "WHALE_RAY_STORE": "none",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **variables,
    }
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=TOP, env=settings
    )
    assert running.stdout
    lines = [] if output is None else output
    while not any(ready in line for line in lines):
        line = running.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    rest = threading.Thread(target=_read_to_end, args=(running.stdout,), daemon=True)
    rest.start()
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        end_within_limit(running)
        rest.join(SECONDS)


def _read_to_end(stream: IO[str]) -> None:
    with stream:
        stream.read()


def serving(bundle: Path, port: int, **settings: float) -> tuple[str, ...]:
    """The command that serves the bundle."""
    code = "import sys; from pathlib import Path; from whale_ray.serving.deployment.launcher import serve_bundle; "
    return sys.executable, "-c", f"{code}serve_bundle(Path(sys.argv[1]), port={port}, **{settings})", str(bundle)


def descendants(pid: int) -> set[int]:
    """The processes below this one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def check_ended(pids: set[int]) -> None:
    """Asserts that these processes end."""
    wait_until(lambda: not alive(pids), rest=0.1, said=lambda: f"{alive(pids)} run")


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.fixture(scope="session")
def plain(bundle: Path) -> Iterator[str]:
    with plain_server(web_service(bundle)) as address:
        yield address


@dataclasses.dataclass(frozen=True)
class Running:
    """A service on Ray: where it answers, and the process that was started."""

    address: str
    pid: int


@pytest.fixture(scope="session")
def on_ray(ray_service: Running) -> str:
    return ray_service.address


@pytest.fixture(scope="session")
def ray_service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    port = free_port()
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/enrolled.db"
    limits = {"image_bytes": LIMITS.image_bytes, "call_bytes": LIMITS.call_bytes, "images": LIMITS.images}
    with process(
        *serving(bundle, port, **limits), ready="/v1/identify", WHALE_RAY_STORE=store, RAY_AUTH_MODE="token"
    ) as running:
        yield Running(f"http://127.0.0.1:{port}", running.pid)
        started = descendants(running.pid)
    # SIGTERM has ended the service, and everything that it started
    assert running.returncode == 0
    assert len(started) > 3
    check_ended(started)


@pytest.fixture(params=["plain", pytest.param("on_ray", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of the service, which runs without Ray and, slower to start, with it."""
    with httpx.Client(base_url=request.getfixturevalue(request.param), timeout=60) as caller:
        yield caller
