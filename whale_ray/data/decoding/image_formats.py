"""Recognition of image formats by content, and registration of their decoders."""

from __future__ import annotations

from functools import cache

from PIL import AvifImagePlugin

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "HEIF", "AVIF")
"""Accepted formats, by their names in Pillow."""
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "BMP": "bmp",
    "HEIF": "heic",
    "AVIF": "avif",
}
"""File extension of each format, without the dot."""
SIGNATURE_BYTES = 256  # of a file, enough for `recognize_format`
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AV1_BRANDS = {b"avif", b"avis"}
_ANY_CODEC_BRANDS = {b"mif1", b"msf1"}


def recognize_format(data: bytes) -> str | None:
    """Return the format that a file's first bytes announce, one of `FORMATS`; None if it is none of them.

    >>> recognize_format(bytes([0xFF, 0xD8, 0xFF, 0xE0]))
    'JPEG'
    """
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    return _format_of_brands(data) if data[4:8] == b"ftyp" else None


def _format_of_brands(data: bytes) -> str | None:
    """Return the format of an ISO base media file by the brands of its `ftyp` box."""
    box = data[8 : min(int.from_bytes(data[:4], "big"), SIGNATURE_BYTES)]
    major, brands = box[:4], {box[start : start + 4] for start in range(0, len(box), 4) if start != 4}
    if major in _HEVC_BRANDS:
        return "HEIF"
    if brands & _AV1_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEVC_BRANDS or major in _ANY_CODEC_BRANDS else None


@cache
def register_decoders() -> None:
    """Add HEIF to Pillow's formats and let HEIF and AVIF decode in one thread: photographs are decoded in parallel."""
    import pillow_heif  # loads a library that only decoding needs

    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
