"""Results of `/v1/identify` in the form of the HTTP API, and the addresses of a model's resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from whale_ray.errors import ImageError
from whale_ray.inference.predictions import Candidate, Identification
from whale_ray.serving.gallery.live_gallery import LiveGallery
from whale_ray.serving.metrics import count
from whale_ray.serving.problem_details import refused_image
from whale_ray.serving.resource_names import thumbnail_path
from whale_ray.serving.schemas import Identified, Unidentified

if TYPE_CHECKING:
    from whale_ray.serving.http.uploads import Upload


@dataclass(frozen=True)
class ResultWriter:
    """Writes the results of one model.

    Attributes:
        live_gallery: Its gallery.
        name: Value of `?model=` in addresses; "" for the default model.
    """

    live_gallery: LiveGallery
    name: str

    def identified(self, found: Identification, *, upload: Upload | None = None, views: int = 1) -> Identified:
        """Return the result of an image, or of several images of one animal.

        Args:
            found: The answer.
            upload: The image; None for an encounter.
            views: Number of images behind the answer.
        """
        count("whale_ray_answers", decision=found.new_individual.decision)
        candidates = [self._candidate(candidate) for candidate in found.candidates]
        new, pool = vars(found.new_individual), found.pool and vars(found.pool)
        result = {"filename": None} if upload is None else _place(upload)
        result |= {"views": views, "new_individual": new, "candidates": candidates, "pool": pool}
        return Identified.model_validate(result)

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        fields = {**vars(candidate), "thumbnail": self._thumbnail(candidate.image)}
        matched = fields.pop("matched")
        if matched is not None and matched.lines:
            shown = {"image": matched.image, "thumbnail": self._thumbnail(matched.image), "lines": matched.lines}
            fields["matched"] = shown
        return fields

    def _thumbnail(self, image: str) -> str | None:
        row = self.live_gallery.rows.get(image)
        if row is not None and row not in self.live_gallery.bundle.contents.thumbnails:
            return None
        path, query = thumbnail_path(image)
        return self.address(path, **query)

    def address(self, path: str, **query: object) -> str:
        """Return the URL path of a resource of this model.

        Args:
            path: Path of the resource.
            query: Query parameters; `model` is added if this is not the default model.
        """
        query |= {"model": self.name} if self.name else {}
        return f"{path}?{urlencode(query)}" if query else path


def problem_result(upload: Upload, error: ImageError) -> Unidentified:
    """Return the result of an image that cannot be used.

    Args:
        upload: The image.
        error: The reason.
    """
    return Unidentified(**_place(upload), problem=refused_image(error).problem)


def _place(upload: Upload) -> dict[str, Any]:
    """Return the fields of a result that say what was looked at: file, box and the detector's confidence."""
    detection = {} if upload.animal is None else {"detection": upload.animal.confidence}
    return {"filename": upload.filename, "box": upload.box, **detection}
