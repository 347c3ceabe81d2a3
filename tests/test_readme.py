"""The README is true: its tree, reference, commands, examples, answer and links are held against the project."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import typer

from whale_ray.cli import application
from whale_ray.serving.schemas import Answer
from whale_ray.sweep.config.sweep_spec import load_sweep, reference_text

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUSSIAN = (ROOT / "README.ru.md").read_text()
OTHERS = ("source", "export", "unzip", "kaggle", "tensorboard", "optuna-dashboard", "prometheus", "grafana")
LARGEST_PICTURE = 250_000


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = sorted({line for block in blocks("bash") for line in block.splitlines() if line})
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", README + RUSSIAN)))
PICTURES = sorted(set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README + RUSSIAN)))


# The reference, the example of a sweep, the answer


def test_the_reference_is_what_the_command_prints() -> None:
    assert reference_text().strip() in [block.strip() for block in blocks("text")]


def test_the_example_of_a_sweep_is_valid(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    file = tmp_path / "ours.yaml"
    file.write_text(example)
    sweep = load_sweep(file)
    assert sweep.name == "ours"
    assert {"loss.arcface.scale", "model.embedding_size"} <= {axis.name for axis in sweep.axes}


def test_the_answer_has_the_form_of_the_contract() -> None:
    (answer,) = blocks("json")
    shown = json.loads(answer)
    assert Answer.model_validate(shown).model_dump() == shown


def test_the_calls_are_those_that_the_service_has() -> None:
    from whale_ray.serving.http import routes_gallery, routes_identify, routes_session

    def plain(path: str) -> str:
        return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)

    routes = [*routes_identify.router.routes, *routes_gallery.router.routes, *routes_session.router.routes]
    has = {(method, plain(route.path)) for route in routes for method in route.methods}
    shown = set(re.findall(r"^\| `(GET|POST|DELETE) ([^?` ]+)", README, re.MULTILINE))
    assert {call for call in has if call[1].startswith("/v1/")} <= shown
    assert shown - has <= {("GET", "/docs")}


# Commands


def command_of(words: list[str]) -> list[str]:
    """The words after settings of the environment."""
    return [word for place, word in enumerate(words) if not all(re.match(r"\w+=", one) for one in words[: place + 1])]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_well_formed_and_its_program_and_files_exist(line: str) -> None:
    subprocess.run(["bash", "-n", "-c", line], check=True)
    match command_of(shlex.split(line)):
        case ["make", target]:
            recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert recipe
            assert target != "serve" or "RAY_AUTH_MODE=token" in recipe[1]
        case ["whale-ray", *arguments]:
            check_arguments(arguments)
        case ["python", "-m", "whale_ray.sweep", *arguments]:
            check_arguments(["sweep", *arguments])
        case ["python", file]:
            assert (ROOT / file).is_file()
        case ["serve", "deploy", file]:
            assert (ROOT / file).is_file()
        case ["serve", "run", target, *_]:
            assert target.removeprefix("serve_app:") in ("app", "build")
        case ["curl", *arguments]:
            assert any(re.search(r"/v1/(identify|individuals|versions)", argument) for argument in arguments)
        case [program, *_]:
            assert program in OTHERS


def check_arguments(arguments: list[str]) -> None:
    """Raises where the command line would refuse them; a sweep file that is named, and its settings, must be good."""
    group = typer.main.get_command(application)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    if arguments == ["--help"]:
        return
    name, *rest = arguments
    context = group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    if name == "sweep":
        load_sweep(ROOT / context.params["file"], context.params["set_"] or [], data=context.params["data"])


def test_every_command_of_whale_ray_is_in_the_readme() -> None:
    group = typer.main.get_command(application)
    missing = {name for name in group.commands if f"whale-ray {name} " not in README + " "}  # type: ignore[attr-defined]
    assert missing <= {"spec", "sweep"}
    assert "whale-ray spec\n" in README


def test_the_python_example_runs(
    finished: SweepResult, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a sweep that has finished already, under the quickstart's name, so that nothing is trained again."""
    (example,) = [block for block in blocks("python") if "run_sweep" in block]
    (tmp_path / "sweeps").mkdir()
    text = (finished.folder / "sweep.yaml").read_text()
    (tmp_path / "sweeps" / "quickstart.yaml").write_text(re.sub(r"(?m)^name: .*$", "name: quickstart", text))
    shutil.copytree(finished.folder, tmp_path / "runs" / "quickstart", symlinks=True)
    shutil.copy(next((photographs / "test").glob("*.jpg")), tmp_path / "fluke.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert len(names["result"].table) == len(finished.table)  # type: ignore[attr-defined]
    assert len(names["answer"].candidates) == 5  # type: ignore[attr-defined]


# Links and pictures


def anchors() -> set[str]:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_somewhere(link: str) -> None:
    if link.startswith("#"):
        assert link in anchors()
    elif not link.startswith("https://"):
        assert (ROOT / link).is_file()


def test_every_picture_is_small_and_shown() -> None:
    pictures = [path for path in (ROOT / "figures").iterdir() if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in pictures} == set(PICTURES)
    assert max(path.stat().st_size for path in pictures) < LARGEST_PICTURE


def test_no_path_of_a_single_machine_is_named() -> None:
    assert not re.search(r"/(home|root|tmp|work|Users)/", README)
