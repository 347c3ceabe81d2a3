"""Files of a bundle: comparison with the hashes of bundle.json, files that hubs and desktops add, Git LFS pointers."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from whale_ray.errors import BundleError

# Added by Git, the Hugging Face Hub and its client, at the top of the folder only.
_REPOSITORY_FILES = frozenset({".cache", ".git", ".gitattributes", ".gitignore", ".huggingface"})
# Added by desktops, in any folder. macOS also writes `._NAME` beside NAME on foreign file systems.
_DESKTOP_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_APPLE_DOUBLE = "._"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder by its relative path; symbolic links to folders are not followed."""
    return {name: _sha256(folder / name) for name in _names(folder)}


def npy_bytes(array: np.ndarray) -> bytes:
    """Return the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Check that a folder holds exactly the listed files; files that hubs and desktops add are ignored.

    Args:
        folder: Folder of the bundle.
        expected: SHA-256 of every file but bundle.json, by relative path.

    Raises:
        BundleError: Naming each file that is missing, damaged or not listed, or every Git LFS pointer.
    """
    found = {name for name in _names(folder) if name in expected or not _is_added_by_others(name)} - {"bundle.json"}
    present = sorted(found & expected.keys())
    refuse_lfs_pointers(folder, present)
    faults = [f"{name} is missing" for name in sorted(expected.keys() - found)]
    faults += [f"{name} is not in its list" for name in sorted(found - expected.keys())]
    faults += [f"{name} is damaged" for name in present if _sha256(folder / name) != expected[name]]
    if faults:
        raise BundleError(
            f"every file of {folder} must match bundle.json, but " + "; ".join(faults) + ". Copy it again"
        )


def refuse_lfs_pointers(folder: Path, names: Iterable[str]) -> None:
    """Raise BundleError if files are Git LFS pointers, which Git leaves in place of large files without Git LFS.

    Args:
        folder: Folder of the bundle.
        names: Relative paths of existing files.
    """
    pointers = [name for name in names if _is_lfs_pointer(folder / name)]
    if pointers:
        shown = ", ".join(pointers[:3]) + (f" and {len(pointers) - 3} more" if len(pointers) > 3 else "")
        raise BundleError(
            f"{folder} must hold the files themselves, but Git LFS pointers are in place of {shown}. "
            "Run `git lfs pull` in that folder"
        )


def _names(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in _REPOSITORY_FILES]
        for name in files:
            path = Path(place, name)
            if path.is_file():
                yield path.relative_to(folder).as_posix()


def _is_added_by_others(name: str) -> bool:
    last = Path(name).name
    return name in _REPOSITORY_FILES or last.casefold() in _DESKTOP_FILES or last.startswith(_APPLE_DOUBLE)


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
