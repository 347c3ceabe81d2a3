"""Registry of the networks of a process: kind of local features by their files, and networks by kind.

The kind of a keypoint network names its descriptors and its file: `onnx128-3f9a12bc` has 128 values and a file whose
SHA-256 begins with these digits. With a match network, the digits of its file follow: `onnx128-3f9a12bc+51e07d24`.
Bundles, caches and databases keep the kind; a process that extracts or matches features registers the files first.
"""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

from whale_ray.errors import InputError
from whale_ray.file_errors import real_path
from whale_ray.retrieval.local.learned.keypoint_network import KeypointNetwork
from whale_ray.retrieval.local.learned.match_network import MatchNetwork

_DIGITS = 8  # of the hash in a kind: it fits into the database of enrolments
_SEPARATOR = re.compile(r"(?<=\.onnx)\+")
_networks: dict[str, tuple[Path, KeypointNetwork]] = {}
_matchers: dict[str, tuple[Path, MatchNetwork]] = {}
_kinds: dict[tuple[str, ...], str] = {}
_lock = threading.Lock()


def network_files(local: str) -> list[Path]:
    """Return the ONNX files that a retrieval setting names: that of a keypoint network, and of a match network.

    >>> network_files("weights/disk.onnx+weights/disk_lightglue.onnx")
    [PosixPath('weights/disk.onnx'), PosixPath('weights/disk_lightglue.onnx')]
    """
    return [Path(name) for name in _SEPARATOR.split(local)] if local.endswith(".onnx") else []


def kind_of(local: str) -> str:
    """Return the kind of local features of a retrieval setting; ONNX files are opened and registered.

    Args:
        local: `none`, `sift`, `orb`, a kind, the path of an ONNX file, or two such paths with a plus sign between them.

    Raises:
        InputError: If a file is no keypoint network or match network, or ONNX Runtime is missing.
    """
    files = network_files(local)
    if len(files) > 2:
        raise InputError(f"local names a keypoint network and a match network, but got {local!r}. Name two files")
    return register_network(*files) if files else local


def features_kind(kind: str) -> str:
    """Return the kind of the features alone: the same with any match network.

    >>> features_kind("onnx128-3f9a12bc+51e07d24"), features_kind("sift")
    ('onnx128-3f9a12bc', 'sift')
    """
    return kind.partition("+")[0]


def register_network(path: Path, matcher: Path | None = None) -> str:
    """Return the kind of a keypoint network; from now on `network_of` and `matcher_of` return the networks.

    Args:
        path: ONNX file of the keypoint network.
        matcher: ONNX file of the network that matches its keypoints; None without.

    Raises:
        InputError: If a file is no such network, or ONNX Runtime is missing.
    """
    digests = tuple(_digest(one) for one in (path, matcher) if one is not None)
    with _lock:
        if digests[:1] not in _kinds:
            network = KeypointNetwork(path)
            kind = f"onnx{network.size}-{digests[0]}"
            _networks[kind], _kinds[digests[:1]] = (real_path(path), network), kind
        if matcher is not None and digests not in _kinds:
            size = _networks[_kinds[digests[:1]]][1].size
            kind = f"{_kinds[digests[:1]]}+{digests[1]}"
            opened = MatchNetwork(matcher, size=size, name=str(matcher), digest=digests[1])
            _matchers[kind], _kinds[digests] = (real_path(matcher), opened), kind
        return _kinds[digests]


def network_of(kind: str) -> KeypointNetwork:
    """Return the registered keypoint network of a kind.

    Raises:
        InputError: If it is not registered in this process.
    """
    return _registered(kind)[1]


def network_file(kind: str) -> Path:
    """Return the ONNX file of a registered keypoint network.

    Raises:
        InputError: If it is not registered in this process.
    """
    return _registered(kind)[0]


def matcher_of(kind: str) -> MatchNetwork | None:
    """Return the registered match network of a kind; None if the kind has none.

    Raises:
        InputError: If it is not registered in this process.
    """
    registered = _registered_matcher(kind)
    return registered and registered[1]


def matcher_file(kind: str) -> Path | None:
    """Return the ONNX file of the registered match network of a kind; None if the kind has none.

    Raises:
        InputError: If it is not registered in this process.
    """
    registered = _registered_matcher(kind)
    return registered and registered[0]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] if path.is_file() else ""


def _registered(kind: str) -> tuple[Path, KeypointNetwork]:
    if (features := features_kind(kind)) not in _networks:
        raise InputError(f"keypoints {kind} need the network that finds them, but it is not open. Name its ONNX file")
    return _networks[features]


def _registered_matcher(kind: str) -> tuple[Path, MatchNetwork] | None:
    if "+" in kind and kind not in _matchers:
        raise InputError(f"keypoints {kind} need the network that matches them, but it is not open. Name its ONNX file")
    return _matchers.get(kind)
