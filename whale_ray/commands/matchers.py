"""Command on networks that match keypoints: `export-matcher`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whale_ray.commands.options import exits_with_message
from whale_ray.errors import InputError

MATCHER_EXAMPLE = "Example: whale-ray export-matcher disk_lightglue.pth disk_lightglue.onnx"


@exits_with_message
def export_matcher(
    weights: Annotated[Path, typer.Argument(help="Weights of LightGlue as published: .pth or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
) -> None:
    """Write a LightGlue matcher as the ONNX file that retrieval.local names beside its keypoint network."""
    from whale_ray.learning.lightglue import export_lightglue, read_lightglue

    if out.suffix != ".onnx" or out.is_dir():
        raise InputError(f"the matcher is written as an ONNX file, but got {out}. Name a file that ends in .onnx")
    export_lightglue(read_lightglue(weights), out)
    typer.echo(f"{out} is written: name it as `retrieval.local: KEYPOINTS.onnx+{out}`")
