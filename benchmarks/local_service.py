"""Benchmark of keypoint matching in service: milliseconds per photograph without and with local features.

python benchmarks/local_service.py BUNDLE FOLDER     the folder has the bundle's gallery photographs

The same bundle answers three times, one photograph at a time and eight at once: without local features, with them, and
with the lines that join matched keypoints. The weights of the fusion are made up: they do not change the time. The
queries are mirrored gallery photographs, so that none is its own gallery photograph.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from PIL import Image, ImageOps

from whale_ray.data.image_io import decode_image
from whale_ray.inference.bundle import read_bundle
from whale_ray.inference.bundle_contents import BundleContents, bundle_runtime
from whale_ray.inference.keypoints.keypoint_files import KeypointFiles, features_of_pictures
from whale_ray.inference.predictor import Bundle
from whale_ray.retrieval.fusion.candidate_features import FEATURES
from whale_ray.retrieval.local.feature_store import join_features
from whale_ray.retrieval.local.local_features import extract_features, local_picture
from whale_ray.retrieval.local.local_index import LocalIndex
from whale_ray.serving.engine.decoder_messages import DecodedImage
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.live_gallery import LiveGallery

QUERIES = 60
AT_ONCE = 8


def with_keypoints(contents: BundleContents, folder: Path, kind: str) -> BundleContents:
    """Return the bundle with local features of its gallery, read from the photographs."""
    began = time.perf_counter()
    images = [decode_image((folder / image).read_bytes()) for image in contents.table["image"]]
    store = join_features([extract_features(local_picture(image), kind) for image in images], kind)
    seconds = time.perf_counter() - began
    print(f"{kind}: {len(store)} photographs, {store.counts.mean():.0f} keypoints each")
    print(f"{kind}: {store.nbytes / len(store):,.0f} bytes a photograph")
    print(f"{kind}: {1000 * seconds / len(store):.1f} ms a photograph to decode and search it here")
    began = time.perf_counter()
    LocalIndex(store, contents.table["individual"].tolist())
    print(f"{kind}: {time.perf_counter() - began:.2f} s to index the gallery")
    retrieval = contents.manifest["retrieval"] | {"local": kind}
    fusion = {"intercept": 0.0, "weights": dict.fromkeys(FEATURES, 0.1)}
    files = KeypointFiles(store, features_of_pictures(contents.golden, kind))
    return replace(contents, manifest=contents.manifest | {"retrieval": retrieval, "fusion": fusion}, keypoints=files)


def mirrored(photograph: Path) -> bytes:
    """Return a photograph mirrored, as a JPEG."""
    with Image.open(photograph) as image:
        stream = io.BytesIO()
        ImageOps.mirror(ImageOps.exif_transpose(image).convert("RGB")).save(stream, "JPEG", quality=90)
    return stream.getvalue()


async def measure(contents: BundleContents, photographs: list[bytes], *, lines: bool) -> str:
    """Return the row of one way of answering."""
    bundle = Bundle(contents, runtime=bundle_runtime(contents.manifest), threads=1)
    pool = DecoderPool(bundle.geometry, count=2, bytes_=2**26, pixels=2**26, local=bundle.setting.local)
    encoder = LocalEncoder(bundle, threads=1, batch=32)
    recognizer = Recognizer(LiveGallery(bundle, None), encoder, pool, threads=1, batch=32)

    async def answer(data: bytes) -> None:
        (decoded,) = await recognizer.decode(data, [None])
        assert isinstance(decoded, DecodedImage)
        await recognizer.identify_decoded(decoded, top=5, lines=lines)

    for data in photographs[:4]:
        await answer(data)
    decoding = await _times(lambda data: recognizer.decode(data, [None]), photographs)
    alone = await _times(answer, photographs)
    began = time.perf_counter()
    waiting = iter(photographs)

    async def work() -> None:
        for data in waiting:
            await answer(data)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    per_second = len(photographs) / (time.perf_counter() - began)
    pool.close()
    name = bundle.setting.local + (", lines" if lines else "")
    return f"| {name} | {median(decoding):.1f} | {median(alone):.1f} | {per_second:.1f} |"


async def _times(call: Callable[[bytes], Awaitable[object]], photographs: list[bytes]) -> list[float]:
    found = []
    for data in photographs:
        began = time.perf_counter()
        await call(data)
        found.append(1000 * (time.perf_counter() - began))
    return found


def main() -> None:
    """Print a table of the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="*", default=["sift", "orb"])
    given = parser.parse_args()
    plain = read_bundle(given.bundle)
    photographs = [mirrored(given.folder / image) for image in plain.table["image"][:QUERIES]]
    variants = [plain, *(with_keypoints(plain, given.folder, kind) for kind in given.kinds)]
    rows = [asyncio.run(measure(one, photographs, lines=False)) for one in variants]
    rows += [asyncio.run(measure(one, photographs, lines=True)) for one in variants[1:]]
    print(f"\n| local features | ms decoding | ms alone | photographs/s, {AT_ONCE} at once |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
