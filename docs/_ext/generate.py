"""Sphinx extension that writes the generated reference pages before Sphinx reads its sources.

All imports of whale_ray in the documentation are in this module. Each `*_page` function returns one page as Markdown;
`write_pages` writes them to `docs/reference/generated/`, which is not under version control.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

DOCS: Final = Path(__file__).parents[1]
ROOT: Final = DOCS.parent
OUT: Final = DOCS / "reference" / "generated"
HTTP_METHODS: Final = ("get", "post", "put", "patch", "delete")

SECTION_TITLES: Final = {
    "": "Top level",
    "data": "data: photographs and table",
    "split": "split: training and validation parts",
    "model": "model: the encoder",
    "loss": "loss",
    "train": "train: the training loop",
    "retrieval": "retrieval: from embeddings to ranked individuals",
    "search": "search: the search strategy",
    "resources": "resources of one trial",
    "tracking": "tracking",
    "bundle": "bundle",
}


# Code of the project


def version() -> str:
    """Return the version of the installed project."""
    from whale_ray import __version__

    return __version__


def sweep_settings() -> Sequence[Any]:
    """Return the schema of the sweep file, one entry per key."""
    from whale_ray.sweep.config.schema.all_settings import SETTINGS

    return SETTINGS


def setting_default(setting: Any) -> str:
    """Return the default of a setting as YAML; "required" if it has none."""
    from whale_ray.commands.settings_reference import shown_default

    return shown_default(setting)


def losses() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return name → (builder, parameters as settings) of every loss."""
    from whale_ray.learning.losses.registry import LOSSES
    from whale_ray.sweep.config.loss_schema import loss_settings

    return {name: (builder, loss_settings(name)) for name, builder in LOSSES.items()}


def losses_accepting_negatives() -> frozenset[str]:
    """Return the losses that can train on unknown individuals as negatives."""
    from whale_ray.learning.losses.registry import ACCEPTS_NEGATIVES

    return frozenset(ACCEPTS_NEGATIVES)


def pair_losses() -> frozenset[str]:
    """Return the losses that compare images with images."""
    from whale_ray.learning.losses.registry import PAIR_LOSSES

    return frozenset(PAIR_LOSSES)


def serve_settings() -> type[Any]:
    """Return the pydantic model of the settings of a service."""
    from whale_ray.serving.deployment.settings import ServeSettings

    return ServeSettings


def command_group() -> Any:
    """Return the command `whale-ray` as a click group."""
    import typer

    from whale_ray.cli import application

    return typer.main.get_command(application)


def openapi_schema() -> dict[str, Any]:
    """Return the OpenAPI description of the service."""
    from whale_ray.serving.http.app import build_app
    from whale_ray.serving.http.uploads import Limits

    model: Any = SimpleNamespace(limits=Limits())  # only its limits are read before a call
    return build_app({"model": model}, page=False).openapi()


def package_modules() -> list[str]:
    """Return the names of all packages and modules of whale_ray, parents before children."""
    package = importlib.import_module("whale_ray")
    found = pkgutil.walk_packages(package.__path__, "whale_ray.")
    return ["whale_ray", *sorted(module.name for module in found if not _is_private(module.name))]


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


# Markdown


def cell(text: object) -> str:
    """Return the text as one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|") or " "


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(part) for part in line) + " |" for line in lines)


def code(text: str, language: str = "sh") -> str:
    """Return a fenced block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def anchor(name: str) -> str:
    """Return the label of a heading, for references from other pages."""
    return "(" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ")="


# Pages


def sweep_settings_page() -> str:
    """Return the page with every key of the sweep file."""
    parts = [
        "# Sweep settings",
        "Every key of a sweep file. `whale-ray spec` prints the same list in the terminal.",
        "- **Axis**: the value may be a list or a range, and the sweep then varies it.\n"
        "- **Identity**: the value is a part of a trial's identity. Another value makes another trial, which is "
        "trained. A key without this mark can change without a new training.\n"
        "- A key in `section.key` form is written as `section: {key: value}` in YAML and as `--set section.key=value` "
        "on the command line.",
    ]
    sections: dict[str, list[Any]] = {}
    for setting in sweep_settings():
        sections.setdefault(setting.section, []).append(setting)
    for section, settings in sections.items():
        rows = [
            (
                f"`{setting.short}`",
                _default(setting_default(setting)),
                _mark(setting.axis),
                _mark(setting.identity),
                _sentence(f"{setting.meaning}. Takes {setting.rule()}"),
            )
            for setting in settings
        ]
        parts.append(anchor(f"settings {section or 'top'}"))
        parts.append(f"## {SECTION_TITLES.get(section, section)}")
        parts.append(table(("Key", "Default", "Axis", "Identity", "Meaning and values"), rows))
        if section == "loss":
            parts.append("Each loss has its own parameters beside `name`: see [losses](losses.md).")
    return "\n\n".join(parts)


def losses_page() -> str:
    """Return the page with every loss and its parameters."""
    parts = [
        "# Losses",
        "`loss: {name: NAME, parameter: value}` chooses a loss and sets its parameters. Every parameter may be an axis "
        "and is a part of a trial's identity. A parameter that the chosen loss does not have is an error.",
        "- **Pair losses** compare images with images. Only they can use `train.memory`.\n"
        "- **Proxy losses** learn one or more vectors per individual and compare images with these vectors. They have "
        "`train.proxy_learning_rate`, and `retrieval.classifier_weight` has an effect for them.\n"
        "- `train.new_whale: negative` needs a loss that accepts unknown individuals as negatives.",
    ]
    negatives, pairs = losses_accepting_negatives(), pair_losses()
    overview = [
        (
            f"[`{name}`](#loss-{name.replace('_', '-')})",
            "pairs" if name in pairs else "proxies",
            _mark(name in negatives),
        )
        for name in losses()
    ]
    parts.append(table(("Loss", "Compares images with", "Accepts negatives"), overview))
    for name, (builder, parameters) in losses().items():
        summary = (inspect.getdoc(builder) or "").partition("\n\n")[0]
        rows = [
            (f"`{key}`", _default(setting_default(setting)), _sentence(setting.rule()))
            for key, setting in parameters.items()
        ]
        parts += [anchor(f"loss {name}"), f"## {name}", summary, table(("Parameter", "Default", "Values"), rows)]
    parts += [
        "## none",
        "No loss. Use it with `train.epochs: 0` to score the encoder without training.",
    ]
    return "\n\n".join(parts)


def serve_settings_page() -> str:
    """Return the page with every setting of a service."""
    model = serve_settings()
    rows = []
    for name, field in model.model_fields.items():
        schema = model.model_json_schema()["properties"][name]
        if not field.description:
            raise KeyError(f"ServeSettings.{name} has no description. Add Field(description=...).")
        rows.append((f"`{name}`", _json_type(schema), _default(_field_default(field)), _sentence(field.description)))
    rule = "Every setting of a service, for `whale-ray serve --set KEY=VALUE`, `whale-ray deploy --set KEY=VALUE`, "
    return "\n\n".join(
        [
            "# Serve settings",
            rule + "`serve run serve_app:build KEY=VALUE` and the `args` of `deploy/serve.yaml`.",
            table(("Key", "Type", "Default", "Meaning"), rows),
            "An example with all of them, for a Ray cluster, is `deploy/serve.yaml`:",
            "```{literalinclude} ../../../deploy/serve.yaml\n:language: yaml\n```",
        ]
    )


def cli_page() -> str:
    """Return the page with every command, argument and option of `whale-ray`."""
    group = command_group()
    parts = [
        "# Command line",
        "`whale-ray COMMAND --help` prints the same text. `python -m whale_ray.sweep` is the same command as "
        "`whale-ray sweep`.",
    ]
    exits = [
        ("0", "Success. For a sweep: every trial finished, or was stopped early as intended."),
        ("1", "For a sweep: no trial succeeded."),
        ("2", "The input is wrong. Nothing was started."),
        ("3", "For a sweep: there is a best bundle, but some trials failed."),
        ("4", "For a sweep: no node of the cluster is left that can run the trials. What was done is kept."),
        ("130", "Interrupted by Ctrl-C or SIGTERM."),
    ]
    parts += ["## Exit codes", table(("Code", "Meaning"), exits)]
    options = _records(group, kind="option")
    if options:
        parts += ["## Global options", table(("Option", "Meaning"), options)]
    for name, command in sorted(group.commands.items()):
        if not getattr(command, "hidden", False):
            parts += _command(name, command)
    return "\n\n".join(parts)


def _command(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    context.info_name = f"whale-ray {name}"
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [
        anchor(f"command {name}"),
        f"## whale-ray {name}",
        _prose(command.help or ""),
        code(" ".join(usage.split()), "text"),
    ]
    for kind, title in (("argument", "Argument"), ("option", "Option")):
        rows = _records(command, kind=kind)
        if rows:
            parts.append(table((title, "Meaning"), rows))
    parts += _epilog(command.epilog or "")
    return parts


def _records(command: Any, *, kind: str) -> list[tuple[str, str]]:
    context = command.make_context("whale-ray", [], resilient_parsing=True)
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if parameter.param_type_name != kind or getattr(parameter, "hidden", False):
            continue
        names, text = record or (parameter.name, "")
        rows.append((f"`{names}`", text))
    return rows


def _epilog(text: str) -> list[str]:
    """Return the examples of a command as a block of code, and other sentences as text."""
    lines = [line.strip().removeprefix("Example: ") for line in inspect.cleandoc(text).splitlines()]
    commands = [line for line in lines if line.startswith(("whale-ray ", "python "))]
    examples = [line for line in commands if not line.endswith(".")]
    rest = [line for line in lines if line and line not in examples and line not in ("Examples:", "Example:")]
    return ([code("\n".join(examples))] if examples else []) + rest


def http_page() -> str:
    """Return the page with every call, parameter, answer and schema of the service."""
    schema = openapi_schema()
    parts = [
        "# HTTP API",
        "A running service shows the same description at `/docs` and as OpenAPI at `/openapi.json`. "
        "[Identify photographs](../../serving/identify.md) has examples of calls.",
        table(("Call", "Purpose"), [_call_row(path, method, one) for path, method, one in _calls(schema)]),
    ]
    for path, method, operation in _calls(schema):
        parts += _call(path, method, operation)
    parts.append("## Schemas")
    for name, one in sorted(schema.get("components", {}).get("schemas", {}).items()):
        parts += _http_schema(name, one)
    return "\n\n".join(parts)


def _calls(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, methods[method])
        for path, methods in schema["paths"].items()
        for method in HTTP_METHODS
        if method in methods
    ]


def _call_row(path: str, method: str, operation: dict[str, Any]) -> tuple[str, str]:
    first = operation.get("description", operation.get("summary", "")).partition("\n")[0]
    target = _call_anchor(path, method)
    return f"[`{method.upper()} {path}`](#{target})", first


def _call_anchor(path: str, method: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"call {method} {path}".lower()).strip("-")


def _call(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"({_call_anchor(path, method)})=", f"## {method.upper()} {path}", operation.get("description", "")]
    scopes = sorted({scope for each in operation.get("security", []) for some in each.values() for scope in some})
    if scopes:
        parts.append("Scope: " + ", ".join(f"`{scope}`" for scope in scopes) + ".")
    parameters = [
        (
            f"`{one['name']}`",
            one["in"],
            _json_type(one["schema"]),
            _default(json.dumps(one["schema"]["default"])) if "default" in one["schema"] else "required",
            one.get("description", ""),
        )
        for one in operation.get("parameters", [])
    ]
    if parameters:
        parts.append(table(("Parameter", "In", "Type", "Default", "Meaning"), parameters))
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        parts.append("Body: " + " or ".join(f"`{kind}`" for kind in body) + ".")
    responses = [
        (status, answer.get("description", ""), ", ".join(_content(answer.get("content", {}))))
        for status, answer in sorted(operation.get("responses", {}).items())
    ]
    parts.append(table(("Status", "Meaning", "Content"), responses))
    return [part for part in parts if part]


def _content(content: dict[str, Any]) -> list[str]:
    return [f"`{kind}`" + _schema_link(one.get("schema", {})) for kind, one in content.items()]


def _schema_link(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f" [{name}](#schema-{name.lower()})" if name else ""


def _http_schema(name: str, schema: dict[str, Any]) -> list[str]:
    rows = [
        (f"`{key}`", _json_type(one), "yes" if key in schema.get("required", ()) else "", one.get("description", ""))
        for key, one in schema.get("properties", {}).items()
    ]
    head = [f"(schema-{name.lower()})=", f"### {name}", _prose(schema.get("description", ""))]
    return head + ([table(("Field", "Type", "Always there", "Meaning"), rows)] if rows else [])


def python_pages() -> dict[str, str]:
    """Return file name → page of the Python reference, one page per package."""
    modules = package_modules()
    packages = [name for name in modules if hasattr(importlib.import_module(name), "__path__")]
    pages = {}
    for package in packages:
        members = [name for name in modules if name.rpartition(".")[0] == package and name not in packages]
        title = package
        parts = [title, "=" * len(title), "", f".. automodule:: {package}", "   :no-members:", ""]
        for name in members:
            head = name.rpartition(".")[2]
            parts += [head, "-" * len(head), "", f".. automodule:: {name}", ""]
        pages[f"{package}.rst"] = "\n".join(parts)
    entries = "\n".join(Path(name).stem for name in sorted(pages))
    text = "Every module, made from its docstrings. Most programs need only the three names of [Python](../python.md)."
    pages["python-index.md"] = "\n\n".join(["# Modules", text, f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```"])
    return pages


def pages() -> dict[str, str]:
    """Return file name → text of every generated page."""
    return {
        "sweep-settings.md": sweep_settings_page(),
        "losses.md": losses_page(),
        "serve-settings.md": serve_settings_page(),
        "cli.md": cli_page(),
        "http.md": http_page(),
        **python_pages(),
    }


# Details


def _mark(value: bool) -> str:
    return "yes" if value else ""


def _default(text: str) -> str:
    return text if text in ("required", "") else f"`{text}`"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) or not text else ".")


def _prose(text: str) -> str:
    return inspect.cleandoc(text)


def _field_default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "" if field.default_factory is not dict else "{}"
    value = field.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _json_type(schema: dict[str, Any]) -> str:
    """Return a JSON Schema as a few words: its type, choices and limits."""
    if "$ref" in schema:
        return _schema_link(schema).strip()
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(_json_type(one) for one in schema.get("anyOf") or schema["oneOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return "array of " + _json_type(schema.get("items", {}))
    words = schema.get("format") or schema.get("type", "any")
    limits = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    given = [f"{sign} {schema[key]:g}" for key, sign in limits if key in schema]
    return " ".join([words, ", ".join(given)]).strip()


def write_pages(folder: Path = OUT) -> None:
    """Write every generated page into the folder; unchanged files keep their time, other files are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in folder.iterdir():
        if path.name not in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in made.items():
        path = folder / name
        whole = text.rstrip() + "\n"
        if not path.exists() or path.read_text() != whole:
            path.write_text(whole)


def docstring_as_rst(line: str) -> str:
    """Return one line of a docstring as reStructuredText.

    Docstrings write code in single backquotes, which reStructuredText needs twice, and a trailing underscore is the
    name of a link there.
    """
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = re.split(r"(``.+?``|(?<![:`])`[^`]+`(?!`))", line)
    for place in range(1, len(parts), 2):
        if not parts[place].startswith("``"):
            parts[place] = f"`{parts[place]}`"
        if parts[place + 1][:1].isalnum():
            parts[place] += "\\ "
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", text) for text in parts[::2]]
    return "".join(parts)


def _convert_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [docstring_as_rst(line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", lambda _: write_pages())
    app.connect("autodoc-process-docstring", _convert_docstring, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
