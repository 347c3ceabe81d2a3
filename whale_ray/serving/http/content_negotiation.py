"""Response formats: JSON or, by the Accept header, CSV rows for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import Response

from whale_ray.csv_cells import as_cell
from whale_ray.data.decoding.box_arguments import format_box, pair_boxes
from whale_ray.data.image_io import Box
from whale_ray.inference.detection.detected_animals import check_detector_use, detect_animals
from whale_ray.inference.detection.detector import Detector
from whale_ray.inference.predictor import Bundle
from whale_ray.serving.schemas import DISTANCE_DECIMALS, Answer

JSON, CSV = "application/json", "text/csv"
COLUMNS = (
    "filename",
    "model",
    "decision",
    "new_probability",
    "rank",
    "individual",
    "distance",
    "probability",
    "image",
    "problem",
)
POOL_COLUMNS = ("pool_view", "pool_species", "pool_images", "pool_individuals")  # if the model knows either
MATCHED = "matched_points"  # a column, if the model matches keypoints
BOX = "box"  # a last column, if any result has one
DETECTION = "detection"  # a last column, if a detector was asked: its confidence, or `none`


def negotiate_response(accept: str, answer: Answer) -> Response:
    """Return the answer in the preferred format.

    Args:
        accept: Value of the Accept header; empty: JSON.
        answer: The answer of `/v1/identify`.
    """
    if prefers_csv(accept):
        return Response(answer_csv(answer), media_type=f"{CSV}; charset=utf-8")
    return Response(answer.model_dump_json(), media_type=JSON)


def prefers_csv(accept: str) -> bool:
    """Return whether an Accept header prefers CSV to JSON.

    >>> [prefers_csv(accept) for accept in ("text/csv", "text/csv;q=0.5, */*", "", "text/*, application/json;q=0.1")]
    [True, False, False, True]
    """
    weights = dict(_parse_media_range(part) for part in accept.lower().split(",") if part.strip())
    return _quality(weights, CSV) > _quality(weights, JSON)


def _parse_media_range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip() for piece in part.split(";"))
    quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
    try:
        return kind, float(quality)
    except ValueError:
        return kind, 0.0


def _quality(weights: dict[str, float], kind: str) -> float:
    whole = f"{kind.partition('/')[0]}/*"
    return next((weights[name] for name in (kind, whole, "*/*") if name in weights), 0.0)


def answer_csv(answer: Answer) -> str:
    """Return one row per candidate, or per image without candidates; formulas are escaped."""
    return results_csv([{"model": answer.model, **result.model_dump()} for result in answer.results])


def results_csv(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the CSV text of results in their JSON form, each with the `model` that gave it."""
    results = list(results)
    columns = list(COLUMNS)
    columns += POOL_COLUMNS if any(result.get("pool") for result in results) else ()
    columns += [MATCHED] if any(_has_matches(result) for result in results) else []
    columns += [BOX] if any(result.get(BOX) for result in results) else []
    columns += [DETECTION] if any(DETECTION in result for result in results) else []
    written = io.StringIO()
    table = csv.DictWriter(written, columns, restval="", lineterminator="\r\n")
    table.writeheader()
    for result in results:
        box = {BOX: format_box(result[BOX])} if result.get(BOX) else {}
        if DETECTION in result:
            box[DETECTION] = "none" if result[DETECTION] is None else result[DETECTION]
        pool = result.get("pool") or {}
        searched = dict(zip(POOL_COLUMNS, pool.values(), strict=True)) if pool else {}
        for row in _rows(result):
            cells = {"filename": result["filename"], "model": result["model"], **row, **searched, **box}
            table.writerow({name: _cell(value) for name, value in cells.items()})
    return written.getvalue()


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "problem" in result:
        return [{"problem": result["problem"]["detail"]}]
    new = {
        "decision": result["new_individual"]["decision"],
        "new_probability": result["new_individual"]["probability"],
    }
    shown = ["rank", "individual", "distance", "probability", "image", *([MATCHED] if _has_matches(result) else [])]
    return [{**new, **{name: one[name] for name in shown}} for one in result["candidates"]] or [new]


def _has_matches(result: Mapping[str, Any]) -> bool:
    return any(candidate.get(MATCHED) is not None for candidate in result.get("candidates", ()))


def _cell(value: object) -> object:
    return as_cell(value) if isinstance(value, str) else value


def bundle_results(
    bundle: Bundle,
    images: Sequence[Path],
    *,
    top: int,
    boxes: Sequence[Box] = (),
    view: str = "",
    species: str = "",
    detector: Detector | None = None,
) -> list[dict[str, Any]]:
    """Return a bundle's result for each image in the form of the HTTP API.

    Args:
        bundle: The bundle.
        images: Image files.
        top: Number of candidates per image.
        boxes: Boxes in the only image, or one box for each image.
        view: Viewpoint of the animals; "" for unknown.
        species: Species of the animals, likewise.
        detector: Finds the animals of each image if there are no boxes.

    Raises:
        ImageError: If an image cannot be used.
        InputError: If several images do not have a box each, the gallery has no such viewpoint or species, or the
            bundle was not trained on crops but there is a detector.
    """
    asked: list[tuple[Path, Box | None]] = pair_boxes(images, boxes)
    detections: list[dict[str, float | None]] = [{}] * len(asked)
    if detector is not None and not boxes:
        check_detector_use(bundle.contents)
        animals = detect_animals(images, detector)
        asked = [(image, animal.box) for image, animal in animals]
        detections = [{DETECTION: animal.confidence and round(animal.confidence, 4)} for _, animal in animals]
    paths, crops = [image for image, _ in asked], [box for _, box in asked]
    found = bundle.identify(paths, top=top, boxes=crops, viewpoint=view, species=species)
    answers = [asdict(answer) for answer in found]
    for candidate in (candidate for answer in answers for candidate in answer["candidates"]):
        candidate["distance"] = round(candidate["distance"], DISTANCE_DECIMALS)
        # of this bundle's own search, which a service does not tell either
        del candidate["row"], candidate["score"], candidate["matched"]
    for answer in answers:
        if answer["pool"] is None:
            del answer["pool"]
    named = zip(asked, answers, detections, strict=True)
    return [
        {"model": bundle.id, **answer, "filename": str(image), **({} if box is None else {BOX: box}), **detection}
        for (image, box), answer, detection in named
    ]
