"""Benchmark of the review backlog: seconds to search waiting photographs again after an enrolment and a new bundle.

python benchmarks/backlog.py BUNDLE --photographs 10000

The photographs are drawn noise in the size of the encoder's input, in a temporary SQLite database.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from whale_ray.inference.predictor import Bundle
from whale_ray.serving.engine.backlog_searcher import BacklogSearcher
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_gallery import LiveGallery
from whale_ray.serving.gallery.review.review_queue import ReviewItem, ReviewQueue


def drawn(random: np.random.Generator, height: int, width: int) -> bytes:
    """Return a JPEG of smooth noise."""
    small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    written = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(written, "JPEG")
    return written.getvalue()


async def search_all(searcher: BacklogSearcher) -> tuple[float, float, int]:
    """Return the seconds of all steps, those of the longest one, and the number of photographs."""
    steps, count = [0.0], 0
    while True:
        began = time.perf_counter()
        done = await searcher.search_some()
        if not done:
            return sum(steps), max(steps), count
        steps.append(time.perf_counter() - began)
        count += done


async def measure(bundle: Bundle, store: EnrolmentStore, queue: ReviewQueue) -> None:
    encoder = LocalEncoder(bundle, threads=1, batch=8)
    decoders = DecoderPool(bundle.geometry, count=1, bytes_=2**25, pixels=2**26)
    recognizer = Recognizer(LiveGallery(bundle, store), encoder, decoders, threads=1, batch=8)
    searcher = BacklogSearcher(recognizer, queue, store)
    print("| after | photographs | seconds | longest step |")
    print("|---|---|---|---|")
    for name in ("a new bundle", "a change of the gallery"):
        seconds, longest, count = await search_all(searcher)
        print(f"| {name} | {count} | {seconds:.1f} | {longest:.2f} |", flush=True)
        store.forget_individual(bundle.individuals[0], hide=True)
    began = time.perf_counter()
    listed = queue.waiting(changed=True)
    print(f"{len(listed)} changed, listed in {time.perf_counter() - began:.2f} s")
    decoders.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photographs", type=int, default=10_000)
    asked = parser.parse_args()
    bundle, random = Bundle.load(asked.bundle), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = EnrolmentStore(f"sqlite:///{folder}/enrolled.db")
        queue = ReviewQueue(store)
        for number in range(asked.photographs):
            data = drawn(random, bundle.geometry.height, bundle.geometry.width)
            item = ReviewItem(hashlib.sha256(data).hexdigest(), datetime.now(UTC), "older", "w_1", 0.5, "new")
            queue.keep(item, data=data, thumbnail=b"")
            if number % 1000 == 0:
                print(f"{number} photographs queued", flush=True)
        asyncio.run(measure(bundle, store, queue))
        store.close()


if __name__ == "__main__":
    main()
