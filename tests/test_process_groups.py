"""Order of the tests in two processes, and marks by fixtures."""

from __future__ import annotations

from types import SimpleNamespace

from process_groups import GROUPS, LONGEST, ROOT, mark_by_fixtures, sort_by_group


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
