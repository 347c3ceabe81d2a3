"""Registry of the keypoint networks of a process: kind of local features by file, and network by kind.

The kind of a network names its descriptors and its file: `onnx128-3f9a12bc` has 128 values and a file whose SHA-256
begins with these digits. Bundles, caches and databases keep the kind; a process that extracts features registers the
file first.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from whale_ray.errors import InputError
from whale_ray.retrieval.local.learned.keypoint_network import KeypointNetwork

_DIGITS = 8  # of the hash in a kind: it fits into the database of enrolments
_networks: dict[str, tuple[Path, KeypointNetwork]] = {}
_kinds: dict[str, str] = {}
_lock = threading.Lock()


def kind_of(local: str) -> str:
    """Return the kind of local features of a retrieval setting; an ONNX file is opened and registered.

    Args:
        local: `none`, `sift`, `orb`, a kind, or the path of an ONNX file.

    Raises:
        InputError: If the file is no keypoint network, or ONNX Runtime is missing.
    """
    return register_network(Path(local)) if local.endswith(".onnx") else local


def register_network(path: Path) -> str:
    """Return the kind of the keypoint network in an ONNX file; from now on `network_of` returns the network.

    Raises:
        InputError: If the file is no keypoint network, or ONNX Runtime is missing.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    with _lock:
        if digest not in _kinds:
            network = KeypointNetwork(path)
            kind = f"onnx{network.size}-{digest[:_DIGITS]}"
            _networks[kind], _kinds[digest] = (path.resolve(), network), kind
        return _kinds[digest]


def network_of(kind: str) -> KeypointNetwork:
    """Return the registered network of a kind.

    Raises:
        InputError: If it is not registered in this process.
    """
    return _registered(kind)[1]


def network_file(kind: str) -> Path:
    """Return the ONNX file of a registered kind.

    Raises:
        InputError: If it is not registered in this process.
    """
    return _registered(kind)[0]


def _registered(kind: str) -> tuple[Path, KeypointNetwork]:
    if kind not in _networks:
        raise InputError(f"keypoints {kind} need the network that finds them, but it is not open. Name its ONNX file")
    return _networks[kind]
