"""File systems of object storage (S3, GCS, those of fsspec) and mounted disks by URL; their errors as messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from whale_ray.errors import InputError, first_line
from whale_ray.suggestions import suggest

SCHEMES = ("s3", "gs", "file")
# Objects of these appear when they are complete; files of others are written as a draft, which is then renamed.
_OBJECT_STORAGE = ("s3", "gs", "abfs", "abfss", "az", "hf", "oci", "ocilake", "oss", "tos", "tosfs")
_WEB = ("http", "https")  # protocols of fsspec that list no folders and take no files
_CONNECT_SECONDS = 3
_ATTEMPTS = 2
_GCS_RETRY_SECONDS = 8
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL",
    "gs": "`gcloud auth application-default login` or GOOGLE_APPLICATION_CREDENTIALS; gs://anonymous@BUCKET without",
    "file": "permissions of the folder",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN",
}
_REMEDIES = {
    "NO_SUCH_BUCKET": "Create the bucket, or name another one",
    "ACCESS_DENIED": "Give the credentials the permission to list, read, write and delete objects, or name others",
    "REQUEST_TIME_TOO_SKEWED": "Set the clock of this machine, which differs from that of the storage",
    "NETWORK_CONNECTION": "Check the network and AWS_ENDPOINT_URL, which names the storage if it is not Amazon's",
}
"""Remedies of errors of S3 by their name in pyarrow's text."""
_OTHER_CREDENTIALS = "those that the fsspec package of the scheme reads from the environment"


def open_storage(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL and the path in it.

    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names a storage other than Amazon's; so does `?endpoint_override=` of the
    URL. Credentials are read when the file system is made. Calls give up after a few seconds.

    Args:
        url: `s3://BUCKET/PATH`, `gs://BUCKET/PATH` or `file:///PATH`; or a URL of another protocol of fsspec, whose
            package is installed.

    Raises:
        InputError: If the scheme is none of these, or the URL has no bucket.
    """
    from pyarrow.fs import FileSystem

    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        if is_fsspec_protocol(parts.scheme):
            from whale_ray.inference.bundle_transfer.fsspec_systems import open_with_fsspec

            return open_with_fsspec(url)
        named = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        hint = suggest(parts.scheme, SCHEMES) or "Name a folder, one of these or a protocol of fsspec (az://)."
        raise InputError(f"storage is named by a URL that begins with {named}, but got {url}. {hint}")
    if parts.scheme == "s3":
        if not parts.netloc:
            raise InputError(f"a URL of S3 names a bucket, s3://BUCKET/PATH, but got {url}. Name the bucket")
        return _s3(parts.netloc, dict(parse_qsl(parts.query))), f"{parts.netloc}{parts.path}".rstrip("/")
    if parts.scheme == "gs" and "retry_limit_seconds" not in url:
        url += ("&" if parts.query else "?") + f"retry_limit_seconds={_GCS_RETRY_SECONDS}"
    system, place = FileSystem.from_uri(url)
    return system, str(place).rstrip("/")


def _s3(bucket: str, options: dict[str, str]) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        server = urlsplit(endpoint)
        options = {"scheme": server.scheme, **options, "endpoint_override": server.netloc}
    if "region" not in options:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options["region"] = region or ("us-east-1" if "endpoint_override" in options else resolve_s3_region(bucket))
    return S3FileSystem(
        **options,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a small file is one request
    )


def is_fsspec_protocol(scheme: str) -> bool:
    """Return whether fsspec knows a protocol, with or without the package that it needs.

    Args:
        scheme: Scheme of a URL.
    """
    from fsspec.registry import known_implementations, registry

    return scheme not in _WEB and (scheme in known_implementations or scheme in registry)


def writes_in_place(url: str) -> bool:
    """Return whether others see a file at a URL while it is written, and its folder must exist before.

    Args:
        url: URL of the storage.
    """
    return urlsplit(url).scheme not in _OBJECT_STORAGE


@contextmanager
def storage_errors(url: str, kind: type[InputError] = InputError) -> Iterator[None]:
    """Raise the errors of the storage as one error with the remedy.

    Args:
        url: URL of the storage.
        kind: Type of the error.

    Raises:
        InputError: If the storage refuses a call or does not answer.
    """
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise kind(f"{url} must be storage that can be used, but: {_shown(error)}. {_remedy(error, url)}") from error


def _shown(error: Exception) -> str:
    """Return the reason without S3's number of the request."""
    return re.sub(r" \(Request ID: \w*\)", "", first_line(error)).rstrip(".")


def _remedy(error: Exception, url: str) -> str:
    found = re.search(r"AWS Error (\w+)", str(error))
    if found and found[1] in _REMEDIES:
        return _REMEDIES[found[1]]
    credentials = _CREDENTIALS.get(urlsplit(url).scheme, _OTHER_CREDENTIALS)
    return f"Check the URL, the network and the credentials ({credentials})"
