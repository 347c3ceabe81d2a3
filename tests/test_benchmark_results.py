"""The page of the benchmarks: benchmarks that end well, fail or hang."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[1] / "benchmarks"
ROW = """
import sys
sys.path.insert(0, FOLDER)
import pairs
pairs.print_verdict("one / other", 0.5, at_least=0.9)
"""
SCRIPTS = {
    "good.py": "",
    "failing.py": "sys.exit(3)",
    "hanging.py": "import subprocess\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', 'CHILD'])",
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # set by the import
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    module = importlib.import_module("results")
    for name, end in SCRIPTS.items():
        (tmp_path / name).write_text(ROW.replace("FOLDER", repr(str(FOLDER))) + end.replace("CHILD", str(tmp_path)))
    made = [module.Benchmark(f"{name} measures", name, quick=(), limit=8.0) for name in SCRIPTS]
    monkeypatch.setattr(module, "BENCHMARKS", (*made, module.Benchmark("long", "long.py")))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def run(module: ModuleType, *arguments: str) -> Result:
    app = Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, arguments)


def test_a_failed_and_a_hanging_benchmark_are_rows_and_the_others_run(results: ModuleType, tmp_path: Path) -> None:
    ended = run(results, "--quick", "--out", str(tmp_path / "page.md"))
    assert ended.exit_code == 1
    page = (tmp_path / "page.md").read_text()
    for name in SCRIPTS:
        assert f"| {name} measures | one / other | 0.5 | >= 0.9 | **missed** |" in page
    assert "| `failing.py` | | | **failed**: exit code 3 |" in page
    assert "| `hanging.py` | | | **failed**: not done after 8 s |" in page
    assert "| `long.py` | | | not measured in this run |" in page
    assert not [one for one in psutil.process_iter() if str(tmp_path) in _command(one)]


def test_a_missed_goal_is_no_failure(results: ModuleType, tmp_path: Path) -> None:
    ended = run(results, "--quick", "--only", "good.py", "--out", str(tmp_path / "page.md"))
    assert ended.exit_code == 0
    assert "benchmark 1 of 1: good.py measures (good.py), at most 8 s" in ended.output


def test_a_quick_run_ends_in_time(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "QUICK_SECONDS", 0.0)
    ended = run(results, "--quick", "--out", str(tmp_path / "page.md"))
    assert ended.exit_code == 0
    assert (tmp_path / "page.md").read_text().count("the ten minutes of a quick run were over") == len(SCRIPTS)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
