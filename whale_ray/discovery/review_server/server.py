"""HTTP server of the review page on one address until it is interrupted."""

from __future__ import annotations

import ipaddress
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from whale_ray.discovery.review_server.app import build_review_app
from whale_ray.discovery.session import DiscoverySession
from whale_ray.errors import InputError


def serve_review_page(
    session: DiscoverySession, *, host: str, port: int, person: str, say: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then wait until the last clustering is written.

    Args:
        session: The discovery.
        host: IP address to listen on.
        port: Port to listen on; 0 takes a free one.
        person: Name in the page's field before a person changes it.
        say: Called with the address of the page.

    Raises:
        InputError: If the address cannot be listened on.
    """
    listening = _listen(host, port)
    token = secrets.token_urlsafe(24)
    app = build_review_app(session, token=token, person=person)
    # uvicorn's own configuration of logging would close the handlers of other libraries; absl's closes its stream.
    config = uvicorn.Config(app, log_level="warning", log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    shown = f"[{host}]" if ":" in host else host
    say(f"Compare pairs at http://{shown}:{listening.getsockname()[1]}/?token={token}")
    say("Ctrl-C ends the page; every answer is saved at once.")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, as Ctrl-C does
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has shut down
            server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()
        session.wait()


def _listen(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InputError(
            f"--host is an IP address of this machine, but got {host!r}. Give 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"the page needs a free port of this machine, but {host}:{port}: {error}. Choose another one with --port"
        ) from None
