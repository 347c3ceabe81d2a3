"""Image files of a folder and its sub-folders, recognised by content."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from whale_ray.data.decoding.image_formats import FORMATS, SIGNATURE_BYTES, recognize_format
from whale_ray.errors import DataError

_JPEG, _TIFF, _HEIF = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}, {".tif", ".tiff"}, {".heic", ".heif", ".hif"}
_EXTENSIONS = _JPEG | _TIFF | _HEIF | {".png", ".webp", ".bmp", ".gif", ".avif"}


@dataclass(frozen=True)
class ImageFiles:
    """The files of a folder.

    Attributes:
        images: Paths below the folder, sorted: files whose content is an image, and files that are named like one.
        others: Reason by path below the folder, of every other file and of folders that were not searched.
    """

    images: tuple[str, ...]
    others: dict[str, str]


def find_images(folder: Path) -> ImageFiles:
    """Return the image files of a folder and its sub-folders. Links to folders are not followed.

    A file that is named like an image counts as one whatever it holds, so that a damaged photograph is reported as
    such. Hidden files count by their content alone.

    Raises:
        DataError: If the folder does not exist or has no image.
    """
    if not folder.is_dir():
        raise DataError(f"photographs must lie in a folder, but {folder} is none. Name the folder")
    images, others = [], {}
    for name, reason in _iterate_files(folder):
        if reason:
            others[name] = reason
        else:
            images.append(name)
    if not images:
        raise DataError(
            f"{folder} must hold photographs ({', '.join(FORMATS)}), but {_count(others)}. Name another folder"
        )
    return ImageFiles(tuple(sorted(images)), dict(sorted(others.items())))


def holds_image(folder: Path) -> bool:
    """Return whether the folder or one of its sub-folders has an image file; stops at the first."""
    return any(not reason for _, reason in _iterate_files(folder))


def _count(others: dict[str, str]) -> str:
    if not others:
        return "it is empty"
    first = next(iter(sorted(others.items())))
    return f"none of its {len(others)} files is one ({first[0]}: {first[1]})"


def _iterate_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each file below the folder with the reason why it is no image, "" for images."""
    unreadable: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        below = PurePosixPath(os.path.relpath(parent, folder))
        for name in sorted(folders):
            if (Path(parent) / name).is_symlink():
                yield str(below / name), "a link to a folder, which is not followed"
        for name in sorted(files):
            yield str(below / name), _why_no_image(Path(parent) / name)
    for error in unreadable:
        yield os.path.relpath(str(error.filename), folder), f"the folder cannot be read: {error.strerror}"


def _why_no_image(path: Path) -> str:
    """Return the reason why a file is no image; "" for an image and for a file that is named like one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    if path.suffix.lower() in _EXTENSIONS and not path.name.startswith("."):
        return "" if not path.exists() or stat.S_ISREG(path.stat().st_mode) else "not a regular file"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        with path.open("rb") as stream:
            data = stream.read(SIGNATURE_BYTES)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not data:
        return "the file is empty"
    return "" if recognize_format(data) else f"the content is none of {', '.join(FORMATS)}"
