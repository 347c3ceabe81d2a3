"""Small plots as SVG text: curves, rows of dots and scatter plots, colored by CSS classes of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from whale_ray.sweep.report.plots.scale import Scale

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 44
ROW_HEIGHT = 40
LABEL_WIDTH = 168
_LETTERS = 21

# Shapes around (0, 0), so that curves can be distinguished without color.
MARKERS = {
    "c0": "M0-4.2A4.2 4.2 0 1 1 0 4.2A4.2 4.2 0 1 1 0-4.2Z",
    "c1": "M-3.6-3.6H3.6V3.6H-3.6Z",
    "c2": "M0-5L5 0L0 5L-5 0Z",
    "c3": "M0-5L4.8 3.6H-4.8Z",
    "c4": "M0 5L4.8-3.6H-4.8Z",
}


@dataclass(frozen=True)
class Curve:
    """Points joined by a line. look: c0 … c4, base, limit or faint. band: low and high at each point."""

    name: str
    look: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float], ...] = ()


def plot_curves(curves: Sequence[Curve], *, x: Scale, y: Scale, alt: str) -> Markup:
    """Return an SVG with curves, the first one on top.

    Args:
        curves: The curves.
        x: Horizontal scale.
        y: Vertical scale.
        alt: Text alternative.
    """
    frame = _Frame(x, y, WIDTH, HEIGHT, LEFT)
    drawn = [part for curve in reversed(curves) for part in _curve(curve, frame)]
    return frame.svg(alt, [*frame.vertical_axis(), *frame.horizontal_axis(), *drawn])


def _curve(curve: Curve, frame: _Frame) -> Iterable[Markup]:
    if curve.band:
        outline = [(at, high) for (at, _), (_, high) in zip(curve.points, curve.band, strict=True)]
        outline += [(at, low) for (at, _), (low, _) in reversed(list(zip(curve.points, curve.band, strict=True)))]
        yield Markup('<path class="band {}" d="{}Z"/>').format(curve.look, frame.path(outline))
    yield Markup('<path class="line {}" d="{}"><title>{}</title></path>').format(
        curve.look, frame.path(curve.points), curve.name
    )
    if curve.look in MARKERS or len(curve.points) == 1:
        yield from (
            frame.marker(curve.look, *point, label=f"{curve.name}: {y}") for point, y in _point_labels(curve, frame)
        )


def _point_labels(curve: Curve, frame: _Frame) -> Iterable[tuple[tuple[float, float], str]]:
    return ((point, f"{frame.y.text(point[1])} at {frame.x.text(point[0])}") for point in curve.points)


@dataclass(frozen=True)
class Row:
    """Dots of one category, with a name per dot. Of many dots every `stride`-th is drawn; mean and count are of all."""

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...]
    stride: int = 1


def plot_rows(rows: Sequence[Row], *, x: Scale, alt: str) -> Markup:
    """Return an SVG with one row of dots per category and a bar at the mean.

    Args:
        rows: The rows.
        x: Horizontal scale.
        alt: Text alternative.
    """
    height = TOP + BOTTOM + ROW_HEIGHT * len(rows)
    frame = _Frame(x, Scale(len(rows), 0, ""), WIDTH, height, LABEL_WIDTH)
    drawn = [part for place, row in enumerate(rows) for part in _row(row, place, frame)]
    return frame.svg(alt, [*frame.horizontal_axis(), *drawn])


def _row(row: Row, place: int, frame: _Frame) -> Iterable[Markup]:
    mean = sum(row.values) / len(row.values)
    middle = place + 0.5
    _, down = frame.at(frame.x.low, middle)
    count = f"mean {frame.x.text(mean)}, n = {len(row.values)}"
    yield Markup('<text class="value" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
        LABEL_WIDTH - 10, down - 2, _short(row.label)
    )
    yield Markup('<text class="note" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
        LABEL_WIDTH - 10, down + 12, count
    )
    dots = zip(row.values[:: row.stride], row.names[:: row.stride], strict=True)
    for number, (value, name) in enumerate(dots):
        spread = 0.22 * ((number * 0.618) % 1.0 - 0.5) if len(row.values) > 1 else 0.0
        yield frame.marker("dot", value, middle + spread, label=f"{name}: {frame.x.text(value)}")
    across, _ = frame.at(mean, middle)
    yield Markup('<path class="mean" d="M{:.1f} {:.1f}v22"/>').format(across, down - 11)


def _short(label: str) -> str:
    """Return a label shortened to fit beside a row: its last part, with the middle removed.

    >>> _short("hf:google/vit-base-patch16-224")
    'vit-base-patch16-224'
    """
    label = label if len(label) <= _LETTERS else label.rpartition("/")[2]
    return label if len(label) <= _LETTERS else f"{label[:8]}…{label[9 - _LETTERS :]}"


def plot_dots(dots: Row, places: Sequence[float], *, x: Scale, y: Scale, alt: str) -> Markup:
    """Return an SVG scatter plot.

    Args:
        dots: The values and names.
        places: Horizontal position of each dot.
        x: Horizontal scale.
        y: Vertical scale.
        alt: Text alternative.
    """
    frame = _Frame(x, y, WIDTH, HEIGHT, LEFT)
    marks = [
        frame.marker("dot", place, value, label=f"{name}: {y.text(value)} at {x.text(place)}")
        for place, value, name in zip(places, dots.values, dots.names, strict=True)
    ]
    return frame.svg(alt, [*frame.vertical_axis(), *frame.horizontal_axis(), *marks])


@dataclass(frozen=True)
class _Frame:
    """The rectangle of a plot and its mapping from values to SVG units."""

    x: Scale
    y: Scale
    width: int
    height: int
    left: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the position of a point in SVG units.

        Args:
            x: Value on the horizontal axis.
            y: Value on the vertical axis.
        """
        across = self.left + self.x.share(x) * (self.width - self.left - RIGHT)
        return across, self.height - BOTTOM - self.y.share(y) * (self.height - TOP - BOTTOM)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Return an SVG path through the points."""
        return "M" + "L".join("{:.1f} {:.1f}".format(*self.at(*point)) for point in points)

    def marker(self, look: str, x: float, y: float, *, label: str) -> Markup:
        """Return the marker of a point with its tooltip.

        Args:
            look: CSS class, a key of `MARKERS`; others get the marker of `c0`.
            x: Value on the horizontal axis.
            y: Value on the vertical axis.
            label: Text of the tooltip.
        """
        across, down = self.at(x, y)
        return Markup(
            '<path class="mark {}" transform="translate({:.1f} {:.1f})" d="{}"><title>{}</title></path>'
        ).format(look, across, down, MARKERS.get(look, MARKERS["c0"]), label)

    def horizontal_axis(self) -> Iterable[Markup]:
        """Grid lines, numbers and name of x."""
        bottom = self.height - BOTTOM
        for value, text in self.x.ticks():
            across, _ = self.at(value, self.y.low)
            yield Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(across, TOP, bottom)
            yield Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(across, bottom + 16, text)
        middle = (self.left + self.width - RIGHT) / 2
        yield Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            middle, self.height - 8, self.x.label
        )

    def vertical_axis(self) -> Iterable[Markup]:
        """Grid lines and numbers of y."""
        for value, text in self.y.ticks():
            _, down = self.at(self.x.low, value)
            yield Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(self.left, down, self.width - RIGHT)
            yield Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(self.left - 7, down + 4, text)

    def svg(self, alt: str, parts: Iterable[Markup]) -> Markup:
        """Return the whole SVG.

        Args:
            alt: Text alternative for screen readers.
            parts: Elements in drawing order.
        """
        inside = Markup("").join(parts)
        return Markup('<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
            alt, self.width, self.height, inside
        )
