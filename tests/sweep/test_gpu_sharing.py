"""Trials on a GPU: shared by two trials, alone after running out of memory, and a bundle that answers there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.execution.driver import run_sweep

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
MIB = 2**20
SHARED = ("resources.gpus=0.5", "resources.cpus=1")


@contextmanager
def free_memory() -> Iterator[list[int]]:
    """The GPU's free memory in bytes, read every 20 ms while the block runs."""
    free, ending = [torch.cuda.mem_get_info()[0]], threading.Event()

    def watch() -> None:
        while not ending.wait(0.02):
            free.append(torch.cuda.mem_get_info()[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield free
    finally:
        ending.set()
        thread.join()


def test_two_trials_share_a_gpu_and_their_bundle_answers_there_as_on_a_processor(
    cluster: str, write_sweep: Any, photographs: Path, tmp_path: Path
) -> None:
    with free_memory() as free:
        result = run_sweep(write_sweep(*SHARED, "train.epochs=8"), runs=tmp_path)
    assert result.exit_code == 0
    assert set(result.table["status"]) == {"finished"}
    spans = [_span(folder) for folder in (result.folder / "trials").iterdir()]
    assert any(one[0] < other[1] and other[0] < one[1] for one, other in itertools.combinations(spans, 2))
    assert max(free) - min(free) > 400 * MIB  # and all of it on the GPU
    assert result.bundle is not None
    pictures = sorted((photographs / "test").iterdir())
    here, there = (Bundle.load(result.bundle, device=device) for device in ("cpu", "cuda"))
    one, other = (bundle.embed([bundle.prepare(path) for path in pictures]) for bundle in (here, there))
    assert np.sum(one * other, axis=1) == pytest.approx(np.ones(len(one)), abs=1e-3)
    first = ([found.candidates[0].individual for found in bundle.identify(pictures)] for bundle in (here, there))
    assert next(first) == next(first)


def _span(trial: Path) -> tuple[float, float]:
    """Return the times at which the trial wrote its settings and its result."""
    return (trial / "settings.json").stat().st_mtime, (trial / "result.json").stat().st_mtime


def test_a_trial_that_does_not_fit_beside_another_gpu_user_runs_again_alone(
    cluster: str, write_sweep: Any, tmp_path: Path
) -> None:
    free = torch.cuda.mem_get_info()[0]
    held = [torch.empty(free - 1500 * MIB, dtype=torch.uint8, device="cuda")]
    ended = threading.Event()

    def make_room() -> None:
        while not list(tmp_path.glob("little/trials/*/alone")) and not ended.wait(0.05):
            pass
        held.clear()
        torch.cuda.empty_cache()

    thread = threading.Thread(target=make_room, daemon=True)
    thread.start()
    options = ("data.image_size=512x512", "train.batch_size=64", "loss.name=arcface")
    try:
        result = run_sweep(write_sweep(*SHARED, *options), runs=tmp_path)
    finally:
        ended.set()
        thread.join()
    assert list(tmp_path.glob("little/trials/*/alone")) != []
    assert set(result.table["status"]) == {"finished"}, result.table["error"].tolist()
