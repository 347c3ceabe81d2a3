"""Recognizer: answers many callers at once, with decoding beside the event loop and batched forward passes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from whale_ray.data.image_io import Box
from whale_ray.errors import ImageError
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits, Identification
from whale_ray.retrieval.search.exact_search import use_threads
from whale_ray.serving.engine.decoder_messages import Decoded
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import Embedder, LocalEncoder
from whale_ray.serving.engine.micro_batcher import MicroBatcher, StallDetector
from whale_ray.serving.engine.search_requests import SearchRequest, SearchResult
from whale_ray.serving.gallery.enrolled_pictures import (
    EnrolledPicture,
    Entry,
    picture_digest,
    picture_name,
    round_box,
)
from whale_ray.serving.gallery.live_gallery import GallerySnapshot, LiveGallery
from whale_ray.serving.metrics import observe, time_stage

_STORE_TIMEOUT = 2.0
_EMBED_CHUNK = 256  # enrolled pictures that are embedded before the gallery is rebuilt
_log = logging.getLogger(__name__)


class Recognizer:
    """Answers for single images: decoded beside the event loop, embedded by the encoder, searched in the gallery.

    If the encoder runs on this process's cores, search follows embedding on the same thread. Searches have a thread of
    their own beside a device or another process, and if they wait for a remote database.

    Args:
        catalogue: The live gallery.
        encoder: The encoder.
        decoders: The decoder pool.
        threads: Threads of a search.
        batch: Largest batch of searches.
    """

    def __init__(
        self, catalogue: LiveGallery, encoder: Embedder, decoders: DecoderPool, *, threads: int, batch: int
    ) -> None:
        self.live_gallery, self.encoder, self.decoders = catalogue, encoder, decoders
        far = catalogue.store is not None and not catalogue.store.is_of_one_machine
        here = encoder if isinstance(encoder, LocalEncoder) and not encoder.has_device and not far else None
        thread = here.thread if here else ThreadPoolExecutor(1, "search", use_threads, (threads,))
        self._search = MicroBatcher(self._rank, most=batch, thread=thread)
        self._at_once: MicroBatcher[SearchRequest, SearchResult] | None = None
        if here:
            self._at_once = MicroBatcher(
                lambda asked: self._rank(_embed_requests(here, asked)), most=batch, thread=thread
            )
        self._pace = StallDetector()
        self._asking: asyncio.Task[int] | None = None
        self._catching_up = asyncio.Lock()

    async def fault(self) -> str | None:
        """Return why calls will not be answered soon; None if they will."""
        if self._pace.is_stuck:
            return "a search does not end"
        return await self._fault_of_store() or await self.encoder.fault()

    async def _fault_of_store(self) -> str | None:
        store = self.live_gallery.store
        if store is None:
            return None
        if self._asking is None or self._asking.done():  # one at a time: it may wait for long
            self._asking = asyncio.create_task(asyncio.to_thread(store.version))
        answered, _ = await asyncio.wait({self._asking}, timeout=_STORE_TIMEOUT)
        return None if answered and not self._asking.exception() else "the database of enrolments does not answer"

    async def identify(
        self, data: bytes, *, top: int, box: Box | None = None, traits: AnimalTraits = UNKNOWN_TRAITS
    ) -> Identification:
        """Return the answer for one image.

        Args:
            data: The image file.
            top: Number of individuals.
            box: x0, y0, x1, y1 of the animal in pixels of the upright image; None for the whole image.
            traits: Viewpoint and species of the animal.

        Raises:
            ImageError: If the image cannot be used.
            StoreError: If the store does not answer.
        """
        (array,) = await self.decode(data, [box])
        if isinstance(array, ImageError):
            raise array
        return await self.identify_decoded(array, top=top, traits=traits)

    async def identify_decoded(
        self, array: np.ndarray, *, top: int, traits: AnimalTraits = UNKNOWN_TRAITS
    ) -> Identification:
        """Return the answer for one decoded image.

        Args:
            array: Encoder input as `decode` returns it, uint8, shape (H, W, 3).
            top: Number of individuals.
            traits: Viewpoint and species of the animal.

        Raises:
            StoreError: If the store does not answer.
        """
        if self._at_once is None:
            return await self.rank(await self.embed(array), top=top, traits=traits)
        asked = time.perf_counter()
        found = await self._at_once.submit(SearchRequest(array, top, traits))
        observe("whale_ray_stage_seconds", found.began - asked, stage="embed")
        observe("whale_ray_stage_seconds", time.perf_counter() - found.began, stage="search")
        return await self._completed(found)

    async def decode(self, data: bytes, boxes: Sequence[Box | None]) -> list[np.ndarray | ImageError]:
        """Return the encoder input of each box, uint8, shape (H, W, 3), or the error if it cannot be used.

        Args:
            data: The image file, which is decoded once.
            boxes: Boxes of the animals, as of `identify`.
        """
        with time_stage("decode"):
            found = await self.decoders.decode_boxes(data, boxes)
        return [one if isinstance(one, ImageError) else one.array for one in found]

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding (D,) of one decoded image, uint8, shape (H, W, 3)."""
        with time_stage("embed"):
            return await self.encoder.embed(array)

    async def rank(
        self, vector: np.ndarray, *, top: int, traits: AnimalTraits = UNKNOWN_TRAITS, photographs: int = 1
    ) -> Identification:
        """Return the answer for one embedding.

        Args:
            vector: The embedding, shape (D,).
            top: Number of individuals.
            traits: Viewpoint and species of the animal.
            photographs: Number of photographs whose normalized mean the embedding is.

        Raises:
            StoreError: If the store does not answer.
        """
        with time_stage("search"):
            found = await self._search.submit(SearchRequest(vector, top, traits, photographs))
        return await self._completed(found)

    async def _completed(self, found: SearchResult) -> Identification:
        """Return the answer, searched again if an enrolled picture had no embedding of this bundle yet."""
        if not found.complete:
            await self.snapshot()
            found = await self._search.submit(found.request)
        return found.identification

    async def snapshot(self) -> GallerySnapshot:
        """Return the current gallery after embedding what other bundles enrolled.

        Raises:
            StoreError: If the store does not answer.
        """
        snapshot = await asyncio.to_thread(self.live_gallery.snapshot)
        if not snapshot.missing:
            return snapshot
        async with self._catching_up:
            snapshot = await asyncio.to_thread(self.live_gallery.snapshot)
            for start in range(0, len(snapshot.missing), _EMBED_CHUNK):
                await self._catch_up(snapshot.missing[start : start + _EMBED_CHUNK])
        return await asyncio.to_thread(self.live_gallery.snapshot)

    async def _catch_up(self, entries: Sequence[Entry]) -> None:
        vectors = await asyncio.gather(*map(self._vector_of, entries))
        found = {entry.digest: one for entry, one in zip(entries, vectors, strict=True) if one is not None}
        await asyncio.to_thread(self.live_gallery.add_vectors, found)

    async def _vector_of(self, entry: Entry) -> np.ndarray | None:
        """Return the embedding (D,) of an enrolled picture; None if it was forgotten or cannot be decoded here."""
        assert self.live_gallery.store is not None
        data = await asyncio.to_thread(self.live_gallery.store.picture, entry.image)
        if data is None:
            return None
        try:
            decoded = await self.decoders.decode(data, box=entry.box)
        except ImageError:
            _log.warning("%s is enrolled but cannot be decoded, and is left out", entry.image, exc_info=True)
            await asyncio.to_thread(self.live_gallery.exclude, entry)
            return None
        return await self.encoder.embed(decoded.array)

    async def prepare_enrolments(self, data: bytes, boxes: Sequence[Box | None]) -> list[EnrolledPicture | ImageError]:
        """Return the picture of each box with thumbnail and embedding, ready for the store, or the error.

        Args:
            data: The image file.
            boxes: Boxes of the animals, as of `identify`; rounded to what a store holds.
        """
        boxes = [box and round_box(box) for box in boxes]
        decoded = await self.decoders.decode_boxes(data, boxes, thumbnail=True)
        return [await self._enrolled(data, box, one) for box, one in zip(boxes, decoded, strict=True)]

    async def _enrolled(self, data: bytes, box: Box | None, decoded: Decoded) -> EnrolledPicture | ImageError:
        if isinstance(decoded, ImageError):
            return decoded
        vector = await self.encoder.embed(decoded.array)
        digest, name = picture_digest(data, box), picture_name(data, box)
        return EnrolledPicture(digest, name, data, decoded.thumbnail, vector, box)

    def _rank(self, asked: list[SearchRequest]) -> list[SearchResult]:
        """Return the first individuals for each vector."""
        began = time.perf_counter()
        observe("whale_ray_batch_size", len(asked), stage="search")
        with self._pace.running(len(asked)):
            snapshot, bundle = self.live_gallery.snapshot(), self.live_gallery.bundle
            found = bundle.rank(
                np.stack([one.array for one in asked]),
                top=max(one.top for one in asked),
                gallery=snapshot.gallery,
                traits=[one.traits for one in asked],
                photographs=[one.photographs for one in asked],
            )
        return [
            SearchResult(answer.first(one.top), not snapshot.missing, one, began)
            for answer, one in zip(found, asked, strict=True)
        ]


def _embed_requests(encoder: LocalEncoder, asked: list[SearchRequest]) -> list[SearchRequest]:
    vectors = encoder.embed_now([one.array for one in asked])
    return [one.embedded(vector) for one, vector in zip(asked, vectors, strict=True)]
