"""The page of the benchmarks: benchmarks that end well, fail or hang."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

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
import paired_timing
ratio = float(sys.argv[1:][0] if sys.argv[1:] else 0.5)
paired_timing.print_verdict("one / other", ratio, at_least=0.9, obstacle="It waits.")
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
    made = [module.Benchmark("1", f"{name} measures", name, quick=(), limit=8.0) for name in SCRIPTS]
    monkeypatch.setattr(module, "BENCHMARKS", (*made, module.Benchmark("2, 3", "long", "long.py", ("2",))))
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
        assert f"| {name} measures | one / other | 0.5 | >= 0.9 | **missed** | A, " in page

    assert page.count("- Row 1, one / other, 0.5 instead of >= 0.9 on A: It waits.\n") == len(SCRIPTS)
    assert "| `failing.py` | | | **failed**: exit code 3 |" in page
    assert "| `hanging.py` | | | **failed**: not done after 8 s |" in page
    assert "| 2, 3 | long | `long.py` | | | not measured | |" in page
    assert not [one for one in psutil.process_iter() if str(tmp_path) in _command(one)]


def test_a_missed_goal_is_no_failure(results: ModuleType, tmp_path: Path) -> None:
    ended = run(results, "--quick", "--only", "good.py", "--out", str(tmp_path / "page.md"))
    assert ended.exit_code == 0
    assert "benchmark 1 of 1: good.py measures (good.py), at most 8 s" in ended.output


def test_a_quick_run_ends_in_time(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "QUICK_SECONDS", 0.0)
    ended = run(results, "--quick", "--out", str(tmp_path / "page.md"))
    assert ended.exit_code == 0
    assert ended.output.count("not measured: the ten minutes of a quick run are over") == len(SCRIPTS)
    assert (tmp_path / "page.md").read_text().count("| not measured | |") == len(SCRIPTS) + 1


def test_a_quick_run_keeps_what_the_last_full_run_measured_and_it_does_not(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text((tmp_path / "good.py").read_text())
    page = tmp_path / "page.md"
    run(results, "--only", "long.py", "--out", str(page))
    run(results, "--quick", "--only", "good.py", "--out", str(page))
    rows = [line for line in page.read_text().splitlines() if "one / other" in line and line.startswith("|")]
    assert [("full" in row, "quick" in row) for row in rows] == [(False, True), (True, False)]
    assert "| 2, 3 | long | one / other | 2 | >= 0.9 | reached | A, " in rows[1]


def test_a_ratio_replaces_that_of_the_same_name_and_a_quick_one_no_other(results: ModuleType) -> None:
    def measured(*ratios: tuple[str, float], quick: bool, fault: str = "") -> Any:
        verdicts = [{"name": name, "ratio": ratio} for name, ratio in ratios]
        return results.Measurement("good.py measures", "2026-01-01", quick, 0.0, {}, verdicts, fault)

    def merged(*runs: Any) -> list[tuple[str, float, bool]]:
        found: list[Any] = []
        for one in runs:
            found = results.merge(found, one)
        return sorted((row["name"], row["ratio"], one.quick) for one in found for row in one.verdicts)

    full = measured(("a", 1.0), ("b", 1.0), quick=False)
    quick = measured(("a", 2.0), ("small", 2.0), quick=True)
    assert merged(full, quick) == [("a", 2.0, True), ("b", 1.0, False), ("small", 2.0, True)]
    assert merged(full, quick, full) == merged(full) == merged(quick, full)
    assert merged(full, quick, measured(("c", 3.0), quick=True)) == [("b", 1.0, False), ("c", 3.0, True)]
    failed = measured(("a", 4.0), quick=False, fault="exit code 1")
    assert merged(full, failed) == [("a", 4.0, False), ("b", 1.0, False)]


def test_each_kind_of_processor_keeps_its_ratios(results: ModuleType) -> None:
    def measured(ratio: float, processor: str, *, ray: str = "1") -> Any:
        machine = {"processor": processor, "instructions": "avx2", "ray": ray}
        row = {"name": "a", "ratio": ratio, "goal": ">= 9", "reached": False, "obstacle": "It waits."}
        return results.Measurement("good.py measures", "2026-01-01", False, 0.0, machine, [row])

    found: list[Any] = []
    for one in (measured(1.0, "one"), measured(2.0, "two"), measured(3.0, "one", ray="2")):
        found = results.merge(found, one)
    assert [(one.machine["processor"], one.verdicts[0]["ratio"]) for one in found] == [("two", 2.0), ("one", 3.0)]
    page = results.page(found)
    assert "| a | 2 | >= 9 | **missed** | A, " in page
    assert "- Row 1, a, 3 instead of >= 9 on B: It waits." in page


def test_a_benchmark_for_a_gpu_is_left_out_without_one_and_linked(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_has_gpu", lambda: False)
    gpu = results.Benchmark("15", "on a GPU", "gpu.py", quick=(), earlier="page.md#here")
    monkeypatch.setattr(results, "BENCHMARKS", (*results.BENCHMARKS[:1], gpu))
    run(results, "--quick", "--out", str(tmp_path / "page.md"))
    row = "| 15 | on a GPU | `gpu.py` | | | not measured: it needs a GPU; [figures of an earlier run](page.md#here) | |"
    assert row in (tmp_path / "page.md").read_text()


def test_the_benchmarks_measure_all_rows_and_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    all_of_them = importlib.reload(importlib.import_module("results")).BENCHMARKS
    rows = {row for one in all_of_them for row in one.row.split(", ")}
    assert rows == {str(number) for number in range(1, 16)}
    assert len({one.measures for one in all_of_them}) == len(all_of_them)
    assert all((FOLDER / one.script).is_file() for one in all_of_them)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
