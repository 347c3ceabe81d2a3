"""Order of the tests in two processes, and marks by fixtures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import process_groups
import pytest
from process_groups import (
    GROUPS,
    LONGEST,
    ROOT,
    end_shared,
    mark_by_fixtures,
    pytest_testnodedown,
    sort_by_group,
)


def test_every_long_group_exists() -> None:
    assert [name for name in LONGEST if name not in GROUPS and not (ROOT / name).is_file()] == []


def test_long_groups_come_first_and_their_tests_keep_their_order() -> None:
    names = ["tests/test_docs.py::b", "tests/data/test_split.py::a", f"{LONGEST[1]}::c", "tests/test_docs.py::a"]
    items = [SimpleNamespace(nodeid=name, get_closest_marker=lambda mark: None) for name in names]
    sort_by_group(items)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == [names[2], names[0], names[3], names[1]]


def test_a_test_on_the_shared_cluster_is_slow_and_one_that_reads_the_shared_sweep_is_integration() -> None:
    marks: list[str] = []
    uses = (["cluster", "tmp_path"], ["finished"], ["photographs"])
    items = [SimpleNamespace(fixturenames=names, add_marker=marks.append) for names in uses]
    mark_by_fixtures(items)  # type: ignore[arg-type]
    assert marks == ["slow", "integration"]


@pytest.fixture(scope="session")
def kept() -> Iterator[list[str]]:
    events: list[str] = []
    yield events
    events.append("ended")


def test_what_a_group_shares_ends_after_its_last_test(
    request: pytest.FixtureRequest, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_groups, "SHARED", {"tests/test_process_groups.py": "kept"})
    end_shared(request.node, request.node)
    assert kept == []
    end_shared(request.node, None)
    assert kept == ["ended"]


def test_what_ray_wrote_before_it_ended_a_process_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["false"]) as process:
        node = SimpleNamespace(gateway=SimpleNamespace(id="gw0", _io=SimpleNamespace(popen=process)))
        with tempfile.TemporaryDirectory(prefix=f"ray{process.pid}-", dir="/tmp") as folder:
            logs = Path(folder) / "ray" / "session_2026" / "logs"
            logs.mkdir(parents=True)
            (logs / "python-core-driver-01.log").write_text("GCS has been unavailable\n")
            pytest_testnodedown(node, "crashed")
    assert re.findall(r"gw0 was ended .* 1\n.*driver-01.log\nGCS has been unavailable", capsys.readouterr().err)


CONFTEST = """
import pytest
from process_groups import GroupScheduling, pytest_testnodedown

def pytest_xdist_make_scheduler(config, log):
    return GroupScheduling(config, log)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("end", "status"),
    [("os.kill(os.getpid(), 9)", "by SIGKILL"), ("os._exit(3)", "with exit status 3")],
)
def test_a_process_that_dies_in_its_last_test_ends_the_run_with_its_exit_status(
    tmp_path: Path, end: str, status: str
) -> None:
    """The other process has ended by then, and pytest-xdist would wait for ever for one that replaces the dead one."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_first.py").write_text("def test_first(): pass")
    (tmp_path / "test_last.py").write_text(f"import os, time\n\ndef test_last():\n    time.sleep(2)\n    {end}")
    found = re.search(r"^PARALLEL := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *found[1].split(), str(tmp_path)]
    variables = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"was ended {status}" in done.stderr
    assert "crashed while running 'test_last.py::test_last'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_failure_in_the_block_of_a_process_ends_it() -> None:
    """As the time limit of a test does, which would else wait for ever for a process that does not end."""
    with pytest.raises(TimeoutError), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as one:
        raise TimeoutError
    assert one.returncode == -signal.SIGKILL
