"""Distribution of the test files over the processes of pytest-xdist.

The files of a group run in one process, which starts their Ray cluster or their service once. Any other file is a group
by itself: its tests share module fixtures.
"""

from __future__ import annotations

from collections import Counter

import pytest
from xdist.scheduler import LoadFileScheduling

# Fixture that the files of a group share → the files. The longest group comes first.
GROUPS = {
    "cluster": (
        "tests/sweep/test_driver.py",
        "tests/sweep/test_fault_tolerance.py",
        "tests/sweep/test_observability.py",
        "tests/sweep/test_gpu_sharing.py",
        "tests/sweep/test_ray_workarounds.py",
        "tests/test_cli.py",
        "tests/test_device.py",
        "tests/test_ray_address.py",
    ),
    "ray_service": (
        "tests/serving/test_launcher.py",
        "tests/serving/test_http_app.py",
        "tests/serving/test_routes_identify.py",
        "tests/serving/test_routes_gallery.py",
        "tests/serving/test_page.py",
    ),
}
_GROUP_OF_FILE = {file: fixture for fixture, files in GROUPS.items() for file in files}


class GroupScheduling(LoadFileScheduling):
    """Gives each process a group or a file at a time, in the order of `sort_by_group`."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _GROUP_OF_FILE.get(file, file)


def sort_by_group(items: list[pytest.Item]) -> None:
    """Put the groups first, then the files with the most slow tests; the tests of a file keep their order.

    Raises:
        pytest.UsageError: If a test outside a group uses the group's fixture: another process would start it again.
    """
    for item in items:
        file = _file_of(item)
        used = set(getattr(item, "fixturenames", ())) & GROUPS.keys()
        if used - {_GROUP_OF_FILE.get(file)}:
            raise pytest.UsageError(f"{file} uses {', '.join(used)}: add it to GROUPS in tests/process_groups.py")
    slow = Counter(_file_of(item) for item in items if item.get_closest_marker("slow"))
    groups = list(GROUPS)

    def place(item: pytest.Item) -> tuple[int, int]:
        file = _file_of(item)
        group = _GROUP_OF_FILE.get(file)
        return (len(groups), -slow[file]) if group is None else (groups.index(group), 0)

    items.sort(key=place)


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.split("::", 1)[0]
