"""GPU share, refused before any work if torch cannot use it; CPUs and threads within the quota of a container."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import cv2
import pytest
import ray
import torch
from small_sweep import SWEEP

from whale_ray import device
from whale_ray.device import (
    available_cpus,
    cpu_quota,
    has_int8,
    limit_default_threads,
    limit_threads,
    reserved_device,
    restored_threads,
    without_default_threads,
)
from whale_ray.errors import InputError
from whale_ray.serving.deployment.rollout import check_gpus
from whale_ray.serving.deployment.settings import ServeSettings
from whale_ray.sweep.execution.cluster.ray_cluster import check_gpu
from whale_ray.sweep.trials.worker import may_fit_alone

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_without_a_gpu_share_the_cpu_is_used() -> None:
    assert reserved_device(0.0) == "cpu"


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": False}, False),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_int8_needs_vnni_on_x86(able: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert has_int8() is expected


@WITHOUT_GPU
def test_a_share_that_torch_cannot_use_is_refused() -> None:
    with pytest.raises(InputError, match=r"with 0.5 GPU reserved, torch must be able to use one.*reserve no GPU"):
        reserved_device(0.5)


@WITHOUT_GPU
@pytest.mark.slow
def test_a_sweep_on_a_cluster_whose_gpus_torch_cannot_use_starts_no_trial(photographs: Path, tmp_path: Path) -> None:
    """As with a CPU build of torch on a machine with a GPU, which Ray finds."""
    (tmp_path / "little.yaml").write_text(SWEEP.replace("ROOT", str(photographs)) + "resources: {gpus: 0.5}\n")
    sees_a_gpu = "import ray; init = ray.init; ray.init = lambda **options: init(num_gpus=1, num_cpus=1, **options); "
    code = f"{sees_a_gpu}from whale_ray.sweep.command import main; main()"
    command = (sys.executable, "-c", code, tmp_path / "little.yaml", "--runs", tmp_path / "runs")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "resources.gpus: with 0.5 GPU reserved, torch must be able to use one" in " ".join(ended.stderr.split())
    assert list(tmp_path.glob("runs/little/trials/*")) == []


def test_a_gpu_that_no_trial_uses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    for resources in ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0}):
        monkeypatch.setattr(ray, "cluster_resources", lambda resources=resources: resources)
        check_gpu(0.0, left_out=(), say=messages.append, stopping=threading.Event())
    assert messages == ["no trial uses the GPU that is there: with resources.gpus=0.5, two trials share one"]


@WITHOUT_GPU
def test_waiting_for_a_gpu_is_reported_and_can_be_interrupted(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whale_ray.sweep.execution.cluster.ray_cluster._GPU_SECONDS", 0.0)
    messages, stopping = [], threading.Event()

    def say(text: str) -> None:
        messages.append(text)
        stopping.set()

    check_gpu(0.5, left_out=(), say=say, stopping=stopping)
    assert messages == ["waiting for 0.5 GPU of the cluster, which others hold"]


@pytest.mark.parametrize(
    ("gpus", "replicas", "more", "found", "fits"),
    [
        (0.5, 2, 0, 1.0, True),
        (0.5, 2, 1, 1.0, False),
        (0.4, 1, 1, 1.0, True),
        (0.6, 3, 0, 2.0, False),  # 1.8 of 2 GPUs, but no third lies on one
        (1.0, 2, 0, 2.0, True),
        (1.0, 1, 0, 0.0, False),
        (0.0, 9, 9, 0.0, True),
    ],
)
def test_encoders_fit_where_each_share_lies_on_one_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: float, replicas: int, more: int, found: float, fits: bool
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": found} if found else {})
    settings = ServeSettings(bundle=Path("a"), gpus=gpus, replicas=replicas)
    with nullcontext() if fits else pytest.raises(InputError, match=rf"gpus={gpus:g} .*Lower gpus.*surge=0"):
        check_gpus(settings, more=more)


@pytest.mark.parametrize(
    ("message", "again"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_out_of_memory_errors_of_every_cuda_library_retry_the_trial_alone(message: str, again: bool) -> None:
    error = RuntimeError(message)
    assert may_fit_alone(error, gpus=0.5) is again
    assert not may_fit_alone(error, gpus=1.0)
    assert not may_fit_alone(error, gpus=0.0)
    assert not may_fit_alone(ValueError(message), gpus=0.5)


_COUNT_PAGE_FAULTS = """
import resource
import torch
from whale_ray.device import keep_freed_memory
def faults(allocations):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(allocations):
        torch.ones(16 * 2**20)  # 64 MiB, which glibc would give back to the system
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
keep_freed_memory()
faults(40)  # the heap grows until its free blocks fit
print(faults(5))
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_freed_memory_is_used_again_unless_the_environment_chooses(environment: dict[str, str], kept: bool) -> None:
    command = [sys.executable, "-c", _COUNT_PAGE_FAULTS]
    plain = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    ran = subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True)
    assert (int(ran.stdout) < 1_000) is kept


# Quotas of containers


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (  # a slice grants less than the machine's root, and its child nothing of its own
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
            },
            4.0,
        ),
        (  # the host's path is named, but the container sees its own group as the root
            {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "7:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged"}, math.inf),
    ],
)
def test_the_smallest_quota_of_the_control_groups_counts(tmp_path: Path, files: dict[str, str], cpus: float) -> None:
    assert cpu_quota(write_files(tmp_path, files)) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(math.inf, 8), (2.5, 3), (0.2, 1), (16.0, 8)])
def test_a_quota_limits_the_cpus(monkeypatch: pytest.MonkeyPatch, quota: float, cpus: int) -> None:
    monkeypatch.setattr(device, "_affinity", lambda: 8)
    monkeypatch.setattr(device, "cpu_quota", lambda: quota)
    assert available_cpus() == cpus


@pytest.mark.parametrize(
    ("quota", "given", "threads"), [(2.0, None, "2"), (2.0, "5", "5"), (math.inf, None, None), (math.inf, "8", "8")]
)
def test_libraries_get_the_threads_of_the_quota_but_ray_sets_its_own(
    monkeypatch: pytest.MonkeyPatch, quota: float, given: str | None, threads: str | None
) -> None:
    monkeypatch.setattr(device, "_affinity", lambda: 8)
    monkeypatch.setattr(device, "cpu_quota", lambda: quota)
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    limit_default_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    with without_default_threads():
        assert os.environ.get("OMP_NUM_THREADS") == given
    assert os.environ.get("OMP_NUM_THREADS") == threads


def test_a_limit_of_threads_holds_for_torch_and_opencv_until_the_end_of_the_block() -> None:
    def threads() -> tuple[int, int]:
        return torch.get_num_threads(), cv2.getNumThreads()

    before = threads()
    with restored_threads():
        limit_threads(3)
        assert threads() == (3, 3)
    assert threads() == before
