"""Whether a call comes from where it may: the names that the service answers to, and the pages that may change it.

A page of another site can make a browser call this machine. It cannot choose the headers Host and Origin.
Knows headers; knows no key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers

from whale_ray.serving.schemas import RefusalError

_READS = {"GET", "HEAD", "OPTIONS"}


def check_host(headers: Headers, hosts: Collection[str]) -> None:
    """Raises RefusalError 421 unless Host is an address, localhost, or one of `hosts`: another name may be a trick
    (DNS rebinding) by which a site calls this machine as if it were its own.
    """
    host = headers.get("host", "")
    name = _name(host)
    if not (name == "localhost" or name in hosts or _is_address(name)):
        raise RefusalError(
            421,
            f"this service answers to addresses, localhost and the names it was told, but was called {host[:100]!r}. "
            "Call it by its address, or start it with hosts=NAME",
        )


def check_origin(method: str, headers: Headers) -> None:
    """Raises RefusalError 403 where a page of another site makes this call, and it is more than reading."""
    if method in _READS:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    own = headers.get("host", "")
    same = site in ("same-origin", "none") if origin is None else _place(origin.partition("://")[2]) == _place(own)
    if not same:
        raise RefusalError(
            403,
            f"only the service's own page may send this from a browser, but the page is of {str(origin)[:100]!r}. "
            f"Open the page at {own}, or call from a program, which sends no Origin",
        )


def _name(host: str) -> str:
    """The name of `name:port`, in lower case; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _place(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
