"""A small TIFF writer for number formats and page layouts that Pillow does not write."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Page:
    """Pixels, shape (H, W) or (H, W, C); further tags, name of the struct type and values by number; sub-pages."""

    pixels: np.ndarray
    tags: Mapping[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    sub_pages: Sequence[Page] = ()


def write_tiff(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """The bytes of an uncompressed TIFF file (BigTIFF with `big`) in byte order `<` or `>`."""
    writer = _Writer(order, big)
    place = writer.first
    for page in pages:
        place = writer.add(page, place)
    return bytes(writer.data)


class _Writer:
    def __init__(self, order: str, big: bool) -> None:
        self.order, self.offset = order, "Q" if big else "I"
        mark = b"II" if order == "<" else b"MM"
        head = (43, 8, 0) if big else (42,)
        self.data = bytearray(mark + struct.pack(f"{order}{len(head)}H", *head) + bytes(struct.calcsize(self.offset)))
        self.first = len(self.data) - struct.calcsize(self.offset)

    def add(self, page: Page, link: int) -> int:
        """Append a page, write its offset at `link`, and return the place of its own link."""
        pixels = page.pixels
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        strip = self._append(pixels.astype(pixels.dtype.newbyteorder(self.order)).tobytes())
        kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
        tags = {
            256: ("I", (pixels.shape[1],)),
            257: ("I", (pixels.shape[0],)),
            258: ("H", (8 * pixels.dtype.itemsize,) * channels),
            259: ("H", (1,)),
            262: ("H", (1 if channels == 1 else 2,)),
            273: (self.offset, (strip,)),
            277: ("H", (channels,)),
            278: ("I", (pixels.shape[0],)),
            279: ("I", (pixels.nbytes,)),
            339: ("H", (kind,) * channels),
        } | dict(page.tags)
        links = []
        if page.sub_pages:
            tags[330] = (self.offset, (0,) * len(page.sub_pages))
        written = {}
        for number, (code, values) in sorted(tags.items()):
            body = struct.pack(f"{self.order}{len(values)}{code}", *values)
            size = struct.calcsize(self.offset)
            if number == 330:
                start = self._append(body) if len(body) > size else None
                links = [start] if start is None else [start + size * place for place in range(len(values))]
            elif len(body) > size:
                start = self._append(body)
            else:
                start = None
            written[number] = (code, len(values), body, start)
        own = len(self.data)
        self.data[link : link + struct.calcsize(self.offset)] = struct.pack(self.order + self.offset, own)
        types = {"H": 3, "I": 4, "Q": 16}
        count = "Q" if self.offset == "Q" else "H"
        self.data += struct.pack(self.order + count, len(written))
        for number, (code, values_count, body, start) in written.items():
            self.data += struct.pack(f"{self.order}HH{self.offset}", number, types[code], values_count)
            if start is None and number == 330:
                links = [len(self.data)]
            size = struct.calcsize(self.offset)
            self.data += body.ljust(size, b"\0") if start is None else struct.pack(self.order + self.offset, start)
        following = len(self.data)
        self.data += bytes(struct.calcsize(self.offset))
        for sub_page, place in zip(page.sub_pages, links, strict=True):
            self.add(sub_page, place)
        return following

    def _append(self, body: bytes) -> int:
        self.data += bytes(len(self.data) % 2)
        start = len(self.data)
        self.data += body
        return start
