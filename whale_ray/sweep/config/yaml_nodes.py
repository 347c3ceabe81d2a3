"""YAML 1.2 as nodes with line numbers, and `--set` options that override them.

In YAML 1.2 `off` is a word and `1e-5` a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from whale_ray.errors import Fault

_TAG = "tag:yaml.org,2002:"
_NUMBERS = list("-+.0123456789")


@dataclass(frozen=True)
class Node:
    """A value with its place in the file.

    Attributes:
        value: A scalar, a list of nodes, or a dict of nodes.
        line: Line from 1; None if not from the file.
        origin: The command line option that it came from; empty for the file.
    """

    value: Any
    line: int | None = None
    origin: str = ""

    def fault(self, message: str) -> Fault:
        """Return a fault at this place."""
        return Fault(f"{self.origin}: {message}" if self.origin else message, self.line)

    def get(self, key: str) -> Node | None:
        """Return the node of a key; None if it is missing or this is not a mapping."""
        return self.value.get(key) if isinstance(self.value, dict) else None


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does, by `_RESOLVERS` alone."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node. Aliases are refused, which bounds the size of the document.

        Args:
            parent: Node that contains it.
            index: Its place in the parent.
        """
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
    """Return a YAML text as nodes; None if it is invalid.

    An empty text is a node with the value None. Of a repeated key, the first one counts.

    Args:
        text: The YAML text.
        faults: Receives every fault, such as a repeated key.
        origin: The command line option that it came from; empty for a file.
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
    reason = " ".join(part for part in (error.context, error.problem) if part)
    return Node(None, None if origin else line, origin).fault(f"this is not valid YAML{place}: {reason}")


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
    """Return the value of a scalar; its text if the tag is not in the core schema or there are too many digits."""
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
    """Write one `KEY=VALUE` into the tree; `loss.arcface.scale=32` changes the alternative arcface of `loss`.

    Args:
        root: The file; changed in place.
        option: The option, `KEY=VALUE`.
        faults: Receives every fault.
        selectors: By section with alternatives, the key that names each alternative.
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
    """Write a node at a path and create missing mappings. Return the fault, or an empty text.

    Args:
        root: The file; changed in place.
        parts: Path of keys.
        value: The node.
        selector: The key that names each alternative of the section; None for a section without alternatives.
    """
    here = root
    for depth, part in enumerate(parts[:-1], start=1):
        here = _open(here, part, value.origin)
        if selector and isinstance(here.value, list) and depth == 1:
            return _write_alternative(here, parts, value, selector)
        if not isinstance(here.value, dict):
            return f"`{'.'.join(parts[:depth])}` has no keys."
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
    """Return a name as one part of a dotted key: `hf:google/vit-base` becomes `hf-google-vit-base`."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def nest_keys(keys: Mapping[str, Any], *, selectors: Mapping[str, str]) -> dict[str, Any]:
    """Return dotted keys as nested sections; a section with alternatives is a list of mappings.

    Args:
        keys: Value by dotted key.
        selectors: By section with alternatives, the key that names each alternative.
    """
    nested: dict[str, Any] = {}
    for key in keys:
        section, _, short = key.rpartition(".")
        if not section:
            nested[key] = keys[key]
        elif "." not in section:
            nested.setdefault(section, {})[short] = keys[key]
    for section, selector in selectors.items():
        if any(key.startswith(f"{section}.") and key.count(".") == 2 for key in keys):
            nested[section] = _alternatives(section, selector, keys)
    return nested


def _alternatives(section: str, selector: str, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    written = []
    for name in keys[f"{section}.{selector}"]:
        start = f"{section}.{slug(name)}."
        own = {key.removeprefix(start): value for key, value in keys.items() if key.startswith(start)}
        written.append({selector: name} | own)
    return written


def dump_document(values: dict[str, Any]) -> str:
    """Return values as YAML that `parse_document` reads back unchanged, in the given order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
