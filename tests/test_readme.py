"""The README says what is there: its tree, its reference, its commands and examples are held against the project."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from whale_ray.sweep.spec import load_sweep, reference_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def purpose(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".yaml":
        return text.splitlines()[0].removeprefix("# Question: ")
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def files() -> list[Path]:
    found = [ROOT / "serve_app.py"]
    for pattern in ("whale_ray/**/*.py", "sweeps/**/*.yaml", "benchmarks/*.py"):
        found += ROOT.glob(pattern)
    return found


def test_the_tree_names_every_file_with_its_purpose() -> None:
    rows = dict(re.findall(r"^\| `([^`]+\.(?:py|yaml))` \| (.+) \|$", README, flags=re.M))
    assert rows == {str(path.relative_to(ROOT)): purpose(path) for path in files()}


def test_the_reference_is_what_the_command_prints() -> None:
    assert blocks("text") == [reference_text().rstrip() + "\n"]


def test_the_example_of_a_sweep_loads(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(example)
    assert load_sweep(tmp_path / "mine.yaml").name == "mine"


def test_the_python_example_uses_names_that_exist() -> None:
    (example,) = blocks("python")
    code = "\n".join(line for line in example.splitlines() if line.startswith(("from", "import", "sweep =")))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_a_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    "target", sorted({word for block in blocks("bash") for word in re.findall(r"make (\w+)", block)})
)
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_the_commands_of_the_readme_exist() -> None:
    used = set(re.findall(r"whale-ray (\w+)", README)) - {"spec"}
    text = subprocess.run(
        [sys.executable, "-c", "from whale_ray.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert used
    assert not {command for command in used if not re.search(rf"^\s*{command}\b", text, flags=re.M)}
