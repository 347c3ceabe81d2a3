"""The check of a GPU before the trials, with a Ray that only pretends: its place, and its losses."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

from whale_ray.errors import InputError
from whale_ray.sweep.execution.cluster.ray_cluster import check_gpu, node_of_failure

TEXT = "ray::_fault_of_gpu() (pid=7, ip=10.0.0.5)\nModuleNotFoundError: No module named 'a'"
OLD_CODE = RayTaskError("_fault_of_gpu", TEXT, ImportError()).as_instanceof_cause()


class Checks:
    """Answers of the tasks, one after the other; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.options, self.count = answers, {}, 0

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda function: SimpleNamespace(remote=self.start)

    def start(self, gpus: float) -> int:
        self.count += 1
        return self.count

    def get(self, task: int) -> str:
        answer = self.answers[task - 1]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def run(monkeypatch: pytest.MonkeyPatch, *answers: Any, left_out: tuple[str, ...] = ()) -> Checks:
    checks = Checks(*answers)
    monkeypatch.setattr(ray, "remote", checks.remote)
    monkeypatch.setattr(ray, "get", checks.get)
    monkeypatch.setattr(ray, "wait", lambda tasks, timeout: (tasks, []))
    nodes = [{"NodeManagerAddress": "10.0.0.5", "NodeManagerHostname": "gpu-5"}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_gpu(0.5, left_out=left_out, say=print, stopping=threading.Event())
    return checks


@pytest.mark.parametrize(("left_out", "expected"), [((), {}), (("a", "b"), {"ray.io/node-id": "!in(a,b)"})])
def test_a_node_that_is_left_out_gets_no_check(
    monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert run(monkeypatch, "", left_out=left_out).options["label_selector"] == expected


def test_a_check_that_is_lost_with_its_process_or_node_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, WorkerCrashedError(), NodeDiedError("gone"), "").count == 3


def test_a_check_that_is_always_lost_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"resources.gpus: the check of a GPU was lost 3 times, at last: .*10\.0\.0\.5"
    ):
        run(monkeypatch, *(NodeDiedError("node 10.0.0.5 is gone") for _ in range(3)))


def test_a_check_that_fails_names_its_node_and_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (
        r"resources.gpus: node gpu-5 must run the check of its GPU, but: ModuleNotFoundError: No module named 'a'"
    )
    with pytest.raises(InputError, match=expected):
        run(monkeypatch, OLD_CODE)


def test_the_node_of_a_failed_task_is_named(cluster: str) -> None:
    (node,) = ray.nodes()
    with pytest.raises(ZeroDivisionError) as raised:
        ray.get(ray.remote(lambda: 1 / 0).remote())
    assert node_of_failure(raised.value) == f"node {node['NodeManagerHostname']}"
    assert node_of_failure(ValueError("no task")) == "a node"
