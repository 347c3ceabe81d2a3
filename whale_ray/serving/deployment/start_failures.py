"""Reports of replicas that do not start, while a deployment is waited for."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray import serve
from ray.serve.exceptions import RayServeException

_log = logging.getLogger(__name__)
_REST = 3.0
_FAILED = "A replica failed to start"
_REASON = re.compile(r"(?:Bundle|Store|Input)Error: (.+)")


def reason_of(messages: str) -> str | None:
    """Return the last reason for which this project's code refused to start; None if the messages name none.

    Args:
        messages: Messages of a deployment.
    """
    reasons = _REASON.findall(messages)
    return str(reasons[-1]) if reasons else None


def messages_of(application: str) -> list[str]:
    """Return the message of each deployment of an application; none if it is not deployed."""
    applications = serve.status().applications
    deployments = applications[application].deployments.values() if application in applications else ()
    return [deployment.message for deployment in deployments]


@contextmanager
def reported_failures(application: str, say: Callable[[str], None], *, rest: float = _REST) -> Iterator[None]:
    """Say each new reason for which a replica does not start.

    Ray Serve ends a deployment after three failures of a new version, but starts further replicas of a running version
    again without end, and says nothing.

    Args:
        application: Name of the application.
        say: Called with each line.
        rest: Seconds between two looks.
    """
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(application, say, over, rest), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=rest)


def _watch(application: str, say: Callable[[str], None], over: threading.Event, rest: float) -> None:
    try:
        said = set(_failures(application))  # of an earlier deployment
        while not over.wait(rest):
            for reason in _failures(application):
                if reason not in said and not over.is_set():
                    said.add(reason)
                    say(f"a replica does not start, and Ray Serve tries again: {reason}")
    except (RayServeException, RuntimeError, ConnectionError) as error:  # the deployment itself says what is wrong
        _log.debug("replicas of %s are not watched: %s", application, error)


def _failures(application: str) -> list[str]:
    failed = [message for message in messages_of(application) if message.startswith(_FAILED)]
    return [reason_of(message) or message.strip().splitlines()[-1] for message in failed]
