"""Network exposure of a service: hosts it listens on, whether it needs a key, and whether the port is free."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from whale_ray.errors import InputError

KEY_VARIABLE = "WHALE_RAY_API_KEY"
LOOPBACK = "127.0.0.1"


def check_exposure(hosts: Iterable[str], *, keyless: bool, insecure: bool) -> None:
    """Check that a service without a key is reachable from this machine only.

    Args:
        hosts: Hosts on which the service listens.
        keyless: No key is needed to call it.
        insecure: The operator allows calls from other machines without a key.

    Raises:
        InputError: If other machines could call it without a key and `insecure` is false.
    """
    exposed = [host for host in hosts if not is_loopback(host)]
    if exposed and keyless and not insecure:
        raise InputError(
            f"a service that other machines reach needs a key, but it listens on {exposed[0]}, {KEY_VARIABLE} is not "
            "set and there is no file of keys. Set it, keep to 127.0.0.1, or type --insecure (insecure=true) to "
            "allow calls without a key"
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port_is_free(host: str, port: int) -> None:
    """Check that a socket can listen there.

    Args:
        host: IP address or host name.
        port: TCP port, 1 to 65535.

    Raises:
        InputError: If it cannot.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise InputError(
            f"{host}:{port} must be free to listen on, but: {error.strerror}. Choose another --port"
        ) from error
