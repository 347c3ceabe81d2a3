"""A YAML text as plain values that know their line; every `--set` option is laid over it here.

Reads YAML as its version 1.2 does: `off` is a word and `1e-5` a number. Knows no key, no default and no rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from whale_ray.errors import Fault

_TAG = "tag:yaml.org,2002:"
_NUMBERS = list("-+.0123456789")


@dataclass(frozen=True)
class Node:
    """A value and where it stands: a scalar, a list of nodes, or a dict of nodes.

    `line` counts from 1 (None: not from the file); `origin` names the option that it came from.
    """

    value: Any
    line: int | None = None
    origin: str = ""

    def fault(self, message: str) -> Fault:
        """The message as a fault of this place."""
        return Fault(f"{self.origin}: {message}" if self.origin else message, self.line)

    def get(self, key: str) -> Node | None:
        """The node under the key; None where there is none, or this is no mapping."""
        return self.value.get(key) if isinstance(self.value, dict) else None


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does, by `_RESOLVERS` alone."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The node that comes next; an alias is refused, which also bounds the size of what is read."""
        if self.check_event(yaml.AliasEvent):
            events: Any = self
            mark = events.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name) is not read: write it out", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that YAML 1.1 or 1.2 would read as something else."""


_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", _NUMBERS),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _NUMBERS),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", _NUMBERS),
)
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), _first)


def parse_document(text: str, faults: list[Fault], *, origin: str = "") -> Node | None:
    """The text as nodes; None where it is no YAML. What is wrong is added to `faults`.

    A text without any value is a node that holds None. Keys given twice are faults; the first one counts.
    """
    try:
        tree = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        faults.append(_syntax_fault(error, origin))
    except (yaml.YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        faults.append(Node(None, None, origin).fault(f"this is not valid YAML: {reason}"))
    else:
        return _node(tree, faults, origin) if tree is not None else Node(None, None, origin)
    return None


def _syntax_fault(error: yaml.MarkedYAMLError, origin: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    place = f" at column {mark.column + 1}" if mark else ""
    said = " ".join(part for part in (error.context, error.problem) if part)
    return Node(None, None if origin else line, origin).fault(f"this is not valid YAML{place}: {said}")


def _node(tree: Any, faults: list[Fault], origin: str) -> Node:
    line = None if origin else tree.start_mark.line + 1
    if isinstance(tree, yaml.SequenceNode):
        return Node([_node(child, faults, origin) for child in tree.value], line, origin)
    if isinstance(tree, yaml.MappingNode):
        return Node(_mapping(tree, faults, origin), line, origin)
    return Node(_scalar(tree.tag.removeprefix(_TAG), tree.value), line, origin)


def _mapping(tree: Any, faults: list[Fault], origin: str) -> dict[str, Node]:
    found: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, child in tree.value:
        place = Node(None, None if origin else key.start_mark.line + 1, origin)
        if not isinstance(key, yaml.ScalarNode):
            faults.append(place.fault("a key must be a word, but got a list or a mapping."))
        elif key.value in found:
            faults.append(place.fault(f"`{key.value}` is given twice, first in line {lines[key.value]}. Keep one."))
        else:
            lines[key.value] = key.start_mark.line + 1
            found[key.value] = Node(_node(child, faults, origin).value, place.line, origin)
    return found


def _scalar(kind: str, text: str) -> Any:
    """The scalar's value; a text where the tag is not of the core schema, or the digits are too many."""
    try:
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float":
                return float(re.sub(r"\.(inf|nan)", r"\1", text, flags=re.IGNORECASE))
    except ValueError:
        return text
    return text


def lay_over(root: Node, option: str, faults: list[Fault], *, selectors: dict[str, str]) -> None:
    """Writes one `KEY=VALUE` into the tree, as if it stood in the file; what is wrong is added to `faults`.

    `selectors` names, for each section with alternatives, the key that tells them apart:
    `loss.arcface.scale=32` reaches the alternative of `loss` whose `name` is arcface.
    """
    key, equals, text = option.partition("=")
    place = Node(None, None, f"option --set {option}")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        faults.append(place.fault("must be KEY=VALUE, as in `--set train.epochs=5`."))
        return
    value = parse_document(text, faults, origin=place.origin)
    if value is not None:
        fault = write_at(root, parts, value, selector=selectors.get(parts[0]))
        faults.extend([place.fault(fault)] if fault else [])


def write_at(root: Node, parts: list[str], value: Node, *, selector: str | None = None) -> str:
    """Puts the node at the path, making the mappings on the way; the fault in words, or nothing."""
    here = root
    for depth, part in enumerate(parts[:-1], start=1):
        here = _open(here, part, value.origin)
        if selector and isinstance(here.value, list) and depth == 1:
            return _write_alternative(here, parts, value, selector)
        if not isinstance(here.value, dict):
            return f"`{'.'.join(parts[:depth])}` has no keys of its own."
    here.value[parts[-1]] = value
    return ""


def _open(here: Node, part: str, origin: str) -> Node:
    child = here.get(part)
    if child is not None and child.value is not None:
        return child
    here.value[part] = Node({}, None, origin)
    return _open(here, part, origin)


def _write_alternative(section: Node, parts: list[str], value: Node, selector: str) -> str:
    children = {slug(str(chosen.value)): child for child in section.value if (chosen := child.get(selector))}
    if len(parts) >= 3 and parts[1] in children:
        return write_at(children[parts[1]], parts[2:], value)
    ways = ", ".join(f"{parts[0]}.{name}.KEY" for name in children)
    remedy = f"Name the one that is meant ({ways}), or give all of `{parts[0]}`."
    return f"`{parts[0]}` is a list of alternatives. {remedy}"


def slug(name: str) -> str:
    """The name as one part of a dotted key: `hf:google/vit-base` becomes `hf-google-vit-base`."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def dump_document(values: dict[str, Any]) -> str:
    """YAML of plain values that `parse_document` reads back as they are; sections in the order given."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
