"""Sweep: fixed settings, axes and the settings of each trial, loaded from YAML with all faults at once.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whale_ray.errors import Fault, SettingsError, hide_passwords
from whale_ray.suggestions import suggest
from whale_ray.sweep.config.axes import Axis
from whale_ray.sweep.config.constraints import find_conflicts
from whale_ray.sweep.config.fields import Default, Setting
from whale_ray.sweep.config.loss_schema import loss_settings
from whale_ray.sweep.config.schema.all_settings import SELECTORS, SETTINGS, TRIAL_SECTIONS
from whale_ray.sweep.config.settings_reader import expand_short_forms, read_settings
from whale_ray.sweep.config.yaml_nodes import Node, dump_document, lay_over, nest_keys, parse_document, slug, write_at

__all__ = [
    "SETTINGS",
    "Axis",
    "Setting",
    "Sweep",
    "data_settings",
    "load_sweep",
]


@dataclass(frozen=True)
class Sweep:
    """A valid sweep file with its defaults. Two sweeps with the same content are equal.

    Keys of an alternative contain its name: `loss.arcface.scale`. If `loss.name` is an axis without alternatives,
    `settings` adds the default parameters of each loss.

    Attributes:
        name: Name of the run folder.
        source: Path of the file.
        fixed: Value by dotted key.
        axes: The axes of training.
        retrieval: Values by retrieval option.
    """

    name: str
    source: str = field(compare=False)
    fixed: dict[str, Any]
    axes: tuple[Axis, ...]
    retrieval: dict[str, tuple[Any, ...]]

    @property
    def objective(self) -> str:
        """The score that is maximized."""
        return str(self.fixed["search.objective"])

    @property
    def also(self) -> str | None:
        """The second objective, which is minimized; None if there is only one."""
        also = str(self.fixed["search.also"])
        return None if also == "none" else also

    @property
    def ranked_by(self) -> str:
        """The objective that ranks the trials."""
        prefer = str(self.fixed["search.prefer"])
        return self.objective if prefer == "none" else prefer

    def settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of one trial: a mapping per section, and `seed`.

        Args:
            point: Value by axis name; axes of alternatives that are not chosen may be missing.

        Raises:
            ValueError: If the point has an unknown axis or lacks one.
        """
        chosen = self.fixed | self._coordinates(point)
        nested: dict[str, Any] = {section: {} for section in TRIAL_SECTIONS} | {"seed": chosen["seed"]}
        for key, value in chosen.items():
            section, *path = key.split(".")
            if section in TRIAL_SECTIONS and (len(path) == 1 or path[0] == slug(chosen[_selector(section)])):
                nested[section][path[-1]] = value
        own = nested["loss"]
        own.update({key: one.default for key, one in loss_settings(own["name"]).items() if key not in own})
        return nested

    def _coordinates(self, point: Mapping[str, Any]) -> dict[str, Any]:
        if foreign := point.keys() - {axis.name for axis in self.axes}:
            raise ValueError(f"{self.name} has no axis {', '.join(sorted(foreign))}")
        found: dict[str, Any] = {}
        for axis in self.axes:
            if axis.when is None or found.get(axis.when[0]) == axis.when[1]:
                if axis.name not in point:
                    raise ValueError(f"the point has no value for the axis {axis.name} of {self.name}")
                found[axis.name] = axis.canonical(point[axis.name])
        return found

    def grid_cells(self) -> int:
        """Return the number of combinations of a grid.

        Raises:
            ValueError: If an axis is a range without a step.
        """
        return math.prod(self._cells(axis) for axis in self.axes if axis.when is None)

    def _cells(self, axis: Axis) -> int:
        values = axis.listed()
        if values is None:
            raise ValueError(f"{axis.name} is a range without a step: it has no list of values")
        own = [child for child in self.axes if child.when and child.when[0] == axis.name]
        return sum(math.prod(self._cells(child) for child in own if child.when == (axis.name, one)) for one in values)

    def to_yaml(self) -> str:
        """Return the sweep file with every default; it loads to an equal sweep, but for passwords, which are hidden."""
        keys: dict[str, Any] = {setting.key: None for setting in SETTINGS}
        axes = {axis.name: axis.written() for axis in self.axes}
        axes |= {f"retrieval.{key}": list(values) for key, values in self.retrieval.items()}
        keys = {key: None for key in keys if key in self.fixed or key in axes} | self.fixed | axes
        keys = {key: hide_passwords(value) if isinstance(value, str) else value for key, value in keys.items()}
        if self.fixed["search.strategy"] == "grid":
            del keys["search.trials"]
        return dump_document(nest_keys(keys, selectors=SELECTORS))


def _selector(section: str) -> str:
    return f"{section}.{SELECTORS[section]}"


def load_sweep(
    path: Path | str, overrides: Sequence[str] = (), *, data: Path | str | None = None, is_recorded: bool = False
) -> Sweep:
    """Return the sweep of a YAML file.

    Args:
        path: The YAML file.
        overrides: Settings that replace those of the file, such as "train.epochs=5".
        data: Folder or URL that replaces `data.root`.
        is_recorded: The file is a run folder's, so that rules and defaults that later versions introduced do not hold.

    Raises:
        SettingsError: With every fault, its line in the file and the nearest valid name.
    """
    return _read_sweep(_read_text(Path(path)), str(path), overrides, data, is_recorded=is_recorded)


def data_settings(root: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the `data` section of a sweep.

    Args:
        root: Folder or URL of the photographs.
        overrides: Settings of the section, such as "data.image_column=file".

    Raises:
        SettingsError: With every fault, such as an override of another section.
    """
    if foreign := [option for option in overrides if not option.startswith("data.")]:
        fault = Fault(f"only settings of `data` have a meaning here, as data.image_column=file, not {foreign[0]}.")
        raise SettingsError("--set", [fault])
    least = "name: photographs\nmodel: {encoder: tiny}\nloss: {name: arcface}\n"
    sweep = _read_sweep(least, "--set", overrides, root)
    return {key.removeprefix("data."): value for key, value in sweep.fixed.items() if key.startswith("data.")}


def _read_sweep(
    text: str, source: str, overrides: Sequence[str], data: Path | str | None, *, is_recorded: bool = False
) -> Sweep:
    faults: list[Fault] = []
    root = parse_document(text, faults)
    if root is not None and not isinstance(root.value, dict):
        came = "it is empty" if root.value is None else "it holds something else"
        faults.append(
            root.fault(f"a sweep file is a mapping of sections, but {came}. sweeps/ has files to start from.")
        )
    if root is None or not isinstance(root.value, dict):
        raise SettingsError(source, faults)
    expand_short_forms(root)
    for option in overrides:
        lay_over(root, option, faults, selectors=SELECTORS)
    expand_short_forms(root)
    if data is not None:
        write_at(root, ["data", "root"], Node(str(data), None, "option --data"))
    reading = read_settings(root, faults)
    if is_recorded:
        missing = [one for one in SETTINGS if one.key in reading.fixed and one.key not in reading.places]
        reading.fixed |= {one.key: one.earlier for one in missing if one.earlier is not Default.REQUIRED}
    find_conflicts(reading, is_recorded=is_recorded)
    if faults:
        raise SettingsError(source, sorted(faults, key=lambda fault: fault.line or math.inf))
    return Sweep(reading.fixed["name"], source, reading.fixed, tuple(reading.axes), reading.retrieval)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"a sweep file is UTF-8 text, but byte {error.start} is not. Save it as UTF-8."
        raise SettingsError(str(path), [Fault(message)]) from None
    except OSError as error:
        names = {other.name for other in path.parent.glob("*.yaml")} - {path.name}
        hint = suggest(path.name, names) or "Give the path of a YAML file, as sweeps/quickstart.yaml."
        message = f"the sweep file cannot be read ({error.strerror or error}). {hint}"
        raise SettingsError(str(path), [Fault(message)]) from None
