"""What runs in processes of its own beside the ingress, encoders and a shadow, and how the ingress asks them.

Knows the handles of ray.serve and what dies behind them; knows no HTTP.
"""

from __future__ import annotations

from pathlib import Path

import ray

from whale_ray.device import reserved_device
from whale_ray.errors import StoreError
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.deployment.settings import NO_STORE, STORE_VARIABLE, ServeSettings
from whale_ray.serving.engine.decoder_pool import Decoders
from whale_ray.serving.engine.recognizer import Embedder, Encoder, Recogniser
from whale_ray.serving.gallery.live_gallery import Catalogue
from whale_ray.serving.gallery.store import EnrolmentStore


def checked_encoder(path: Path, settings: ServeSettings) -> tuple[Bundle, Encoder]:
    """The bundle, checked by its golden images, and an encoder of its own."""
    bundle = Bundle.load(path, device=reserved_device(settings.gpus), threads=settings.threads)
    return bundle, Encoder(bundle, threads=settings.threads, batch=settings.batch)


def recogniser_of(
    bundle: Bundle, encoder: Embedder, settings: ServeSettings, store: EnrolmentStore | None
) -> Recogniser:
    """What answers for single photographs, within the limits of the settings."""
    decoders = Decoders(
        bundle.geometry, count=settings.decoders, bytes_=settings.image_bytes, pixels=settings.image_pixels
    )
    return Recogniser(Catalogue(bundle, store), encoder, decoders, threads=settings.threads, batch=settings.batch)


def open_store(url: str) -> EnrolmentStore | None:
    """The store at `url`. Raises: StoreError where replicas on other machines would have another one."""
    if url == NO_STORE:
        return None
    store = EnrolmentStore(url)
    if store.is_of_one_machine and sum(node["Alive"] for node in ray.nodes()) > 1:
        raise StoreError(
            "replicas on several machines need a store that they share, but SQLite's is a file on one of them. "
            f"Set {STORE_VARIABLE} to postgresql://user@host/name, or to {NO_STORE}"
        )
    return store
