"""Options and error handling that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from whale_ray.errors import InputError, WhaleRayError
from whale_ray.file_errors import explain_file_error

_URL = re.compile(r"(s3|gs|hf|https?|file):/+")
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
            _refuse_urls(options)
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


def _refuse_urls(options: Mapping[str, Any]) -> None:
    """Raise InputError if an option that takes a path is a URL, of which `Path` has merged the slashes."""
    for value in options.values():
        for path in value if isinstance(value, list | tuple) else [value]:
            if isinstance(path, Path) and (found := _URL.match(str(path))):
                url = f"{found[1]}://{str(path)[found.end() :]}"
                raise InputError(
                    f"this command takes local files and folders, but got {url}. Download it first; sweep, audit and "
                    "submit take photographs at a URL"
                )
