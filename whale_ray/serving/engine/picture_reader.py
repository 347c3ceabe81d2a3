"""Picture reader: embeddings and local features of pictures to enrol, and of pictures that other bundles enrolled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from whale_ray.data.image_io import Box
from whale_ray.errors import ImageError
from whale_ray.retrieval.local.local_features import LocalFeatures
from whale_ray.serving.engine.decoder_messages import Decoded
from whale_ray.serving.engine.decoder_pool import DecoderPool
from whale_ray.serving.engine.encoder import Embedder
from whale_ray.serving.gallery.enrolled_pictures import (
    EnrolledPicture,
    Entry,
    pack_keypoints,
    picture_digest,
    picture_name,
    round_box,
)
from whale_ray.serving.gallery.live_gallery import LiveGallery

_log = logging.getLogger(__name__)


class PictureReader:
    """Reads pictures of the gallery for one bundle.

    Args:
        live_gallery: The gallery.
        encoder: The encoder of the bundle.
        decoders: Its decoders, which also search the keypoints that its setting needs.
    """

    def __init__(self, live_gallery: LiveGallery, encoder: Embedder, decoders: DecoderPool) -> None:
        self._live_gallery, self._encoder, self._decoders = live_gallery, encoder, decoders

    async def prepare(self, data: bytes, boxes: Sequence[Box | None]) -> list[EnrolledPicture | ImageError]:
        """Return the picture of each box with thumbnail and features, ready for the store, or the error.

        Args:
            data: The image file, which is decoded once.
            boxes: x0, y0, x1, y1 of each animal in pixels of the upright image, or None for all of it; rounded to what
                a store holds.
        """
        boxes = [box and round_box(box) for box in boxes]
        decoded = await self._decoders.decode_boxes(data, boxes, thumbnail=True, keypoints=True)
        return [await self._prepared(data, box, one) for box, one in zip(boxes, decoded, strict=True)]

    async def _prepared(self, data: bytes, box: Box | None, decoded: Decoded) -> EnrolledPicture | ImageError:
        if isinstance(decoded, ImageError):
            return decoded
        vector, found = await self._encoder.embed(decoded.array), decoded.keypoints
        digest, name = picture_digest(data, box), picture_name(data, box)
        keypoints = None if found is None else pack_keypoints(found, self._decoders.local)
        return EnrolledPicture(digest, name, data, decoded.thumbnail, vector, box, keypoints=keypoints)

    async def catch_up(self, entries: Sequence[Entry]) -> None:
        """Add the features of enrolled pictures that this bundle lacks to the store and the gallery.

        Raises:
            StoreError: If the store does not answer.
        """
        read = await asyncio.gather(*map(self._features_of, entries))
        found = {entry.digest: one for entry, one in zip(entries, read, strict=True) if one is not None}
        vectors = {digest: vector for digest, (vector, _) in found.items()}
        keypoints = {digest: one for digest, (_, one) in found.items() if one is not None}
        await asyncio.to_thread(self._live_gallery.add_features, vectors, keypoints)

    async def _features_of(self, entry: Entry) -> tuple[np.ndarray, LocalFeatures | None] | None:
        """Return embedding (D,) and local features of an enrolled picture; None if it is forgotten or unreadable."""
        assert self._live_gallery.store is not None
        data = await asyncio.to_thread(self._live_gallery.store.picture, entry.image)
        if data is None:
            return None
        try:
            decoded = await self._decoders.decode(data, box=entry.box, keypoints=True)
        except ImageError:
            _log.warning("%s is enrolled but cannot be decoded, and is left out", entry.image, exc_info=True)
            await asyncio.to_thread(self._live_gallery.exclude, entry)
            return None
        return await self._encoder.embed(decoded.array), decoded.keypoints
