"""TIFF files: selection of the full-resolution page, and refusal of number formats that Pillow decodes wrongly.

Tags and values are those of TIFF 6.0 and of Adobe's TIFF/EP and DNG specifications.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from whale_ray.errors import ImageDecodeError, ImageError, ImageTypeError

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
WHITE_IS_ZERO = 0
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _COMPRESSION = 254, 255, 259
_SAMPLES_PER_PIXEL, _PLANAR, _SUB_IFDS, _SAMPLE_FORMAT = 277, 284, 330, 339
_REDUCED_OR_MASK, _OLD_REDUCED = 1 | 4, 2
_SENSOR_DATA = {32803, 34892}  # color filter array, linear raw
_UNSIGNED, _FLOAT = 1, 3
_NUMBERS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}
_MAX_PAGES = 256
_REMEDY = "Export it as JPEG or PNG, or as TIFF of 8 or 16 bits per channel"

Tags = Mapping[int, Any]


def select_full_page(data: bytes) -> bytes:
    """Return a TIFF file whose first page is its first full-resolution page; unchanged if it already is.

    Camera files (NEF, DNG) and pyramids begin with a reduced preview. Pages are searched in the main chain first and
    then among the sub-pages (SubIFDs).

    Args:
        data: The file.

    Raises:
        ImageTypeError: If all full-resolution pages hold sensor data, if there are only previews, or if the page has a
            number format that is not supported.
    """
    pages = []
    for offset, tags in _iterate_pages(data):
        pages.append(tags)
        if _is_full(tags) and _first(tags, PHOTOMETRIC) not in _SENSOR_DATA:
            _check_number_format(tags)
            return data if len(pages) == 1 else _with_first_page(data, offset)
    if any(_is_full(tags) for tags in pages):
        raise ImageTypeError(f"a picture holds developed colors, but this file holds camera sensor data. {_REMEDY}")
    if len(pages) > 1:
        raise ImageTypeError(
            f"a TIFF file must have a full-resolution page, but all {len(pages)} pages are reduced previews or masks. "
            f"{_REMEDY}"
        )
    if pages:
        _check_number_format(pages[0])
    return data


def unreadable_page(data: bytes) -> ImageError:
    """Return the error for a TIFF file that Pillow does not open: an unsupported number format, or damage."""
    for _, tags in _iterate_pages(data):
        return _unsupported_number_format(tags)
    return ImageDecodeError("the TIFF picture is damaged: its directory of pages cannot be read. Copy or save it again")


def _iterate_pages(data: bytes) -> Iterator[tuple[int, Tags]]:
    """Yield offset and tags of each page: the main chain, then the sub-pages of all of its pages."""
    header = data[:16] if 43 in data[2:4] else data[:8]
    stream = io.BytesIO(data)
    seen: set[int] = set()
    sub_pages: list[int] = []
    try:
        offset = ImageFileDirectory_v2(header).next
        while offset and offset not in seen and len(seen) < _MAX_PAGES:
            seen.add(offset)
            tags = _read_tags(stream, header, offset)
            sub_pages += [place for place in _values(tags, _SUB_IFDS) if isinstance(place, int)]
            yield offset, tags
            offset = tags.next
        for place in sub_pages[: _MAX_PAGES - len(seen)]:
            if place not in seen:
                seen.add(place)
                yield place, _read_tags(stream, header, place)
    except ImageTypeError:
        raise
    except Exception:  # a damaged directory: Pillow's own reader says how
        return


def _read_tags(stream: io.BytesIO, header: bytes, offset: int) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(header)
    stream.seek(offset)
    tags.load(stream)
    return tags


def _with_first_page(data: bytes, offset: int) -> bytes:
    """Return the file with the offset of its first page replaced."""
    start, size = (8, 8) if 43 in data[2:4] else (4, 4)
    link = offset.to_bytes(size, "little" if data[:2] == b"II" else "big")
    return data[:start] + link + data[start + size :]


def _values(tags: Tags, tag: int) -> tuple[Any, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _first(tags: Tags, tag: int, default: int = 0) -> int:
    value = (*_values(tags, tag), default)[0]
    return value if isinstance(value, int) else default


def _is_full(tags: Tags) -> bool:
    is_reduced = _first(tags, _NEW_SUBFILE_TYPE) & _REDUCED_OR_MASK or _first(tags, _SUBFILE_TYPE) == _OLD_REDUCED
    return not is_reduced


def _check_number_format(tags: Tags) -> None:
    """Raise ImageTypeError for pages that Pillow opens but decodes to wrong pixels."""
    formats, bits = set(_values(tags, _SAMPLE_FORMAT)) or {_UNSIGNED}, set(_values(tags, BITS_PER_SAMPLE))
    channels = _first(tags, _SAMPLES_PER_PIXEL, 1)
    is_supported_float = formats == {_FLOAT} and bits == {32} and channels == 1
    is_planar_16_bit = (
        channels > 1 and bits == {16} and _first(tags, _PLANAR, 1) == 2 and _first(tags, _COMPRESSION, 1) == 1
    )
    if is_planar_16_bit or not (formats == {_UNSIGNED} or is_supported_float):
        raise _unsupported_number_format(tags)


def _unsupported_number_format(tags: Tags) -> ImageTypeError:
    return ImageTypeError(
        "a TIFF file must hold unsigned integers of 1 to 16 bits, or grey of 32 bits, but this one holds "
        f"{_describe(tags)}. {_REMEDY}"
    )


def _describe(tags: Tags) -> str:
    bits = sorted(set(_values(tags, BITS_PER_SAMPLE))) or [1]
    kind = _NUMBERS.get(_first(tags, _SAMPLE_FORMAT, 1), "numbers of an unknown format")
    channels = _first(tags, _SAMPLES_PER_PIXEL, 1)
    planes = " in separate planes" if channels > 1 and _first(tags, _PLANAR, 1) == 2 else ""
    return (
        f"{kind} of {' and '.join(map(str, bits))} bits in {channels} channel{'s' if channels != 1 else ''}{planes} "
        f"(photometric interpretation {_first(tags, PHOTOMETRIC)})"
    )
