"""Sphinx configuration. `make docs` builds the pages with warnings as errors; the build needs no network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import generate  # noqa: E402

project = "whale_ray"
author = "The whale_ray authors"
copyright = "2026, The whale_ray authors"
release = version = generate.version()

extensions = ["generate", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
language = "en"
smartquotes = False  # `--data` stays as it is typed

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

suppress_warnings = ["ref.python"]  # several classes share a short name, such as Encoder
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_ivar = True  # autodoc lists the attributes already

html_theme = "furo"
html_title = "whale_ray"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"top_of_page_buttons": []}
html_show_sphinx = False
