"""A share of a GPU that torch cannot use is refused before any work: nothing runs many times slower, unnoticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from little_sweep import SWEEP

from whale_ray.device import device_for
from whale_ray.errors import InputError
from whale_ray.sweep.cluster import check_gpu
from whale_ray.sweep.trial import may_fit_alone

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_without_a_share_the_processor_works() -> None:
    assert device_for(0.0) == "cpu"


@WITHOUT_GPU
def test_a_share_that_torch_cannot_use_is_refused() -> None:
    with pytest.raises(InputError, match=r"with 0.5 GPU reserved, torch must be able to use one.*reserve no GPU"):
        device_for(0.5)


@WITHOUT_GPU
@pytest.mark.slow
def test_a_sweep_on_a_cluster_whose_gpus_torch_cannot_use_starts_no_trial(photographs: Path, tmp_path: Path) -> None:
    """As where torch's build for processors stands on a machine with a GPU, which Ray finds all the same."""
    (tmp_path / "little.yaml").write_text(SWEEP.replace("ROOT", str(photographs)) + "resources: {gpus: 0.5}\n")
    sees_a_gpu = "import ray; init = ray.init; ray.init = lambda **options: init(num_gpus=1, num_cpus=1, **options); "
    code = f"{sees_a_gpu}from whale_ray.sweep.command import main; main()"
    command = (sys.executable, "-c", code, tmp_path / "little.yaml", "--runs", tmp_path / "runs")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "resources.gpus: with 0.5 GPU reserved, torch must be able to use one" in " ".join(ended.stderr.split())
    assert list(tmp_path.glob("runs/little/trials/*")) == []


def test_a_gpu_that_stands_idle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for resources in ({"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0}):
        monkeypatch.setattr(ray, "cluster_resources", lambda resources=resources: resources)
        check_gpu(0.0, say=said.append)
    assert said == ["a GPU stands idle: with resources.gpus=0.5, two trials share one"]


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_trial_may_fit_alone_whichever_of_cudas_libraries_found_no_room(said: str, again: bool) -> None:
    error = RuntimeError(said)
    assert may_fit_alone(error, gpus=0.5) is again
    assert not may_fit_alone(error, gpus=1.0)
    assert not may_fit_alone(error, gpus=0.0)
    assert not may_fit_alone(ValueError(said), gpus=0.5)
