"""Components of a replica, made from the settings: encoder, recognizer and enrolment store."""

from __future__ import annotations

from pathlib import Path

import ray

from whale_ray.device import reserved_device
from whale_ray.errors import StoreError
from whale_ray.inference.detection.detector import Detector
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.deployment.settings import NO_STORE, STORE_VARIABLE, ServeSettings
from whale_ray.serving.engine.animal_finder import AnimalFinder
from whale_ray.serving.engine.decoder_messages import NO_LOCAL
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import Embedder, LocalEncoder
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.live_gallery import LiveGallery


def load_encoder(path: Path, settings: ServeSettings) -> tuple[Bundle, LocalEncoder]:
    """Return a bundle, checked by its golden images, and its encoder.

    Args:
        path: Folder of the bundle on the machine that deployed it; this machine pulls it if it lacks it.
        settings: Settings of the service; `gpus`, `threads`, `batch` and the sources of bundles are used.

    Raises:
        BundleError: If the bundle is missing, damaged or its golden images give other embeddings.
    """
    folder = settings.sources.replica_folder(path)
    bundle = Bundle.load(folder, device=reserved_device(settings.gpus), threads=settings.threads)
    return bundle, LocalEncoder(bundle, threads=settings.threads, batch=settings.batch)


def make_recogniser(
    bundle: Bundle, encoder: Embedder, settings: ServeSettings, store: EnrolmentStore | None
) -> Recognizer:
    """Return the recognizer of one model, with its pool of decoders.

    Args:
        bundle: Bundle of the model.
        encoder: Its encoder, in this process or remote.
        settings: Settings of the service: limits of images, decoders, threads, batch.
        store: Enrolled images; None without enrolment.
    """
    decoders = DecoderPool(
        bundle.geometry,
        count=settings.decoders,
        bytes_=settings.image_bytes,
        pixels=settings.image_pixels,
        local=NO_LOCAL if bundle.keypoints is None else bundle.keypoints.kind,
        network=None if bundle.contents.keypoints is None else bundle.contents.keypoints.network,
    )
    return Recognizer(LiveGallery(bundle, store), encoder, decoders, threads=settings.threads, batch=settings.batch)


def open_finder(settings: ServeSettings) -> AnimalFinder | None:
    """Return the finder of animals; None without a detector.

    Raises:
        InputError: If the file is no detector.
    """
    if settings.detector is None:
        return None
    detector = Detector(settings.detector, confidence=settings.detector_confidence, threads=settings.threads)
    return AnimalFinder(detector, bytes_=settings.image_bytes, pixels=settings.image_pixels)


def open_store(url: str) -> EnrolmentStore | None:
    """Return the enrolment store at `url`; None for `none`.

    Raises:
        StoreError: If replicas on other machines would open another file.
    """
    if url == NO_STORE:
        return None
    store = EnrolmentStore(url)
    if store.is_of_one_machine and sum(node["Alive"] for node in ray.nodes()) > 1:
        raise StoreError(
            "replicas on several machines need a store that they share, but SQLite's is a file on one of them. "
            f"Set {STORE_VARIABLE} to postgresql://user@host/name, or to {NO_STORE}"
        )
    return store
