"""Explains missing image files by files that exist under nearly the same name, and names what mends them all."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

_Form = Literal["NFC", "NFD"]
_MOST_REMEDIES = 3
_MAIN_SHARE = 0.9  # of the missing files: a remedy that mends so many is named rather than a more general one
_CASE = "write capital and small letters as the files have them"
_FORMS: tuple[tuple[_Form, _Form], ...] = (("NFC", "NFD"), ("NFD", "NFC"))
_MOST_FILES = 500_000
_ANY_FOLDER = "write the folder of each file, below the image folder, before its name in the image column"
_IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif", ".avif", ".gif"),
    *(".nef", ".dng", ".cr2", ".mpo"),
}


@dataclass(frozen=True)
class _Near:
    """A missing name, the path of the file that it nearly names, and remedies, each of which fits more names."""

    name: str
    path: Path
    remedies: tuple[str, ...]


def explain_missing_files(names: Sequence[str], folder: Path, *, root: Path | None = None) -> list[str]:
    """Return one line for each remedy: how many names it mends, an example, and the setting or edit.

    Args:
        names: Names of missing files, relative to `folder`.
        folder: Image folder of the data set.
        root: Folder of the data set, which is searched too; None: the parent of `folder`.
    """
    root = folder.parent if root is None else root
    found = _near_files(names, folder, root)
    if not found:
        return [_describe_folder(folder, len(names))]
    counted = [Counter(near.remedies[step] for near in found) for step in range(len(found[0].remedies))]
    shares = [remedies.most_common(1)[0][1] / len(found) for remedies in counted]
    step = next((step for step, share in enumerate(shares) if share >= _MAIN_SHARE), shares.index(max(shares)))
    main = [remedy for remedy, _ in counted[step].most_common(_MOST_REMEDIES)]
    lines = [
        _line(remedy, [near for near in found if near.remedies[step] == remedy], len(names), root) for remedy in main
    ]
    unlike = len(names) - len(found)
    return [*lines, f"{unlike} missing files have no near name"] if unlike else lines


def _line(remedy: str, mended: Sequence[_Near], count: int, root: Path) -> str:
    share = f"all {count}" if len(mended) == count else f"{len(mended)} of {count}"
    example = f"{mended[0].name} at {os.path.relpath(mended[0].path, root)}"
    return f"{share} missing files are there under another name, as {example}: {remedy}"


def _describe_folder(folder: Path, count: int) -> str:
    held = _files_below(folder)
    if not held:
        return f"{folder} holds no file: copy the photographs there, or name their folder with data.image_folder"
    return (
        f"{folder} holds {len(held)} files, such as {os.path.relpath(held[0], folder)}, but none with a name like the "
        f"{count} missing ones: compare the names with the image column"
    )


def _near_files(names: Sequence[str], folder: Path, root: Path) -> list[_Near]:
    """Return the nearest file of each name that has one; the whole data set is searched if the folder lacks some."""
    paths = _files_below(folder)
    index = _index(paths)
    found = [_nearest(name, index, folder, root) for name in names]
    if None in found:
        index = _index(dict.fromkeys([*paths, *_files_below(root)]))
        found = [near or _nearest(name, index, folder, root) for name, near in zip(names, found, strict=True)]
    return [near for near in found if near is not None]


def _files_below(folder: Path) -> list[str]:
    """Return the paths of the files below a folder, without hidden folders."""
    paths: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        paths += [os.path.join(place, file) for file in sorted(files)]
        if len(paths) > _MOST_FILES:
            break
    return paths


def _index(paths: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the paths by the key of their name."""
    index: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        index[_key(os.path.basename(path))].append(path)
    return index


def _key(file: str) -> str:
    """Return what near names share: no ending of an image, case, Unicode form, blanks, signs or zeros at the start."""
    stem = unicodedata.normalize("NFKC", unquote(file)).casefold().strip()
    while (parts := os.path.splitext(stem))[1] in _IMAGE_ENDINGS:
        stem = parts[0]
    return re.sub(r"^0+(?=\d+$)", "", _without_signs(stem) or stem)


def _nearest(name: str, index: Mapping[str, list[str]], folder: Path, root: Path) -> _Near | None:
    given = PurePosixPath(_slashes(name))
    paths = index.get(_key(given.name), [])
    paths = [path for path in paths if _is_image(path)] or paths
    if not paths:
        return None
    wanted = given.parts[:-1]
    path = Path(max(paths, key=lambda path: _shared_end(PurePosixPath(path).parts[:-1], wanted)))  # the first of equals
    moved, anywhere = _moves(given, path, folder, root)
    edits, in_general = _edits(name, given, path), _edits(name, given, path, any_ending=True)
    steps = ((moved, edits), (moved, in_general), (anywhere, in_general))
    remedies = (", and ".join(part for part in parts if part) for parts in steps)
    same = "compare both names sign by sign"
    return _Near(name, path, tuple(remedy or same for remedy in remedies))


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].casefold() in _IMAGE_ENDINGS


def _shared_end(parts: Sequence[str], wanted: Sequence[str]) -> int:
    """Return how many of the last folders two paths share."""
    pairs = zip(reversed(parts), reversed(wanted), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].casefold() == pair[1].casefold(), pairs))


def _slashes(name: str) -> str:
    """Return the name with slashes between folders, without a drive or a start at this folder or the top one."""
    return re.sub(r"^(?:[A-Za-z]:)?/+|^(?:\./)+", "", name.replace("\\", "/"))


def _edits(name: str, given: PurePosixPath, path: Path, *, any_ending: bool = False) -> str:
    """Return the edit of the image column that gives the file its name; "" if only the folder is another.

    With `any_ending` it names no ending, so that it also fits names with other ones.
    """
    edits = [
        *(["write / for \\"] if "\\" in name else []),
        *(["leave out the start of absolute paths"] if re.match(r"/|[A-Za-z]:", name) else []),
        *(_any_file_edit if any_ending else _file_edits)(given.name, path.name),
    ]
    return f"{' and '.join(edits)} in the image column" if edits else ""


def _moves(given: PurePosixPath, path: Path, folder: Path, root: Path) -> tuple[str, str]:
    """Return the setting or edit that finds the folder of a file, and one that fits files of several folders."""
    corrected = (given.parent / path.name).parts
    if path.parts[-len(corrected) :] == corrected:
        base = Path(*path.parts[: -len(corrected)])
        if base == folder:
            return "", ""
        moved = f"add --set {shlex.quote(f'data.image_folder={os.path.relpath(base, root)}')}"
        return moved, moved if given.parent.parts else _ANY_FOLDER
    there, without = os.path.relpath(path.parent, folder), given.parent == PurePosixPath(".")
    if there == ".":
        return f"leave out {given.parent}/ in the image column", _ANY_FOLDER
    instead = "before each name" if without else f"instead of {given.parent}/"
    return f"write {there}/ {instead} in the image column", _ANY_FOLDER


def _without_signs(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name)


def _any_file_edit(given: str, found: str) -> list[str]:
    """Return the edit of a file name that names no ending."""
    if given == found:
        return []
    if given.casefold() == found.casefold():
        return [_CASE]
    stem = os.path.splitext(found)[0]
    return (
        ["write the ending of each file"] if {given, os.path.splitext(given)[0]} & {stem} else _file_edits(given, found)
    )


def _file_edits(given: str, found: str) -> list[str]:
    if given == found:
        return []
    ending = os.path.splitext(found)[1]
    if given + ending == found:
        return [f"append {ending} to each name"]
    stem, written = os.path.splitext(given)
    if stem + ending == found:
        return [f"write {ending} for {written}"]
    for form, other in _FORMS:
        if unicodedata.normalize(form, given) == found:
            return [f"write accents in the Unicode form {form}, as the files have them, not in {other}"]
    if given.casefold() == found.casefold():
        return [_CASE]
    if unquote(given) == found:
        return ["write characters as they are, where the names have them as in a URL, as %20 for a blank"]
    if _without_signs(given) == _without_signs(found):
        return ["write blanks, hyphens and underscores as the files have them"]
    if given.lstrip("0") == found.lstrip("0"):
        return ["write the zeros at the start of the name, which a spreadsheet has left out"]
    return ["write each name as its file has it"]
