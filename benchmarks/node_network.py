"""Network of the Ray nodes of one machine: a namespace for each node, joined by a bridge, so that nodes can be cut off.

Linux only, as root, with `ip` of iproute2. The addresses are of this machine and lead nowhere else.
"""

from __future__ import annotations

import random
import secrets
import subprocess
from contextlib import suppress


class NodeNetwork:
    """A bridge with a private network of its own; the processes of this machine have its first address.

    Attributes:
        host: Address of this machine in the network.
    """

    def __init__(self) -> None:
        self._prefix = f"wr{secrets.token_hex(3)}"  # names of interfaces have 15 characters at most
        self._subnet = f"10.231.{random.randrange(1, 255)}"
        self._namespaces: dict[str, str] = {}
        self.host = f"{self._subnet}.1"
        _ip(f"link add {self._prefix} type bridge")
        _ip(f"address add {self.host}/24 dev {self._prefix}")
        _ip(f"link set {self._prefix} up")

    def join(self, name: str) -> tuple[list[str], str]:
        """Return the command that runs another one in a node's namespace, and the node's address.

        Args:
            name: Name of the node; one that comes back has the namespace and the address that it had.
        """
        namespace = self._namespaces.get(name)
        if namespace is None:
            namespace = self._namespaces[name] = f"{self._prefix}n{len(self._namespaces)}"
            _ip(f"netns add {namespace}")
            _ip(f"link add {namespace} type veth peer name eth0 netns {namespace}")
            _ip(f"link set {namespace} master {self._prefix} up")
            for command in (f"address add {self._address(name)}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _ip(f"-n {namespace} {command}")
        return ["ip", "netns", "exec", namespace], self._address(name)

    def cut(self, name: str) -> None:
        """Cut a node off: what it sends is lost, and what is sent to it."""
        _ip(f"link set {self._namespaces[name]} down")

    def mend(self, name: str) -> None:
        """Let a node that was cut off reach the others again."""
        _ip(f"link set {self._namespaces[name]} up")

    def close(self) -> None:
        """Remove all namespaces, whose processes have ended, and the bridge."""
        for namespace in self._namespaces.values():
            with suppress(subprocess.CalledProcessError):
                _ip(f"netns delete {namespace}")
        _ip(f"link delete {self._prefix}")

    def _address(self, name: str) -> str:
        return f"{self._subnet}.{list(self._namespaces).index(name) + 2}"


def can_have_networks() -> bool:
    """Return whether this process may make networks."""
    try:
        NodeNetwork().close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)
