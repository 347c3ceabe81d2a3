"""Date of a photograph in its EXIF data."""

from __future__ import annotations

import io

import pandas as pd
from PIL import ExifTags, Image

from whale_ray.data.decoding.decoder_warnings import collect_warnings
from whale_ray.data.decoding.image_formats import recognize_format, register_decoders
from whale_ray.data.encounters.photo_dates import parse_dates

_TAGS = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized)


def read_exif_date(data: bytes) -> str:
    """Return when a photograph was taken as ISO 8601 text, from DateTimeOriginal; "" if its EXIF data does not say.

    DateTime, the time of the last change, is not used.
    """
    kind = recognize_format(data)
    if kind is None:
        return ""
    register_decoders()
    try:
        with collect_warnings(), Image.open(io.BytesIO(data), formats=(kind,)) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
    except Exception:  # damaged EXIF raises struct.error, SyntaxError and more
        return ""
    texts = [str(tags[tag]).replace("\0", " ") for tag in _TAGS if tag in tags]
    if not texts:
        return ""  # most often; pandas takes longer than the decoder
    return next((date for date in parse_dates(pd.Series(texts, dtype=object)).dates if date), "")
