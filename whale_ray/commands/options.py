"""Options and error handling that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from whale_ray.errors import WhaleRayError
from whale_ray.file_errors import explain_file_error

DataSettings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A `data` setting, as in a sweep file.")
]
ServeSettings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A serve setting, as in deploy/serve.yaml.")
]
BundleAddress = Annotated[
    str, typer.Argument(help="A bundle, e.g. runs/quickstart/best, hf://OWNER/NAME@REVISION or s3://BUCKET/PATH.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def exits_with_message(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with every error that the user can mend printed as one message, with exit code 2."""

    @wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except WhaleRayError as error:
            typer.echo(f"whale_ray: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if (message := explain_file_error(error)) is None:
                raise
            typer.echo(f"whale_ray: {message}", err=True)
            raise typer.Exit(2) from None

    return guarded
