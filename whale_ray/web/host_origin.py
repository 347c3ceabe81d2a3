"""Checks of the headers Host, Origin and Sec-Fetch-Site of a call.

A page of another site can make a browser call this machine, but it cannot choose these headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing: their origin needs no check."""


def is_known_host(host: str, names: Collection[str] = ()) -> bool:
    """Return whether a Host is an IP address, localhost or a known name (prevents DNS rebinding).

    Args:
        host: The header Host, with or without a port.
        names: Known names in lower case, without port.

    >>> is_known_host("127.0.0.1:8000"), is_known_host("[::1]"), is_known_host("evil.example:80")
    (True, True, False)
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
    return name == "localhost" or name in names or _is_address(name)


def is_same_origin(host: str, *, origin: str | None, site: str | None) -> bool:
    """Return whether a call comes from a page of this host, or from a program.

    Args:
        host: The header Host.
        origin: The header Origin; None if the call has none, as calls of programs.
        site: The header Sec-Fetch-Site; None if the call has none.
    """
    if origin is None:
        return site in (None, "same-origin", "none")
    return _without_default_port(origin.partition("://")[2]) == _without_default_port(host)


def _without_default_port(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
