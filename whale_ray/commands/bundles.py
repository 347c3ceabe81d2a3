"""Commands that use a bundle: `submit`, `identify`, `push`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whale_ray.commands.options import AsJson, BundleAddress, exits_with_message
from whale_ray.errors import ImageError, InputError
from whale_ray.verbosity import is_quiet

if TYPE_CHECKING:
    from whale_ray.data.image_io import Box
    from whale_ray.inference.detection.detector import Detector

SUBMIT_EXAMPLE = "Example: whale-ray submit runs/vit_proxy/best data/test submission.csv"
IDENTIFY_EXAMPLES = """
Examples:

  whale-ray identify runs/quickstart/best fluke.jpg

  whale-ray identify http://127.0.0.1:8000 left.jpg right.jpg --encounter --csv

  whale-ray identify runs/quickstart/best one.jpg two.jpg --json

  whale-ray identify runs/quickstart/best photographs/ --csv

  whale-ray identify runs/quickstart/best pod.jpg --box 120,80,520,360 --box 600,90,980,350

  whale-ray identify runs/crops/best pod.jpg --detector md_v5a.onnx
"""
PUSH_EXAMPLES = """
Examples:

  whale-ray push runs/quickstart/best hf://OWNER/NAME

  whale-ray push runs/quickstart/best s3://BUCKET/PATH
"""


@exits_with_message
def submit(
    bundle: BundleAddress,
    images: Annotated[str, typer.Argument(help="Folder or URL (s3://…, gs://…) of test photographs.")],
    out: Annotated[Path, typer.Argument(help="The CSV file to write.")],
) -> None:
    """Write a Kaggle submission: five distinct labels for every test photograph."""
    from whale_ray.inference.bundle_transfer.photograph_download import local_photographs
    from whale_ray.inference.kaggle_submission import kaggle_command, write_submission
    from whale_ray.inference.predictor import Bundle

    if out.is_dir():
        raise InputError(f"the submission is a CSV file, but {out} is a folder. Name a file")
    replaced = " again, over the older file" if out.exists() else ""
    loaded = Bundle.load(bundle)
    written = write_submission(loaded, local_photographs(images), out, progress=not is_quiet())
    for name, reason in written.others.items():
        typer.echo(f"{name} has no row: {reason}", err=True)
    for name, reason in written.undecodable.items():
        typer.echo(f"{name} cannot be decoded and gets the most frequent labels: {reason}", err=True)
    counts = f"{written.photographs} photographs, {written.new} of them first of all {loaded.unknown_label}"
    if written.undecodable:
        counts += f", {len(written.undecodable)} of them not decodable"
    if written.others:
        counts += f"; {len(written.others)} other file{'s' if len(written.others) > 1 else ''} without a row"
    typer.echo(f"{out} is written{replaced}: {counts}. Send it with:\n{kaggle_command(out)}")


@exits_with_message
def identify(
    target: Annotated[str, typer.Argument(help="A bundle (a folder, hf://… or s3://…), or the URL of a service.")],
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of photographs.")],
    top: Annotated[int, typer.Option(help="Number of individuals per photograph.", min=1, max=50)] = 5,
    encounter: Annotated[
        bool, typer.Option("--encounter", help="All photographs show one animal. Needs a service.")
    ] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="x0,y0,x1,y1: an animal's box in pixels; repeatable: several of one photograph, or one each."
        ),
    ] = None,
    view: Annotated[str, typer.Option(help="Viewpoint of the animals, such as left; one of the model's.")] = "",
    species: Annotated[str, typer.Option(help="Species of the animals; one of the model's.")] = "",
    detector: Annotated[
        Path | None, typer.Option(help="ONNX file of MegaDetector 5, which finds the animals. Needs a bundle.")
    ] = None,
    detector_confidence: Annotated[
        float, typer.Option(help="Smallest confidence of an animal that it finds.", min=0.0, max=1.0)
    ] = 0.2,
    csv: Annotated[bool, typer.Option("--csv", help="Print rows for a spreadsheet instead of JSON lines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the individuals that each photograph may show, as JSON lines, one JSON array or CSV."""
    if csv and as_json:
        raise InputError("--csv and --json exclude each other, but both were given. Leave one out")
    finder = None
    if detector is not None:
        finder = _open_detector(detector, detector_confidence, has_boxes=bool(box), is_bundle=not _is_url(target))
    asked = {"top": top, "boxes": _parse_boxes(box or []), "view": view, "species": species}
    answers = _answers(target, _expand_folders(images), encounter=encounter, detector=finder, **asked)
    if csv:
        from whale_ray.serving.http.content_negotiation import results_csv

        typer.echo(results_csv(answers), nl=False)
    elif as_json:
        typer.echo(json.dumps(answers, indent=1))
    else:
        for answer in answers:
            typer.echo(json.dumps(answer))


@exits_with_message
def push(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle, e.g. runs/quickstart/best.")],
    url: Annotated[str, typer.Argument(help="hf://OWNER/NAME, hf://OWNER/NAME@BRANCH, s3://BUCKET/PATH or gs://….")],
    public: Annotated[bool, typer.Option("--public", help="Create a public repository on the hub.")] = False,
) -> None:
    """Upload a bundle to the Hugging Face Hub or to object storage."""
    from whale_ray.inference.bundle_transfer.addresses import push_bundle

    pushed = push_bundle(bundle, url, public=public)
    typer.echo(f"{bundle} is at {pushed}. Serve it with:\nwhale-ray serve {pushed}")


def _expand_folders(paths: list[Path]) -> list[Path]:
    """Return the paths with each folder replaced by its decodable photographs; print the reason for other files."""
    from whale_ray.data.decoding.find_image_files import find_images

    expanded = []
    for path in paths:
        if not path.is_dir():
            expanded.append(path)
            continue
        found = find_images(path)
        undecodable = {name: reason for name in found.images if (reason := _decode_fault(path / name))}
        for name, reason in {**found.others, **undecodable}.items():
            typer.echo(f"{path / name} gets no answer: {reason}", err=True)
        expanded += [path / name for name in found.images if name not in undecodable]
    if not expanded:
        raise InputError("photographs must be decodable, but none of those named is. Name other photographs")
    return expanded


def _decode_fault(path: Path) -> str:
    """Return the reason why a photograph cannot be decoded, or ""."""
    from whale_ray.data.image_io import decode_image
    from whale_ray.file_errors import short_reason

    try:
        decode_image(path, on_warning=lambda _: None)
    except (ImageError, OSError) as error:
        return short_reason(error)
    return ""


def _parse_boxes(texts: list[str]) -> list[Box]:
    from whale_ray.data.decoding.box_arguments import parse_box

    try:
        return [parse_box(text) for text in texts]
    except ValueError as error:
        raise InputError(f"--box: {error}") from error


def _is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _open_detector(path: Path, confidence: float, *, has_boxes: bool, is_bundle: bool) -> Detector:
    from whale_ray.inference.detection.detector import Detector

    if not is_bundle:
        raise InputError("--detector needs a bundle, but a service was named. Serve with --set detector=FILE")
    if has_boxes:
        raise InputError("--detector finds the boxes itself, but --box was given as well. Leave one out")
    return Detector(path, confidence=confidence)


def _answers(
    target: str, images: list[Path], *, encounter: bool, detector: Detector | None, **asked: Any
) -> list[dict[str, Any]]:
    if _is_url(target):
        from whale_ray.serving.client import ask_service

        return ask_service(target, images, encounter=encounter, **asked)
    if encounter:
        raise InputError("--encounter needs a service, but a bundle was named. Serve the bundle and name its URL")
    from whale_ray.inference.predictor import Bundle
    from whale_ray.serving.http.content_negotiation import bundle_results

    return bundle_results(Bundle.load(target), images, detector=detector, **asked)
