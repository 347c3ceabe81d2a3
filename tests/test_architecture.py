"""The package structure: import contracts, folder sizes and what importing the package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "whale_ray"
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})


def test_the_import_contracts_of_pyproject_hold() -> None:
    linter = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ended = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_at_most_twelve_modules_and_a_docstring(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12
    assert '"""' in (folder / "__init__.py").read_text()


def test_no_file_is_called_utils() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in PACKAGE.rglob("*.py")}


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    """How long it takes is measured by benchmarks/startup.py."""
    code = (
        "import sys, whale_ray; print(sorted({'torch', 'ray', 'numpy', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded == "[]\n"


def test_two_test_modules_have_different_names() -> None:
    """Without packages, pytest cannot collect two modules of one name in one process."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))


def test_no_path_is_resolved_by_pathlib() -> None:
    """`Path.resolve` raises RuntimeError for links in a circle until Python 3.12; `real_path` does not."""
    assert not [path for path in PACKAGE.rglob("*.py") if ".resolve()" in path.read_text()]
