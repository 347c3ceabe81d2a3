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
    assert loaded_by("whale_ray", "torch", "ray", "numpy", "pandas", "transformers") == []


def test_a_driver_checks_address_and_storage_before_it_loads_torch_ray_or_optuna() -> None:
    assert loaded_by("whale_ray.sweep.execution.driver", "torch", "ray", "optuna", "scipy", "faiss") == []


def test_a_node_is_checked_without_libraries_that_take_seconds_to_load() -> None:
    module = "whale_ray.sweep.planning.node_checks"
    assert loaded_by(module, "torch", "ray", "pandas", "numpy", "pyarrow") == []


def test_a_driver_checks_the_nodes_before_it_loads_pandas_or_torch() -> None:
    module = "whale_ray.sweep.execution.cluster.node_admission"
    assert loaded_by(module, "torch", "pandas", "optuna", "ray.tune") == []


def loaded_by(module: str, *libraries: str) -> list[str]:
    """Return which libraries the import of a module loads."""
    code = f"import sys, {module}; print(*[name for name in {libraries} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_two_test_modules_have_different_names() -> None:
    """Without packages, pytest cannot collect two modules of one name in one process."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))


def test_no_path_is_resolved_by_pathlib() -> None:
    """`Path.resolve` raises RuntimeError for links in a circle until Python 3.12; `real_path` does not."""
    assert not [path for path in PACKAGE.rglob("*.py") if ".resolve()" in path.read_text()]
