"""Parser of a sweep file: checks each key against the schema and returns fixed values, axes and all faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from whale_ray.errors import Fault
from whale_ray.suggestions import did_you_mean, suggest
from whale_ray.sweep.config.axes import Axis, read_axis
from whale_ray.sweep.config.fields import Default, Setting
from whale_ray.sweep.config.loss_schema import given_parameters, loss_names, loss_settings, unknown_parameter
from whale_ray.sweep.config.schema.all_settings import SECTIONS, SELECTORS, SETTINGS, section_settings
from whale_ray.sweep.config.schema.data_settings import SPLIT_VALUES
from whale_ray.sweep.config.schema.search_settings import SPEED
from whale_ray.sweep.config.yaml_nodes import Node, slug

NOWHERE = Node(None)


@dataclass
class Reading:
    """Parsed settings of a sweep file.

    Attributes:
        faults: Every fault found.
        fixed: Value by dotted key.
        axes: The axes.
        retrieval: Values by retrieval option.
        places: Node of every key in the file.
    """

    faults: list[Fault]
    fixed: dict[str, Any] = field(default_factory=dict)
    axes: list[Axis] = field(default_factory=list)
    retrieval: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    places: dict[str, Node] = field(default_factory=dict)

    def fault(self, name: str, message: str) -> None:
        """Add a fault at the line of a key.

        Args:
            name: Dotted key.
            message: The fault.
        """
        self.faults.append(self.places.get(name, NOWHERE).fault(message))

    def possible(self, name: str) -> tuple[Any, ...]:
        """Return every value that a key may have, the two ends of a range; empty if it is missing or invalid."""
        for axis in self.axes:
            if axis.name == name:
                return axis.values if axis.values is not None else (axis.low, axis.high)
        section, _, short = name.partition(".")
        if section == "retrieval" and short in self.retrieval:
            return self.retrieval[short]
        return (self.fixed[name],) if name in self.fixed else ()


def read_settings(root: Node, faults: list[Fault]) -> Reading:
    """Return all settings of a file, in the order of the schema.

    Args:
        root: The file.
        faults: Faults found so far; receives more.
    """
    reading = Reading(faults)
    expand_short_forms(root)
    _unknown_keys(reading, root, [*section_settings(""), *SECTIONS], "there is no key `{}`.")
    _read_keys(reading, root, section_settings(""), prefix="")
    for section in SECTIONS:
        _read_section(reading, section, root.get(section) or Node({}))
    _follow_seed(reading)
    _follow_axes(reading)
    return reading


def expand_short_forms(root: Node) -> None:
    """Expand short forms in place, such as `split: halves` to `split: {kind: halves}`."""
    split = root.get("split")
    if split is not None and isinstance(split.value, str):
        root.value["split"] = replace(split, value={"kind": split})
    elif split is not None and isinstance(split.value, dict):
        _expand_split(split)
    search = root.get("search")
    if search is not None and isinstance(search.value, dict):
        _expand_objectives(search)


def _expand_split(split: Node) -> None:
    """`{kfold: 5}` is `{kind: kfold, folds: 5}`, and `{open_set: 0.2}` is `{kind: open_set, share: 0.2}`."""
    for kind, key in SPLIT_VALUES.items():
        node = split.value.get(kind)
        if node is not None and not {"kind", key} & set(split.value):
            del split.value[kind]
            split.value.update({"kind": replace(node, value=kind), key: node})


def _expand_objectives(search: Node) -> None:
    both = search.get("objective")
    if both is None or not isinstance(both.value, list) or len(both.value) != 2:
        return
    speed = [child for child in both.value if child.value == SPEED]
    scores = [child for child in both.value if child.value != SPEED]
    if len(speed) == len(scores) == 1 and "also" not in search.value:
        search.value.update(objective=scores[0], also=speed[0])
        if both.value[0] is speed[0]:
            search.value.setdefault("prefer", speed[0])


def _follow_seed(reading: Reading) -> None:
    first = reading.possible("seed")
    for key in ("split.seed", "search.seed"):
        if key not in reading.places and first:
            reading.fixed[key] = first[0]


def _follow_axes(reading: Reading) -> None:
    """Set the number of trials of a screen to the least that its axes allow, if the file has none."""
    if reading.fixed.get("search.strategy") == "screen" and "search.trials" not in reading.places:
        from whale_ray.sweep.config.screening_design import smallest_screen

        reading.fixed["search.trials"] = smallest_screen(len(reading.axes))


def _read_section(reading: Reading, section: str, node: Node) -> None:
    node = replace(node, value={}) if node.value is None else node
    reading.places[section] = node
    selector = SELECTORS.get(section)
    if selector and isinstance(node.value, list) and any(isinstance(child.value, dict) for child in node.value):
        _read_alternatives(reading, section, selector, node)
    elif not isinstance(node.value, dict):
        example = f"{selector or next(iter(section_settings(section)))}: …"
        reading.fault(section, f"`{section}` is a section with keys. Write `{section}: {{{example}}}`.")
    else:
        settings, lead = section_settings(section), f"there is no key `{section}.{{}}`."
        if section == "loss":
            settings |= given_parameters(node, reading.faults)
            lead = unknown_parameter(loss_names(node.get("name")))
        _unknown_keys(reading, node, settings, lead)
        _read_keys(reading, node, settings, prefix=f"{section}.")


def _read_alternatives(reading: Reading, section: str, selector: str, node: Node) -> None:
    chosen: list[Any] = []
    own: list[Reading] = []
    for child in node.value:
        name = _alternative_name(reading, section, selector, child)
        if name is None:
            continue
        if slug(name) in map(slug, chosen):
            reading.faults.append(child.fault(f"`{section}` has the alternative {name} twice. Join the two."))
            continue
        chosen.append(name)
        own.append(_read_alternative(reading, section, selector, name, child))
    if chosen:
        reading.axes.append(Axis(f"{section}.{selector}", values=tuple(chosen)))
    for part in own:
        reading.fixed |= part.fixed
        reading.axes += part.axes


def _alternative_name(reading: Reading, section: str, selector: str, node: Node) -> str | None:
    chosen = node.get(selector)
    if chosen is None:
        message = f"each alternative of `{section}` is a mapping with `{selector}`, but this one has none."
        reading.faults.append(node.fault(message))
        return None
    setting = section_settings(section)[selector]
    try:
        return str(setting.check(chosen.value, name=f"{section}.{selector}"))
    except ValueError as error:
        one = " An alternative has one." if isinstance(chosen.value, list) else ""
        reading.faults.append(chosen.fault(f"{error}{one}"))
        return None


def _read_alternative(reading: Reading, section: str, selector: str, name: str, node: Node) -> Reading:
    settings = section_settings(section) | (loss_settings(name) if section == "loss" else {})
    lead = unknown_parameter([name]) if section == "loss" else f"there is no key `{section}.{{}}`."
    _unknown_keys(reading, node, settings, lead)
    del settings[selector]
    own = Reading(reading.faults, places=reading.places)
    _read_keys(own, node, settings, prefix=f"{section}.{slug(name)}.")
    own.axes = [replace(axis, when=(f"{section}.{selector}", name)) for axis in own.axes]
    return own


def _read_keys(reading: Reading, node: Node, settings: Mapping[str, Setting], *, prefix: str) -> None:
    for short, setting in settings.items():
        child = node.get(short)
        if child is not None:
            reading.places[prefix + short] = child
            _read_value(reading, setting, child, prefix + short)
        elif setting.default is Default.REQUIRED:
            reading.faults.append(node.fault(f"`{prefix}{short}` must be given: {setting.rule()}."))
        else:
            _keep(reading, setting, prefix + short, setting.default)


def _read_value(reading: Reading, setting: Setting, node: Node, name: str) -> None:
    if not isinstance(node.value, list | dict):
        try:
            _keep(reading, setting, name, setting.check(node.value, name=name))
        except ValueError as error:
            reading.faults.append(node.fault(str(error)))
        return
    axis = read_axis(setting, node, reading.faults, name=name)
    if axis is not None and not setting.is_searched:
        reading.axes.append(axis)
    elif axis is not None and (values := axis.listed()) is not None:
        reading.retrieval[setting.short] = values
    elif axis is not None:
        message = f"`{name}` is searched exhaustively, so a range needs a step. Give it one, or write a list."
        reading.faults.append(node.fault(message))


def _keep(reading: Reading, setting: Setting, name: str, value: Any) -> None:
    if setting.is_searched:
        reading.retrieval[setting.short] = (value,)
    else:
        reading.fixed[name] = value


def _unknown_keys(reading: Reading, node: Node, known: Iterable[str], lead: str) -> None:
    names = list(known)
    for key in [key for key in node.value if key not in names]:
        hint = _elsewhere(key) or suggest(key, names)
        reading.faults.append(node.value[key].fault(f"{lead.format(key)} {hint}".rstrip()))


def _elsewhere(key: str) -> str:
    """Return a hint at the sections that have a key of this name."""
    short = key.rpartition(".")[2]
    homes = [setting for setting in SETTINGS if setting.short == short and setting.section]
    if any(setting.key == key for setting in homes):
        return f"Write `{key.partition('.')[0]}: {{{short}: …}}`."
    return did_you_mean([setting.key for setting in homes])
