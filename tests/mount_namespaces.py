"""Tells whether processes of this machine can have mounts of their own, as the nodes of some benchmarks have."""

from __future__ import annotations

import subprocess


def has_namespaces() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "--map-root-user", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False
