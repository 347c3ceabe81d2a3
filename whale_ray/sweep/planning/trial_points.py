"""Points of a sweep's search space, and the settings of its trials and baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from whale_ray.data.image_io import Geometry
from whale_ray.retrieval.search.retrieval_settings import RetrievalSetting, distinct_settings
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.screening_design import screen
from whale_ray.sweep.config.sweep_spec import Sweep
from whale_ray.sweep.config.value_kinds import image_size
from whale_ray.sweep.planning.dataset import geometry_of

if TYPE_CHECKING:
    from whale_ray.learning.encoders.registry import Encoder

# First words of the label of a trial that is not part of the search.
LEADING = {
    "baseline": ("baseline, frozen",),
    "repeat": ("with another seed",),
    "ensemble": ("the best trials, joined",),
}
Point = dict[str, Any]
Settings = dict[str, Any]
Caches = tuple[Hashable, ...]


def grid_points(axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield every combination of the axes' values; a conditional axis varies only if its alternative is chosen.

    >>> scale = Axis("loss.a.scale", values=(1, 2), when=("loss.name", "a"))
    >>> axes = [Axis("loss.name", values=("a", "b")), scale]
    >>> [tuple(point.values()) for point in grid_points(axes)]
    [('a', 1), ('a', 2), ('b',)]
    """
    yield from _points({}, axes)


def _points(point: Point, axes: Sequence[Axis]) -> Iterator[Point]:
    if not axes:
        yield point
        return
    for longer in _extended(point, axes[0]):
        yield from _points(longer, axes[1:])


def _extended(point: Point, axis: Axis) -> list[Point]:
    if not exists(axis, point):
        return [point]
    return [{**point, axis.name: value} for value in axis_values(axis)]


def listed_points(sweep: Sweep) -> Iterator[Point] | None:
    """Return all points of a grid or a screen; None for strategies that draw their points."""
    strategy = sweep.fixed["search.strategy"]
    if strategy == "grid":
        return grid_points(sweep.axes)
    return screen_points(sweep.axes, sweep.fixed["search.trials"]) if strategy == "screen" else None


def screen_points(axes: Sequence[Axis], runs: int) -> Iterator[Point]:
    """Yield the points of a screening design; the first has the first value of each axis.

    Args:
        axes: Axes with two values each.
        runs: Number of points.
    """
    for row in screen(len(axes), runs):
        yield {axis.name: axis_values(axis)[place] for axis, place in zip(axes, row, strict=True)}


def exists(axis: Axis, point: Point) -> bool:
    """Return whether an axis exists at a point: it is unconditional, or the point chooses its alternative.

    Args:
        axis: The axis.
        point: Values of the axes before it.
    """
    return axis.when is None or point.get(axis.when[0]) == axis.when[1]


def axis_values(axis: Axis) -> tuple[Any, ...]:
    """Return the values of an axis; of a continuous range its two ends."""
    return axis.listed() or (axis.low, axis.high)


def label(point: Point, *, kind: str = "trial") -> str:
    """Return a short text for a point, for tables and plots.

    Args:
        point: Value of each axis.
        kind: Kind of the trial: `trial`, `baseline`, `repeat` or `ensemble`.


    >>> label({"model.embedding_size": 64, "loss.name": "arcface"})
    'embedding_size 64, loss arcface'
    """
    words = [f"{'loss' if name == 'loss.name' else name.rpartition('.')[2]} {value}" for name, value in point.items()]
    return ", ".join([*LEADING.get(kind, ()), *words])


def retrieval_settings(sweep: Sweep) -> tuple[RetrievalSetting, ...]:
    """Return every retrieval setting of the sweep, the one with the first value of each axis first."""
    return tuple(distinct_settings(**{name: list(values) for name, values in sweep.retrieval.items()}))


def corner_points(sweep: Sweep, *names: str) -> Iterator[Point]:
    """Yield a point per combination of the named axes' values (of a range: its ends); other axes have their first."""
    yield from grid_points([axis if axis.name in names else _narrowed(axis) for axis in sweep.axes])


def _narrowed(axis: Axis) -> Axis:
    return dataclasses.replace(axis, values=axis_values(axis)[:1])


def first_settings(sweep: Sweep) -> Settings:
    """Return the settings of the point where every axis has its first value."""
    return sweep.settings(next(corner_points(sweep)))


def geometries(sweep: Sweep) -> list[Geometry]:
    """Return the distinct geometries at which the sweep needs the photographs decoded."""
    points = corner_points(sweep, "data.image_size", "data.resize", "train.affine")
    found = (sweep.settings(point) for point in points)
    return list(dict.fromkeys(geometry_of(settings["data"], settings["train"]) for settings in found))


def caches_of(settings: Settings) -> Caches:
    """Return what a node keeps of a trial for later ones: decoded photographs and the features of a frozen trunk.

    Args:
        settings: Settings of the trial.
    """
    geometry, model = geometry_of(settings["data"], settings["train"]), settings["model"]
    return (geometry, (geometry, model["encoder"], model["weights"])) if model["freeze"] == "trunk" else (geometry,)


def frozen_poolings(sweep: Sweep) -> tuple[tuple[str, int], ...]:
    """Return `pool` and `layers` of all frozen encoders of the sweep, baselines included; () without frozen trials."""
    deciding = ("encoder", "pool", "layers", "freeze")
    names = [axis.name for axis in sweep.axes if axis.name.startswith("model.") and axis.name.endswith(deciding)]
    models = [sweep.settings(point)["model"] for point in corner_points(sweep, *names)]
    found = [(str(model["pool"]), int(model["layers"])) for model in models if model["freeze"] == "trunk"]
    return tuple(dict.fromkeys([*found, ("auto", 1)])) if found else ()


def epochs_of(settings: Settings) -> int:
    """Return the number of epochs of a trial, including those with pseudo-labels."""
    train = settings["train"]
    return int(train["epochs"]) + (int(train["pseudo_epochs"]) if train.get("pseudo_labels") else 0)


def longest_training(sweep: Sweep) -> int:
    """Return the largest number of epochs that a trial of the sweep can have."""
    names = ("train.epochs", "train.pseudo_labels", "train.pseudo_epochs")
    return max(epochs_of(sweep.settings(point)) for point in corner_points(sweep, *names))


def baselines(sweep: Sweep) -> list[tuple[Point, Settings]]:
    """Return the baselines: each pretrained encoder at each image size, frozen, without a head and without training."""
    names = ("model.encoder", "model.weights", "data.image_size", "data.resize")
    model = {"embedding_size": None, "pool": "auto", "neck": "none", "freeze": "trunk", "layers": 1}
    found: list[tuple[Point, Settings]] = []
    for point in corner_points(sweep, *names):
        settings = sweep.settings(point)
        train = {"epochs": 0, **{name: settings["train"][name] for name in ("batch_size", "affine")}}
        settings |= {"model": settings["model"] | model, "loss": {"name": "none"}, "train": train}
        found.append(({name: value for name, value in point.items() if name in names}, settings))
    return found


def check_encoders(sweep: Sweep) -> None:
    """Build every encoder of the sweep once, and run a training step if the sweep trains.

    Raises:
        EncoderError: If an encoder cannot be built, or its code fails.
    """
    names = ("encoder", "pool", "neck", "weights")
    for point in corner_points(sweep, "data.image_size", *(f"model.{name}" for name in names)):
        check_encoder(sweep.settings(point))


def check_encoder(settings: Settings) -> None:
    """Build the encoder of a trial's settings, and run a training step if the trial trains.

    Raises:
        EncoderError: If it cannot be built, or its code fails.
    """
    from whale_ray.learning.encoders.encoder_checks import check_training_step

    encoder = encoder_of(settings)
    if settings["train"]["epochs"]:
        check_training_step(
            encoder, name=settings["model"]["encoder"], image_size=image_size(settings["data"]["image_size"])
        )


def encoder_of(settings: Settings) -> Encoder:
    """Return the untrained encoder of a trial's settings.

    Raises:
        EncoderError: If it cannot be built.
    """
    from whale_ray.learning.encoders.registry import build_encoder

    model = settings["model"]
    options = {name: value for name, value in model.items() if name != "encoder"}
    return build_encoder(model["encoder"], image_size=image_size(settings["data"]["image_size"]), **options)
