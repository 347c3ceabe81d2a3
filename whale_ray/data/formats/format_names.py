"""Names of the data set formats. Imports nothing, so that a sweep file is checked without reading tables."""

from typing import Final

AUTO: Final = "auto"
FORMAT_NAMES: Final = ("kaggle", "wildlife", "coco", "folders")
"""The keys of `registry.FORMATS`, in the order in which `auto` looks for them."""
