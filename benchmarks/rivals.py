"""Baselines of the service benchmark on the same bundle: a bare loop, Ray Serve's minimal app and plain FastAPI.

`benchmarks/serving.py` runs each in its own process: `rivals.py NAME BUNDLE PORT THREADS DECODERS DEVICE`. The module
has no `from __future__ import annotations`: FastAPI must read the annotations of a nested function.
"""

import asyncio
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any


def bare_loop(path: Path, pictures: list[bytes], *, threads: int, device: str, seconds: float) -> float:
    """Return photographs per second of a loop without HTTP: decode, encode and search in batches of 32."""
    import torch

    from whale_ray.inference.predictor import Bundle

    torch.set_num_threads(threads)
    bundle = Bundle.load(path, device=device, threads=threads)
    batch = [pictures[number % len(pictures)] for number in range(32)]
    bundle.identify(batch)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        bundle.identify(batch)
        done += len(batch)
    return done / (time.perf_counter() - started)


def serve_minimally(path: Path, port: int, threads: int, decoders: int, device: str) -> None:
    """Serve with the minimal application of Ray Serve's documentation: a class with `__call__` and default options."""
    import ray
    from ray import serve
    from starlette.requests import Request

    gpus = {"num_gpus": 1} if device == "cuda" else {}

    @serve.deployment(ray_actor_options={"num_cpus": threads, **gpus})
    class Minimal:
        def __init__(self) -> None:
            import torch

            from whale_ray.inference.predictor import Bundle

            torch.set_num_threads(threads)
            self.bundle = Bundle.load(path, device=device, threads=threads)

        async def __call__(self, request: Request) -> dict[str, Any]:
            (found,) = self.bundle.identify([await request.body()])
            return {"model": self.bundle.id, "results": [asdict(found)]}

    ray.init(address="local", num_cpus=threads + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    application = Minimal.bind()  # type: ignore[attr-defined]
    serve.run(application, route_prefix="/")
    print("ready", flush=True)
    try:
        threading.Event().wait()
    finally:
        serve.shutdown()


def serve_plainly(path: Path, port: int, threads: int, decoders: int, device: str) -> None:
    """Serve with FastAPI on uvicorn: `decoders` threads decode, one thread encodes all waiting photographs."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request

    from whale_ray.inference.predictions import Identification
    from whale_ray.inference.predictor import Bundle

    bundle = Bundle.load(path, device=device, threads=threads)
    decoding, model = ThreadPoolExecutor(decoders), ThreadPoolExecutor(1, "model", torch.set_num_threads, (threads,))
    waiting: asyncio.Queue[tuple[Any, asyncio.Future[Identification]]] = asyncio.Queue()
    app = FastAPI()

    def recognise(arrays: list[Any]) -> list[Identification]:
        return bundle.rank(bundle.embed(arrays))

    async def work() -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await waiting.get()]
            while len(batch) < 32 and not waiting.empty():
                batch.append(waiting.get_nowait())
            answers = await loop.run_in_executor(model, recognise, [array for array, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)

    @app.post("/v1/identify")
    async def identify(request: Request) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if not hasattr(app.state, "worker"):
            app.state.worker = asyncio.create_task(work())
        array = await loop.run_in_executor(decoding, bundle.prepare, await request.body())
        future: asyncio.Future[Identification] = loop.create_future()
        waiting.put_nowait((array, future))
        return {"model": bundle.id, "results": [asdict(await future)]}

    @app.get("/")
    async def ready() -> str:
        return "ready"

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False))
    threading.Thread(target=_say_when_ready, args=(server,), daemon=True).start()
    server.run()


def _say_when_ready(server: Any) -> None:
    while not server.started:
        time.sleep(0.05)
    print("ready", flush=True)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    name, bundle_, port_, threads_, decoders_, device_ = sys.argv[1:]
    {"minimal": serve_minimally, "plain": serve_plainly}[name](
        Path(bundle_), int(port_), int(threads_), int(decoders_), device_
    )
