"""Commands of the HTTP service: `serve`, `deploy`, `export-enrolled`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whale_ray.commands.options import BundleAddress, ServeSettings, exits_with_message

SERVE_EXAMPLES = """
Examples:

  whale-ray serve runs/quickstart/best --set replicas=2

  whale-ray serve hf://OWNER/NAME@REVISION

  whale-ray serve small=runs/small/best large=runs/large/best --set shape=split
"""
DEPLOY_EXAMPLE = "Example: whale-ray deploy runs/quickstart/best --set replicas=2"
EXPORT_EXAMPLE = """
Example:

  whale-ray export-enrolled sqlite:///enrolled.db data/train review.csv

  whale-ray apply-review review.csv then adds them to a new train.csv.
"""


@exits_with_message
def serve(
    bundles: Annotated[
        list[str], typer.Argument(help="A folder, hf://… or s3://…; several as NAME=BUNDLE, the default first.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other hosts without a key.")] = False,
    set_: ServeSettings = None,
) -> None:
    """Serve bundles over HTTP until Ctrl-C."""
    from whale_ray.serving.deployment.launcher import serve_models
    from whale_ray.serving.deployment.settings import read_settings

    serve_models(read_settings(bundles, set_ or []), host=host, port=port, insecure=insecure)


@exits_with_message
def deploy(
    bundle: BundleAddress,
    address: Annotated[str | None, typer.Option(help="The Ray cluster on which the service runs.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to exchange, if there are several.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Run it silently beside the live bundle.")] = False,
    set_: ServeSettings = None,
) -> None:
    """Exchange the bundle of a running service without a failed request."""
    from whale_ray.serving.deployment import rollout

    rollout.deploy(bundle, address=address, model=model, shadow=shadow, options=set_ or [], say=typer.echo)


@exits_with_message
def export_enrolled(
    store: Annotated[str, typer.Argument(help="The URL of a service's database of enrolments.")],
    folder: Annotated[Path, typer.Argument(help="The folder of training photographs.")],
    review: Annotated[Path, typer.Argument(help="The CSV file to write.")],
) -> None:
    """Write the photographs enrolled in a service, with a review table, for the next training."""
    from whale_ray.serving.gallery.enrolment_store import EnrolmentStore
    from whale_ray.serving.gallery.export import export_enrolled as export

    opened = EnrolmentStore(store, create=False)
    count = export(opened, folder, review)
    opened.close()
    typer.echo(f"{count} enrolled photographs are in {folder}, and a row for each in {review}")
