"""Marks of the tests by their fixtures, and their distribution over the processes of pytest-xdist.

Tests that share a Ray cluster or a service on Ray are a group: one process runs them and starts what they share once.
The other tests of a file are a group as well, for they share module fixtures.
"""

from __future__ import annotations

import functools
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).parents[1]
# Group → arguments of its tests, by which its files are found.
GROUPS = {"Ray cluster": r"\bcluster: str\b", "service on Ray": r"\b(?:on_ray: str|ray_service: Running)\b"}
# Group → session fixture of what its tests share.
SHARED = {"Ray cluster": "cluster", "service on Ray": "ray_service"}
# The longest groups of slow tests: begun first, so that both processes end at about the same time.
LONGEST = (
    "Ray cluster",
    "service on Ray",
    "tests/serving/test_serve_cluster.py",
    "tests/serving/test_separate_encoders.py",
    "tests/sweep/test_nodes_on_s3.py",
    "tests/sweep/test_resume_after_kill.py",
    "tests/sweep/test_node_checks.py",
    "tests/test_docs.py",
    "tests/serving/test_service_nodes.py",
    "tests/serving/test_deploy_file.py",
    "tests/serving/test_bundle_on_every_node.py",
    "tests/test_wheel.py",
    "tests/sweep/test_submitted_job.py",
    "tests/learning/test_encoders.py",
    "tests/sweep/test_lost_nodes.py",
    "tests/sweep/test_autoscaler.py",
)

# Fixture → mark of the tests that use it, whatever their module has.
MARKS = {"cluster": "slow", "finished": "integration"}


class GroupScheduling(LoadFileScheduling):
    """Gives each process one group at a time, in the order of `sort_by_group`."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the group of a test: a key of GROUPS, or the file of the test."""
    file = nodeid.split("::", 1)[0]
    if nodeid.startswith("tests/serving/") and "[on_ray" in nodeid:  # the parameter of the fixture `client`
        return "service on Ray"
    return _group_of_file(file)


@functools.cache
def _group_of_file(file: str) -> str:
    text = (ROOT / file).read_text() if file.startswith("tests/") else ""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, text)), file)


def mark_by_fixtures(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture of MARKS."""
    for item in items:
        for fixture in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[fixture])


def sort_by_group(items: list[pytest.Item]) -> None:
    """Put the longest groups first, then those with the most slow tests; the tests of a group keep their order."""
    slow = Counter(group_of(item.nodeid) for item in items if item.get_closest_marker("slow"))

    def place(item: pytest.Item) -> tuple[int, int]:
        group = group_of(item.nodeid)
        return (LONGEST.index(group), 0) if group in LONGEST else (len(LONGEST), -slow[group])

    items.sort(key=place)


def end_shared(item: pytest.Item, following: pytest.Item | None) -> None:
    """End what a group shares after its last test: a Ray without a task for minutes takes memory and time from others.

    It can also end this process, which Ray does once its cluster has not answered for a minute.
    """
    group = group_of(item.nodeid)
    if group in SHARED and (following is None or group_of(following.nodeid) != group):
        for fixture in item.session._fixturemanager.getfixturedefs(SHARED[group], item) or ():
            fixture.finish(item._request)  # type: ignore[attr-defined]


def pytest_testnodedown(node: Any, error: object) -> None:
    """Print how a process of pytest-xdist has died: pytest-xdist names the test, not the reason.

    Ray writes to its log why it ends the process of a driver. What it prints is lost with the output of the test.
    """
    if error:
        process = node.gateway._io.popen
        status = process.wait(60)
        cause = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        print(f"\n{node.gateway.id} was ended {cause}", file=sys.stderr)
        for log in Path("/tmp").glob(f"ray{process.pid}-*/ray/session_2*/logs/python-core-driver-*.log"):
            print(log, *log.read_text().splitlines()[-5:], sep="\n", file=sys.stderr)
