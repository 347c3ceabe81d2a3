"""Shadow: a bundle that answers silently beside the default model, to measure how often the two agree."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.serve.handle import DeploymentHandle

from whale_ray.serving.deployment.encoder_replicas import REPLICA_LOST, awaited
from whale_ray.serving.deployment.settings import ServeSettings

if TYPE_CHECKING:
    from whale_ray.data.image_io import Box
    from whale_ray.inference.predictions import AnimalTraits, Identification
    from whale_ray.serving.http.uploads import Upload

_log = logging.getLogger(__name__)


class ShadowReplica:
    """A bundle whose answers are compared with the live ones and otherwise discarded."""

    def __init__(self, path: Path, settings: ServeSettings) -> None:
        # Imported in the replica: `whale-ray deploy` imports this module without PyTorch.
        from whale_ray.serving.deployment.replica_components import load_encoder, make_recogniser, open_store

        bundle, encoder = load_encoder(path, settings)
        self._id = bundle.id
        self._known_traits = bundle.gallery.known_traits
        self._recogniser = make_recogniser(bundle, encoder, settings, open_store(settings.store))
        self._counts = {"compared": 0, "agreed": 0, "failed": 0}

    async def compare(self, data: bytes, box: Box | None, traits: AnimalTraits, live: str | None) -> None:
        """Identify an image and count whether the first individual is the live one.

        Args:
            data: Bytes of the image file.
            box: Box of the animal in it; None for the whole image.
            traits: Its viewpoint and species; those that the shadow's gallery lacks count as unknown.
            live: First individual of the live answer; None for a new individual.
        """
        try:
            found = await self._recogniser.identify(data, top=1, box=box, traits=self._known_traits(traits))
        except Exception:
            self._counts["failed"] += 1
            _log.warning("the shadow %s could not answer", self._id, exc_info=True)
            return
        self._counts["compared"] += 1
        self._counts["agreed"] += first_individual(found) == live

    async def agreement(self) -> dict[str, Any]:
        """Return the shadow's id, the number of compared answers, and the share that agreed."""
        compared = self._counts["compared"]
        return {"id": self._id, **self._counts, "agreement": self._counts["agreed"] / compared if compared else None}


class ShadowCaller:
    """Sends images and their live answers to the shadow without waiting; images beyond `most` at a time are skipped."""

    def __init__(self, handle: DeploymentHandle, *, most: int) -> None:
        self._handle, self._most = handle, most
        self._tasks: set[asyncio.Task[None]] = set()
        self._left_out = 0

    def offer(self, upload: Upload, found: Identification) -> None:
        """Send an image to the shadow, unless too many are under way.

        Args:
            upload: The image.
            found: The live answer.
        """
        if len(self._tasks) >= self._most:
            self._left_out += 1
            return
        task = asyncio.create_task(self._compare(upload, first_individual(found)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, upload: Upload, live: str | None) -> None:
        try:
            await self._handle.compare.remote(upload.data, upload.box, upload.traits, live)
        except Exception:
            self._left_out += 1
            _log.warning("the shadow did not answer", exc_info=True)

    async def agreement(self) -> dict[str, Any]:
        """Return the shadow's counts and the number of images that this process skipped."""
        try:
            counted: dict[str, Any] = await asyncio.wait_for(awaited(self._handle.agreement.remote()), timeout=5.0)
        except (*REPLICA_LOST, TimeoutError):
            counted = {"id": None, "compared": 0, "agreed": 0, "failed": 0, "agreement": None}
        return {**counted, "left_out": self._left_out}


def first_individual(found: Identification) -> str | None:
    """Return the first individual of an answer; None if it takes the animal for a new one."""
    return found.candidates[0].individual if found.new_individual.decision == "known" else None
