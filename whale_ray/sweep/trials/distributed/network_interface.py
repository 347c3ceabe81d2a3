"""Network interface at which a worker listens for the other workers of its trial."""

from __future__ import annotations

import os


def name_interface() -> None:
    """Let gloo listen at the address by which Ray knows this node, unless GLOO_SOCKET_IFNAME names an interface.

    By default gloo takes the address of the host name. Where that is a loopback address, as on Debian, workers on other
    nodes wait for this one without end.
    """
    import psutil
    import ray

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
