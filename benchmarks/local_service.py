"""Benchmark of keypoint matching in service: milliseconds per photograph without and with local features.

python benchmarks/local_service.py BUNDLE FOLDER     the folder has the bundle's gallery photographs

The same bundle answers three times, one photograph after another: without local features, with them, and with the lines
that join matched keypoints. CPU time of the decoder process and of the service is reported beside the median of the
elapsed time, which a busy machine lengthens. The weights of the fusion are made up: they do not change the time. The
queries are mirrored gallery photographs, so that none is its own gallery photograph.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
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

QUERIES = 40


def with_keypoints(contents: BundleContents, folder: Path, kind: str) -> BundleContents:
    """Return the bundle with local features of its gallery, read from the photographs."""
    began = time.process_time()
    images = [decode_image((folder / image).read_bytes()) for image in contents.table["image"]]
    store = join_features([extract_features(local_picture(image), kind) for image in images], kind)
    seconds = time.process_time() - began
    print(f"{kind}: {len(store)} photographs, {store.counts.mean():.0f} keypoints each")
    print(f"{kind}: {store.nbytes / len(store):,.0f} bytes a photograph")
    print(f"{kind}: {1000 * seconds / len(store):.1f} ms of CPU time a photograph to decode and search it")
    began = time.process_time()
    LocalIndex(store, contents.table["individual"].tolist())
    print(f"{kind}: {time.process_time() - began:.1f} s of CPU time to index the gallery")
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
    before = {child.pid for child in psutil.Process().children()}
    pool = DecoderPool(bundle.geometry, count=1, bytes_=2**26, pixels=2**26, local=bundle.setting.local)
    (decoder,) = (child for child in psutil.Process().children() if child.pid not in before)
    recognizer = Recognizer(
        LiveGallery(bundle, None), LocalEncoder(bundle, threads=1, batch=32), pool, threads=1, batch=32
    )

    async def answer(data: bytes) -> None:
        (decoded,) = await recognizer.decode(data, [None])
        assert isinstance(decoded, DecodedImage)
        await recognizer.identify_decoded(decoded, top=5, lines=lines)

    for data in photographs[:4]:
        await answer(data)
    decoding, service, elapsed = _cpu_seconds(decoder), time.process_time(), []
    for data in photographs:
        began = time.perf_counter()
        await answer(data)
        elapsed.append(1000 * (time.perf_counter() - began))
    each = 1000 / len(photographs)
    decoding, service = each * (_cpu_seconds(decoder) - decoding), each * (time.process_time() - service)
    pool.close()
    name = bundle.setting.local + (", lines" if lines else "")
    return f"| {name} | {decoding:.1f} | {service:.1f} | {median(elapsed):.1f} |"


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


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
    print("\n| local features | decoder, CPU ms | service, CPU ms | elapsed, ms |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
