"""Bundles on the Hugging Face Hub: pushed as one commit, pulled into the hub's own cache by commit."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from whale_ray.errors import BundleError, first_line
from whale_ray.file_errors import real_path
from whale_ray.inference.bundle import MANIFEST, read_manifest
from whale_ray.verbosity import is_quiet

_log = logging.getLogger(__name__)
_FORM = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?/?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_ANSWER_SECONDS = 10.0


class HubAddress(NamedTuple):
    """A bundle on the hub.

    Attributes:
        repository: OWNER/NAME of a model repository.
        revision: A branch, a tag or a commit; None for the newest commit of the main branch.
    """

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_url(url: str) -> HubAddress:
    """Return the address in `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    Raises:
        BundleError: If the URL has another form.
    """
    match = _FORM.fullmatch(url)
    if match is None:
        raise BundleError(f"a bundle on the hub is hf://OWNER/NAME or hf://OWNER/NAME@REVISION, but got {url}")
    return HubAddress(match[1], match[2])


def pull_from_hub(url: str) -> Path:
    """Return the local folder of a bundle on the hub, downloaded unless the hub's cache has it.

    A revision other than `main` must stay the commit that it was when it was first pulled to this machine. Without an
    answer of the hub, the commit in the cache is used, with a warning.

    Args:
        url: `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    Raises:
        BundleError: If the model or revision does not exist, may not be read, has moved, or the hub does not answer.
    """
    from huggingface_hub import snapshot_download

    address = parse_hub_url(url)
    _set_progress_bars()
    with _hub_errors(address):
        if not _COMMIT.fullmatch(address.revision or ""):
            _check_cached_revision(address)
        return Path(snapshot_download(address.repository, revision=address.revision, library_name="whale-ray"))


def pin_hub_url(url: str) -> str:
    """Return `hf://OWNER/NAME@COMMIT` of a bundle on the hub, pulled unless the hub's cache has it.

    Args:
        url: `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`.

    Raises:
        BundleError: As in `pull_from_hub`.
    """
    folder = pull_from_hub(url)  # the cache names it by the commit
    return str(HubAddress(parse_hub_url(url).repository, folder.name))


def push_to_hub(folder: Path, url: str, *, public: bool) -> str:
    """Upload a bundle as one commit that replaces the files of the repository, and return its URL with the commit.

    Args:
        folder: Folder of the bundle.
        url: `hf://OWNER/NAME` or `hf://OWNER/NAME@BRANCH`; repository and branch are created if needed.
        public: Create a public repository; an existing one stays as it is.

    Raises:
        BundleError: If the bundle is damaged, the token may not write there, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    address, manifest = parse_hub_url(url), read_manifest(folder)
    _set_progress_bars()
    api = HfApi(library_name="whale-ray")
    with _hub_errors(address):
        api.create_repo(address.repository, private=not public, exist_ok=True)
        if address.revision:
            api.create_branch(address.repository, branch=address.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.repository,
            folder_path=real_path(folder),
            revision=address.revision,
            commit_message=f"Add bundle {manifest['id']}",
            allow_patterns=[MANIFEST, *manifest["files"]],
            delete_patterns="*",  # files of an earlier bundle
        )
    return str(HubAddress(address.repository, commit.oid))


def _check_cached_revision(address: HubAddress) -> None:
    """Refuse a revision that has moved since it was first pulled; warn if the hub does not answer."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    cached = try_to_load_from_cache(address.repository, MANIFEST, revision=address.revision)
    if not isinstance(cached, str):
        return
    before = Path(cached).parent.name
    try:
        now = HfApi().model_info(address.repository, revision=address.revision, timeout=_ANSWER_SECONDS).sha
    except _network_errors() as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        _log.warning("%s: the hub does not answer, so commit %s of the cache is used", address, before)
        return
    if now != before and address.revision not in (None, "main"):
        raise BundleError(
            f"a revision must stay what it was, but {address} was commit {before} when it was first pulled here and is "
            f"{now} now. Name the one that you want: hf://{address.repository}@{now}"
        )


def _network_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # The base of the transport's errors, of whichever HTTP library the hub's client uses.
    transport = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    assert issubclass(transport, Exception)
    return (ConnectionError, TimeoutError, OfflineModeIsEnabled, LocalEntryNotFoundError, transport)


@contextmanager
def _hub_errors(address: HubAddress) -> Iterator[None]:
    """Raise the errors of the hub's client as one `BundleError` with the remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise BundleError(
            f"a gated model needs your access granted, but that of {address} is not. Ask for it on the page of the "
            "model on the hub, then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise BundleError(
            f"a revision is a branch, a tag or a commit of the model, but {address} has none of that name. "
            f"Leave @{address.revision} out for the newest commit"
        ) from error
    except (RepositoryNotFoundError, LocalTokenNotFoundError) as error:
        raise BundleError(
            f"{address} must be a model that your token may use, but the hub shows none. Check the spelling, and run "
            "`hf auth login` or set HF_TOKEN if it is private"
        ) from error
    except HfHubHTTPError as error:
        raise BundleError(_refusal(address, error.response.status_code, str(error))) from error
    except ValueError as error:  # of a name, or of the card's metadata
        raise BundleError(f"the hub must accept {address}, but: {first_line(error)}") from error
    except _network_errors() as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise BundleError(_refusal(address, error.__cause__.response.status_code, str(error.__cause__))) from error
        raise BundleError(
            f"the hub must answer for {address}, which is not in the cache, but: {first_line(error)}. Check the "
            "network, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error


def _refusal(address: HubAddress, status: int, text: str) -> str:
    if status in (401, 403):
        return (
            f"the token must be allowed to do this with {address}, but the hub answers {status}. Make a token with the "
            "right to write at the hub, and run `hf auth login` or set HF_TOKEN"
        )
    return f"the hub must take the call for {address}, but answers {status}: {text.strip().splitlines()[0]}"


def _set_progress_bars() -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if is_quiet() or not sys.stderr.isatty():
        disable_progress_bars()
