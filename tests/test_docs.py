"""README and docs: commands, examples, answers, routes, links and pictures are checked against the project."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
import yaml
from documentation_pages import PAGES, ROOT, TEXTS, blocks, commands

from whale_ray.cli import application
from whale_ray.serving.schemas import Answer
from whale_ray.sweep.config.sweep_spec import load_sweep

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

OTHERS = {"source", "export", "unzip", "kaggle", "tensorboard", "optuna-dashboard", "prometheus", "grafana"}
OTHERS |= {
    "hf",
    "mkdir",
    "docker",
    "pip",
    "git",
    "openssl",
    "ray",
    "bash",
    "sudo",
    "apt-get",
    "cd",
    "echo",
    "cp",
    "for",
    "done",
}
LARGEST_PICTURE = 250_000
MAKEFILE = (ROOT / "Makefile").read_text()
LINKS = sorted(
    {(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)},
)


def command_of(words: list[str]) -> list[str]:
    """The words after settings of the environment."""
    return [word for place, word in enumerate(words) if not all(re.match(r"\w+=", one) for one in words[: place + 1])]


def check_arguments(arguments: list[str]) -> None:
    """Raise if the command line refuses them; a named sweep file and its settings must be valid."""
    group = typer.main.get_command(application)
    while arguments and arguments[0] in ("-v", "-q", "--verbose", "--quiet"):
        arguments = arguments[1:]
    if arguments in ([], ["--help"], ["--version"], ["--install-completion"]):
        return
    name, *rest = arguments
    if "--help" in rest:
        assert name in group.commands  # type: ignore[attr-defined]
        return
    context = group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    file = ROOT / context.params["file"] if name == "sweep" else None
    if file is not None and file.is_file():
        load_sweep(file, context.params["set_"] or [], data=context.params["data"])


@pytest.mark.parametrize("line", commands())
def test_a_command_is_well_formed_and_its_program_and_files_exist(line: str) -> None:
    subprocess.run(["bash", "-n", "-c", line], check=True)
    if "$(" in line:  # a command inside a command: bash has checked its form
        assert line.startswith(("curl ", "export "))
        return
    for part in re.split(r"\s&&\s|\s\|\s", line):
        words = [word for word in shlex.split(part, comments=True) if word not in ("&", ">")]
        match command_of([word.removeprefix(".venv/bin/") for word in words]):
            case [] | ["fi" | "then"]:
                continue
            case ["make", *rest]:
                target = next(word for word in rest if "=" not in word and not word.startswith("-"))
                assert re.search(rf"^[a-z ]*\b{target}\b[a-z ]*:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                    target
                )
            case ["whale-ray", *arguments]:
                check_arguments(arguments)
            case ["python", "-m", "whale_ray.sweep", *arguments]:
                check_arguments(["sweep", *arguments])
            case ["python", "-m", *_] | ["python", "-c", *_]:
                continue
            case ["python", file, *_]:
                assert (ROOT / file).is_file()
            case ["serve", "deploy" | "status" | "build", *_]:
                continue
            case ["serve", "run", target, *_]:
                assert target.removeprefix("whale_ray.").removeprefix("serve_app:") in ("app", "build")
            case ["curl", *arguments]:
                assert any(re.search(r"/v1/|/healthz|/metrics|/openapi", argument) for argument in arguments)
            case ["pytest" | "ruff" | "mypy" | "lint-imports" | "typos" | "pre-commit" | "sphinx-build", *_]:
                continue
            case [program, *_]:
                assert program in OTHERS, line


def test_every_command_of_whale_ray_is_on_a_page() -> None:
    group = typer.main.get_command(application)
    everything = "\n".join(TEXTS.values())
    assert {name for name in group.commands if f"whale-ray {name}" not in everything} <= {"sweep"}  # type: ignore[attr-defined]


def test_every_whole_sweep_file_on_a_page_is_valid(tmp_path: Path) -> None:
    whole = [block for block in blocks("yaml") if {"name", "model"} <= set(yaml.safe_load(block) or ())]
    assert whole
    for number, block in enumerate(whole):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        load_sweep(file)


def test_an_answer_on_a_page_has_the_form_of_the_contract() -> None:
    answers = [json.loads(block) for block in blocks("json", holding='"results"')]
    assert answers
    for answer in answers:
        assert Answer.model_validate(answer).model_dump() == answer


def test_the_python_example_runs(
    finished: SweepResult, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a sweep that has finished already, under the quickstart's name, so that nothing is trained again."""
    (example,) = set(blocks("python", holding="run_sweep"))
    (tmp_path / "sweeps").mkdir()
    text = (finished.folder / "sweep.yaml").read_text()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text(re.sub(r"(?m)^name: .*$", "name: quickstart", text))
    shutil.copytree(finished.folder, tmp_path / "runs" / "quickstart", symlinks=True)
    shutil.copy(next((photographs / "test").glob("*.jpg")), tmp_path / "fluke.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "the pages", "exec"), names)
    assert len(names["result"].table) == len(finished.table)  # type: ignore[attr-defined]
    assert len(names["answer"].candidates) == 5  # type: ignore[attr-defined]


# Links, pictures, size


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_has_a_target(page: str, link: str) -> None:
    target = link.partition("#")[0]
    if not link.startswith(("http://", "https://", "mailto:")) and target and "generated" not in target:
        assert ((ROOT / page).parent / target).exists(), f"{page}: {link}"


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_experiment_is_linked_from_the_index() -> None:
    folder = "docs/experiments/"
    index = TEXTS[f"{folder}index.md"]
    pages = {page.removeprefix(folder): text for page, text in TEXTS.items() if page.startswith(folder)}
    sections = [
        f"{page}#{anchor_of(heading)}" for page, text in pages.items() for heading in re.findall(r"(?m)^## (.+)$", text)
    ]
    missing = [section for section in sections if f"]({section})" not in index]
    assert sections
    assert not missing, f"Add a row to {folder}index.md for: {', '.join(missing)}"


def test_every_picture_is_small_and_shown() -> None:
    pictures = [path for path in (ROOT / "docs" / "figures").iterdir() if path.is_file()]
    everything = "\n".join(TEXTS.values())
    assert [path.name for path in pictures if path.name not in everything] == []
    assert max(path.stat().st_size for path in pictures) < LARGEST_PICTURE


def test_no_page_names_a_path_of_one_machine() -> None:
    found = {page: re.findall(r"(?<![\w.~:])/(?:root|tmp/[a-z]|work/|Users/)\S*", text) for page, text in TEXTS.items()}
    assert {page: paths for page, paths in found.items() if paths} == {}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` builds it, but without the functions and classes in the lists of headings, which take a third."""
    options = ["-q", "-W", "--keep-going", "-b", "html", "-D", "toc_object_entries=0"]
    command = [sys.executable, "-m", "sphinx", *options, "docs", str(tmp_path / "html")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "html" / "index.html").is_file()
    assert len(list((tmp_path / "html").rglob("*.html"))) > len(PAGES)


def test_the_generated_pages_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from generate import pages

    texts = pages()
    assert {"sweep-settings.md", "losses.md", "serve-settings.md", "cli.md", "http.md"} <= set(texts)
    assert all(text.strip() for text in texts.values())
