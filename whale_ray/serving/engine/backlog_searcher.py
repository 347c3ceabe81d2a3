"""Backlog searcher: searches waiting images again, in the background, after a new bundle or a change of the gallery."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence

import numpy as np

from whale_ray.errors import ImageError, StoreError
from whale_ray.inference.predictions import Identification
from whale_ray.retrieval.search.gallery_index import normalize_rows
from whale_ray.serving.engine.recognizer import Recognizer
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
from whale_ray.serving.gallery.review.review_backlog import PendingSearch, ReviewBacklog
from whale_ray.serving.gallery.review.review_queue import LatestAnswer, ReviewQueue

_SEARCHED_AT_ONCE = 256
_EMBEDDED_IN_A_STEP = 32
_EMBEDDED_AT_ONCE = 8  # few, so that callers do not wait behind them
_PAUSE_SECONDS = 1.0  # between two looks at the database if nothing is pending
_log = logging.getLogger(__name__)


class BacklogSearcher:
    """Searches the waiting images of a review queue again until each has the answer of bundle and gallery of now.

    An image is embedded once for each bundle; its embedding is kept. Bundles that compare keypoints read the image
    again for each search. Between two steps the task pauses as long as the step took, so that callers go first.

    Args:
        recognizer: Recognizer of the bundle that searches.
        queue: The queue.
        store: Database of the queue.
    """

    def __init__(self, recognizer: Recognizer, queue: ReviewQueue, store: EnrolmentStore) -> None:
        self._recognizer, self._queue, self._backlog = recognizer, queue, ReviewBacklog(store)
        self._bundle = recognizer.live_gallery.bundle

    async def pending(self) -> int:
        """Return the number of images that are still to be searched; raise StoreError if the store is silent."""
        snapshot = await self._recognizer.snapshot()
        return await asyncio.to_thread(self._backlog.count, self._bundle.id, snapshot.version)

    async def run(self) -> None:
        """Search until cancelled; errors of the database are logged and the search goes on."""
        while True:
            began, done = time.monotonic(), 0
            try:
                done = await self.search_some()
            except StoreError:
                _log.warning("photographs that wait for review could not be searched again", exc_info=True)
            except Exception:
                _log.exception("photographs that wait for review could not be searched again")
            await asyncio.sleep(time.monotonic() - began if done else _PAUSE_SECONDS)

    async def search_some(self, *, most: int = _SEARCHED_AT_ONCE) -> int:
        """Search at most `most` pending images and return how many that were.

        Raises:
            StoreError: If the store does not answer.
        """
        bundle, snapshot = self._bundle, await self._recognizer.snapshot()
        start = secrets.token_hex(32)
        pending = await asyncio.to_thread(self._backlog.pending, bundle.id, snapshot.version, most=most, start=start)
        if not pending:
            return 0
        if bundle.keypoints:
            pending = pending[:_EMBEDDED_IN_A_STEP]
            found = await self._answers_of_images(pending)
        else:
            pending, vectors = await self._vectors(pending)
            found = await self._answers_of_vectors(pending, vectors)
        answers = {one.digest: found.get(one.digest) for one in pending}
        await asyncio.to_thread(self._backlog.record, bundle.id, snapshot.version, answers)
        return len(pending)

    async def _answers_of_vectors(
        self, pending: Sequence[PendingSearch], vectors: Mapping[str, np.ndarray]
    ) -> dict[str, LatestAnswer]:
        found = [one for one in pending if one.digest in vectors]
        if not found:
            return {}
        unit = normalize_rows(np.stack([vectors[one.digest] for one in found]))
        snapshot = await self._recognizer.snapshot()
        traits = [snapshot.gallery.known_traits(one.traits) for one in found]
        answers = await asyncio.to_thread(self._bundle.rank, unit, top=1, gallery=snapshot.gallery, traits=traits)
        return {one.digest: self._latest(answer) for one, answer in zip(found, answers, strict=True)}

    async def _answers_of_images(self, pending: Sequence[PendingSearch]) -> dict[str, LatestAnswer]:
        answers = {}
        for one in pending:
            photograph = await asyncio.to_thread(self._queue.photograph, one.digest)
            if photograph is None:
                continue
            try:
                found = await self._recognizer.identify(photograph[0], top=1, box=one.box, traits=one.traits)
            except ImageError:
                continue
            answers[one.digest] = self._latest(found)
        return answers

    async def _vectors(self, pending: Sequence[PendingSearch]) -> tuple[list[PendingSearch], dict[str, np.ndarray]]:
        """Return the images of this step and the embedding of each that can be decoded.

        Those with a stored embedding, and the first others, whose embeddings are stored now.
        """
        bundle = self._bundle.id
        found = await asyncio.to_thread(self._backlog.vectors, bundle, [one.digest for one in pending])
        stored = [one for one in pending if one.digest in found]
        missing = [one for one in pending if one.digest not in found][:_EMBEDDED_IN_A_STEP]
        for start in range(0, len(missing), _EMBEDDED_AT_ONCE):
            part = missing[start : start + _EMBEDDED_AT_ONCE]
            vectors = await asyncio.gather(*map(self._embed, part))
            fresh = {one.digest: each for one, each in zip(part, vectors, strict=True) if each is not None}
            await asyncio.to_thread(self._backlog.add_vectors, bundle, fresh)
            found |= fresh
        return [*stored, *missing], found

    async def _embed(self, pending: PendingSearch) -> np.ndarray | None:
        photograph = await asyncio.to_thread(self._queue.photograph, pending.digest)
        if photograph is None:
            return None
        (decoded,) = await self._recognizer.decode(photograph[0], [pending.box])
        return None if isinstance(decoded, ImageError) else await self._recognizer.embed(decoded.array)

    def _latest(self, found: Identification) -> LatestAnswer:
        nearest = found.candidates[0] if found.candidates else None
        name, distance = (nearest.individual, nearest.distance) if nearest else ("", 2.0)
        return LatestAnswer(self._bundle.id, name, distance, found.new_individual.decision)
