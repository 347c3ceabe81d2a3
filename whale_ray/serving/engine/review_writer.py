"""Review writer: puts images of animals that seem new into the review queue, in the background."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from whale_ray.data.image_io import Box
from whale_ray.errors import StoreError
from whale_ray.inference.predictions import AnimalTraits, Identification
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.gallery.enrolled_pictures import picture_digest
from whale_ray.serving.gallery.review.review_queue import ReviewItem, ReviewQueue, needs_review

MAX_PENDING_REVIEWS = 8
_log = logging.getLogger(__name__)


class ReviewWriter:
    """Adds images to a review queue without making callers wait, at most `MAX_PENDING_REVIEWS` at a time.

    Args:
        queue: The queue.
        decoders: Decoders that make the thumbnails.
        bundle: The bundle that answered.
    """

    def __init__(self, queue: ReviewQueue, decoders: DecoderPool, bundle: Bundle) -> None:
        self._queue, self._decoders, self._bundle = queue, decoders, bundle
        self._tasks: set[asyncio.Task[None]] = set()

    def wants(self, traits: AnimalTraits, found: Identification) -> bool:
        """Return whether the individual of an answer seems new.

        Args:
            traits: Viewpoint and species of the animal.
            found: The answer.
        """
        distance = found.candidates[0].distance if found.candidates else 2.0
        return found.new_individual.decision == "new" or needs_review(distance, self._bundle.new_distance_of(traits))

    def add(self, data: bytes, box: Box | None, traits: AnimalTraits, found: Identification) -> None:
        """Add the image.

        Args:
            data: The image file.
            box: Box of the animal in it; None for the whole image.
            traits: Viewpoint and species of the animal.
            found: Its answer.
        """
        nearest = found.candidates[0] if found.candidates else None
        distance = nearest.distance if nearest else 2.0
        if len(self._tasks) >= MAX_PENDING_REVIEWS:
            _log.warning(
                "a photograph of a probably new animal was not queued for review: %d are being written",
                MAX_PENDING_REVIEWS,
            )
            return
        item = ReviewItem(
            digest=picture_digest(data, box),
            at=datetime.now(UTC),
            bundle=self._bundle.id,
            nearest=nearest.individual if nearest else "",
            distance=distance,
            decision=found.new_individual.decision,
            box=box,
            traits=traits,
        )
        task = asyncio.create_task(self._write(item, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, item: ReviewItem, data: bytes) -> None:
        decoded = await self._decoders.decode(data, box=item.box, thumbnail=True)
        try:
            await asyncio.to_thread(self._queue.keep, item, data=data, thumbnail=decoded.thumbnail)
        except StoreError:
            _log.warning("a photograph of a probably new animal could not be queued for review", exc_info=True)
