"""Whether a service would be open to everybody, which nobody is to do by accident.

Knows Ray Serve's settings of HTTP; knows no bundle.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from whale_ray.errors import InputError

KEY_VARIABLE = "WHALE_RAY_API_KEY"
LOOPBACK = "127.0.0.1"


def check_exposure(hosts: Iterable[str], *, keyless: bool, insecure: bool) -> None:
    """Raises InputError where others than this machine could call a service without a key, and nobody wanted that."""
    open_to_others = [host for host in hosts if not is_loopback(host)]
    if open_to_others and keyless and not insecure:
        raise InputError(
            f"whoever reaches {open_to_others[0]} could call the service, so it needs a key, but {KEY_VARIABLE} is not "
            "set, and no file of keys. Set it, keep to 127.0.0.1, or type --insecure (insecure=true) where everyone "
            "may call it"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"{host}:{port} must be free to listen on, but: {error.strerror}. Choose another --port"
        ) from error
