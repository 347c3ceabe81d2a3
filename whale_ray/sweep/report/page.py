"""Writes report.html: one self-contained page, correct at every moment of a sweep.

Reads the run folder and the photographs that its sweep names. `SECTIONS` in `sections` lists what the page shows.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from whale_ray.atomic_files import write_atomically
from whale_ray.sweep.report.context import read_context
from whale_ray.sweep.report.plots.curves import show_value
from whale_ray.sweep.report.plots.svg import MARKERS
from whale_ray.sweep.report.sections import SECTIONS
from whale_ray.sweep.report.tables.headline import ABSENT, is_number, show_score
from whale_ray.sweep.report.tables.importance_table import show_points

if TYPE_CHECKING:
    from whale_ray.inference.predictor import Bundle

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    run: Path,
    *,
    live: bool = False,
    progress: bool = False,
    thorough: bool = False,
    say: Callable[[str], None] = lambda text: None,
    bundle: Bundle | None = None,
) -> Path:
    """Write report.html of a run folder from its present content and return its path.

    Args:
        run: The run folder.
        live: The sweep is running, so that the page reloads itself.
        progress: Show progress bars while photographs are compared.
        thorough: Use every photograph in the shortcut audit, without a limit of time, and keypoints in the review.
        say: Prints which step begins, of those that take a while.
        bundle: The best bundle of the run, if it is in memory already.

    Raises:
        InputError: If the folder is not that of a sweep.
    """
    context = read_context(run, live=live, progress=progress, thorough=thorough, bundle=bundle)
    environment = _environment()
    rendered = []
    for section in SECTIONS:
        if section.step:
            say(f"report: {section.step}")
        template = environment.get_template(f"{section.id}.html.j2")
        rendered.append(Markup(template.render(vars(section.build(context)), page=context)))
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    page = environment.get_template("report.html.j2")
    text = page.render(page=context, sections=SECTIONS, rendered=rendered, written=written, **_assets())
    write_atomically(run / "report.html", text)
    return run / "report.html"


@functools.cache  # compiling the templates takes longer than filling them
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": show_score, "seconds": _show_seconds, "points": show_points}
    environment.filters |= {"setting": show_value, "percent_css": _css_percent}
    environment.globals |= {"markers": MARKERS}
    return environment


def _assets() -> dict[str, str]:
    """Return style and script of the page, and the hash that allows this script and no other."""
    script = (_TEMPLATES / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": (_TEMPLATES / "report.css").read_text(), "script": script, "script_hash": digest}


def _css_percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _show_seconds(value: Any) -> str:
    """Return a duration in words.

    >>> _show_seconds(42.1), _show_seconds(200), _show_seconds(8000)
    ('42 s', '3 min 20 s', '2 h 13 min')
    """
    if not is_number(value):
        return ABSENT
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
