"""Recognizer: answers many callers at once, with decoding beside the event loop and batched forward passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from whale_ray.data.image_io import Box
from whale_ray.errors import ImageError
from whale_ray.inference.keypoints.keypoint_matcher import QueryKeypoints
from whale_ray.inference.keypoints.matched_points import add_match_lines
from whale_ray.inference.predictions import UNKNOWN_TRAITS, AnimalTraits, Gallery, Identification
from whale_ray.retrieval.local.learned.match_network import MatchNetwork
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.retrieval.search.exact_search import use_threads
from whale_ray.serving.engine.decoder_messages import Decoded, DecodedImage
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import Embedder, LocalEncoder
from whale_ray.serving.engine.micro_batcher import MicroBatcher, StallDetector
from whale_ray.serving.engine.picture_reader import PictureReader
from whale_ray.serving.engine.search_requests import SearchRequest, SearchResult
from whale_ray.serving.gallery.live_gallery import GallerySnapshot, LiveGallery
from whale_ray.serving.metrics import observe, time_stage

_STORE_TIMEOUT = 2.0
_EMBED_CHUNK = 256  # enrolled pictures that are embedded before the gallery is rebuilt


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

    Attributes:
        enrolments: Reads pictures to enrol, and enrolled ones.
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
        self.enrolments = PictureReader(catalogue, encoder, decoders)
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
        (decoded,) = await self.decode(data, [box])
        if isinstance(decoded, ImageError):
            raise decoded
        return await self.identify_decoded(decoded, top=top, traits=traits)

    async def identify_decoded(
        self, decoded: DecodedImage, *, top: int, traits: AnimalTraits = UNKNOWN_TRAITS, lines: bool = False
    ) -> Identification:
        """Return the answer for one decoded image.

        Args:
            decoded: The image as `decode` returns it.
            top: Number of individuals.
            traits: Viewpoint and species of the animal.
            lines: Also find the lines that join matched keypoints.

        Raises:
            StoreError: If the store does not answer.
        """
        if self._at_once is None:
            vector = await self.embed(decoded.array)
            return await self.rank(vector, top=top, traits=traits, keypoints=decoded.keypoints, lines=lines)
        asked = time.perf_counter()
        request = SearchRequest(decoded.array, top, traits, keypoints=decoded.keypoints, lines=lines)
        found = await self._at_once.submit(request)
        observe("whale_ray_stage_seconds", found.began - asked, stage="embed")
        observe("whale_ray_stage_seconds", time.perf_counter() - found.began, stage="search")
        return await self._completed(found)

    async def decode(self, data: bytes, boxes: Sequence[Box | None]) -> list[Decoded]:
        """Return each box as the encoder's input with the local features of the bundle, or the error.

        Args:
            data: The image file, which is decoded once.
            boxes: Boxes of the animals, as of `identify`.
        """
        with time_stage("decode"):
            return await self.decoders.decode_boxes(data, boxes, keypoints=True)

    async def embed(self, array: np.ndarray) -> np.ndarray:
        """Return the unit embedding (D,) of one decoded image, uint8, shape (H, W, 3)."""
        with time_stage("embed"):
            return await self.encoder.embed(array)

    async def rank(
        self,
        vector: np.ndarray,
        *,
        top: int,
        traits: AnimalTraits = UNKNOWN_TRAITS,
        photographs: int = 1,
        keypoints: QueryKeypoints = None,
        lines: bool = False,
    ) -> Identification:
        """Return the answer for one embedding.

        Args:
            vector: The embedding, shape (D,).
            top: Number of individuals.
            traits: Viewpoint and species of the animal.
            photographs: Number of photographs whose normalized mean the embedding is.
            keypoints: Local features of the photograph, or of each photograph, as `decode` returns them; a bundle with
                local features needs them.
            lines: Also find the lines that join matched keypoints of one photograph.

        Raises:
            InputError: If the bundle needs local features, but none are given.
            StoreError: If the store does not answer.
        """
        with time_stage("search"):
            request = SearchRequest(vector, top, traits, photographs, keypoints, lines)
            found = await self._search.submit(request)
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
                await self.enrolments.catch_up(snapshot.missing[start : start + _EMBED_CHUNK])
        return await asyncio.to_thread(self.live_gallery.snapshot)

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
                local=[one.keypoints for one in asked],
            )
            matcher = None if bundle.keypoints is None else bundle.keypoints.network
            answers = [
                _answer(answer, one, snapshot.gallery, matcher) for answer, one in zip(found, asked, strict=True)
            ]
        complete = not snapshot.missing
        return [SearchResult(answer, complete, one, began) for answer, one in zip(answers, asked, strict=True)]


def _answer(
    found: Identification, asked: SearchRequest, gallery: Gallery, matcher: MatchNetwork | None
) -> Identification:
    found = found.first(asked.top)
    if not asked.lines or not isinstance(asked.keypoints, LocalFeatures):
        return found
    return add_match_lines(found, asked.keypoints, gallery, matcher=matcher)


def _embed_requests(encoder: LocalEncoder, asked: list[SearchRequest]) -> list[SearchRequest]:
    vectors = encoder.embed_now([one.array for one in asked])
    return [one.embedded(vector) for one, vector in zip(asked, vectors, strict=True)]
