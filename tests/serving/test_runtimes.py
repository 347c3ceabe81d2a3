"""Encoder runtimes: equal embeddings, and the choice of the fastest one for a bundle."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_photographs import INDIVIDUALS, draw
from services import contents

from whale_ray.device import has_int8
from whale_ray.errors import BundleError, EncoderError
from whale_ray.inference import runtime_benchmark, runtimes
from whale_ray.inference.bundle import read_bundle, write_bundle
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.predictor import Bundle
from whale_ray.inference.runtime_benchmark import BenchmarkQueries, with_fastest_runtime
from whale_ray.inference.runtimes import BFLOAT16_RUNTIMES, INT8_RUNTIMES, RUNTIMES, TORCH, OnnxModel, build_runtime
from whale_ray.learning.encoders.registry import build_encoder

pytestmark = pytest.mark.integration

OTHERS = sorted(RUNTIMES.keys() - {TORCH})


@pytest.fixture(scope="module")
def whole() -> BundleContents:
    return contents()


@pytest.fixture(scope="module")
def queries(whole: BundleContents) -> BenchmarkQueries:
    bundle = Bundle(whole)
    shown = [(individual, view) for individual in range(len(INDIVIDUALS)) for view in (7, 8)]
    arrays = [bundle.prepare(draw(*one)) for one in shown]
    seen = [bundle.prepare(draw(individual, view)) for individual in range(len(INDIVIDUALS)) for view in (0, 1)]
    names = [INDIVIDUALS[individual] for individual, _ in shown]
    return BenchmarkQueries(arrays, names, np.arange(len(INDIVIDUALS) * 2), calibration=seen)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("encoder", ["tiny", "torchvision:resnet18"])
def test_a_runtime_gives_the_embeddings_of_torch_for_batches_of_any_size(name: str, encoder: str) -> None:
    torch.manual_seed(0)
    model = build_encoder(encoder, embedding_size=16, weights="random", image_size=(32, 64), pool="gem").eval()
    images = torch.rand(5, 3, 32, 64)
    onnx_model = OnnxModel(calibration=[images.numpy()])
    with torch.inference_mode():
        expected = model(images)
        found = build_runtime(name, model, size=(32, 64), threads=1, onnx_model=onnx_model)
        for count in (5, 1):
            cosines = torch.cosine_similarity(found(images[:count]).float(), expected[:count])
            assert cosines.min() > 1 - {"bf16": 1e-3, "int8": 1e-2}.get(name[-4:], 1e-6)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"a runtime is one of torch, .*, but got 'abacus'"):
        build_runtime("abacus", torch.nn.Identity(), size=(8, 8), threads=1)


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EncoderError, match=r"onnxruntime needs onnxruntime, .*pip install 'whale-ray\[fast\]'"):
        build_runtime("onnxruntime", torch.nn.Identity(), size=(8, 8), threads=1)


def test_an_encoder_that_a_runtime_cannot_run_is_refused_with_its_name() -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(images).mean((2, 3))

    with pytest.raises(EncoderError, match=r"the runtime openvino cannot run this encoder: .*Use the runtime torch"):
        build_runtime("openvino", Odd(), size=(8, 8), threads=1)


def test_openvino_telemetry_is_off() -> None:
    code = "from whale_ray.inference.runtimes import *; import torch, sys; "
    code += "build_runtime('openvino', torch.nn.Flatten(), size=(8, 8), threads=1); "
    code += "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_fastest_runtime_with_the_same_recall_is_named_with_what_was_measured(
    whole: BundleContents, queries: BenchmarkQueries, tmp_path: Path
) -> None:
    named = with_fastest_runtime(whole, queries).manifest["runtime"]
    speeds = named["images_per_second"]
    assert speeds.keys() == RUNTIMES.keys() - named["passed_over"].keys()
    recalls = named["recall@1"]
    assert recalls.get(named["name"], 1.0) >= recalls.get(TORCH, 0.0)
    assert named["queries"] == (len(queries.arrays) if recalls else 0)
    assert 1 / speeds[named["name"]][0] + 8 / speeds[named["name"]][1] <= 1 / speeds[TORCH][0] + 8 / speeds[TORCH][1]
    written = write_bundle(with_fastest_runtime(whole, queries), tmp_path / "bundle")
    loaded = Bundle.load(written)
    assert loaded.runtime == read_bundle(written).manifest["runtime"]["name"]
    assert f"Runs on: {loaded.runtime}" in (written / "README.md").read_text()


def test_the_onnx_model_is_exported_once_for_all_runtimes(
    whole: BundleContents, queries: BenchmarkQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[tuple[int, int]] = []

    def export(encoder: torch.nn.Module, size: tuple[int, int]) -> bytes:
        exported.append(size)
        return export_onnx(encoder, size)

    export_onnx = runtimes._onnx
    monkeypatch.setattr(runtimes, "_onnx", export)
    named = with_fastest_runtime(whole, queries).manifest["runtime"]
    assert {"onnxruntime", "openvino"} <= named["images_per_second"].keys()
    assert len(exported) == 1


def test_a_runtime_with_a_lower_recall_is_not_chosen(
    whole: BundleContents, queries: BenchmarkQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    fooled = dataclasses.replace(whole, golden=whole.golden[:1], golden_vectors=whole.golden_vectors[:1])

    class FirstImageOnly(torch.nn.Module):
        """Right for the golden photograph, which comes first; it gives all later ones the same embedding at once."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder
            self.first: torch.Tensor | None = None

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.first is None:
                self.first = self.encoder(images[:1])
            return self.first.expand(len(images), -1)

    monkeypatch.setitem(RUNTIMES, "openvino", lambda encoder, export, threads: FirstImageOnly(encoder))
    named = with_fastest_runtime(fooled, queries).manifest["runtime"]
    assert named["name"] != "openvino"
    assert "its recall@1 is" in named["passed_over"]["openvino"]


def times(able: dict[str, Bundle], *, fastest: str) -> dict[str, tuple[float, float]]:
    return {name: (0.01, 0.01) if name == fastest else (0.1, 0.1) if name != TORCH else (1.0, 1.0) for name in able}


@pytest.mark.skipif(not has_int8(), reason="this processor has no VNNI: sums of int8 products overflow")
@pytest.mark.parametrize("name", INT8_RUNTIMES)
def test_a_bundle_on_int8_carries_the_model_that_its_gallery_calibrated(
    name: str, whole: BundleContents, queries: BenchmarkQueries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_benchmark, "_measure_seconds", lambda able, arrays: times(able, fastest=name))
    monkeypatch.setattr(runtime_benchmark, "_DECIDED_OTHERWISE", 1.0)
    made = with_fastest_runtime(whole, queries)
    assert made.manifest["runtime"]["name"] == name, made.manifest["runtime"]["passed_over"].get(name)
    monkeypatch.setattr(runtimes, "_onnx", None)  # a service neither exports nor quantizes
    loaded = Bundle.load(write_bundle(made, tmp_path / "bundle"))
    assert loaded.runtime == name
    assert loaded.contents.int8 == made.int8
    found = loaded.embed(queries.arrays)
    expected = Bundle(whole).embed(queries.arrays)
    assert 1e-7 < np.max(1 - np.sum(found * expected, axis=1)) < 1e-2


def test_a_bundle_on_another_runtime_has_no_int8_model(
    whole: BundleContents, queries: BenchmarkQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_benchmark, "_measure_seconds", lambda able, arrays: times(able, fastest="openvino"))
    made = with_fastest_runtime(whole, queries)
    assert (made.manifest["runtime"]["name"], made.int8) == ("openvino", b"")


@pytest.mark.parametrize(
    ("able", "calibration", "reason"),
    [
        (True, (), "no gallery photographs were there to calibrate int8 with"),
        (False, [np.zeros((48, 64, 3), dtype=np.uint8)], "this processor has no VNNI"),
    ],
)
def test_int8_is_not_tried_without_instructions_or_photographs_to_calibrate_with(
    able: bool,
    calibration: list[np.ndarray],
    reason: str,
    whole: BundleContents,
    queries: BenchmarkQueries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_benchmark, "has_int8", lambda: able)
    monkeypatch.setattr(runtime_benchmark, "_measure_seconds", lambda able, arrays: times(able, fastest="openvino"))
    named = with_fastest_runtime(whole, dataclasses.replace(queries, calibration=calibration)).manifest["runtime"]
    assert {name for name, why in named["passed_over"].items() if reason in why} == set(INT8_RUNTIMES)


def test_a_runtime_that_decides_otherwise_is_not_chosen() -> None:
    known = np.arange(200) >= 2
    assert runtime_benchmark._loss(0.9, known, 0.9, np.ones(200, dtype=bool)) == ""
    assert "decides otherwise than torch on 2.0%" in runtime_benchmark._loss(
        0.9, known[:100], 0.9, ~np.zeros(100, bool)
    )


def test_bfloat16_that_the_processor_emulates_is_not_measured(
    whole: BundleContents, queries: BenchmarkQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whale_ray.inference.runtime_benchmark.has_bfloat16", lambda: False)
    named = with_fastest_runtime(whole, queries).manifest["runtime"]
    assert {name for name, why in named["passed_over"].items() if "emulates" in why} == set(BFLOAT16_RUNTIMES)
    assert not set(BFLOAT16_RUNTIMES) & named["images_per_second"].keys()


def test_queries_are_left_out_where_they_would_take_long(
    whole: BundleContents, queries: BenchmarkQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whale_ray.inference.runtime_benchmark._RECALL_SECONDS", 0.0)
    monkeypatch.setattr("whale_ray.inference.runtime_benchmark._FEWEST_QUERIES", 3)
    monkeypatch.setattr(runtime_benchmark, "_measure_seconds", lambda able, arrays: times(able, fastest="openvino"))
    named = with_fastest_runtime(whole, queries).manifest["runtime"]
    assert named["queries"] == 3
    assert named["recall@1"].keys() == {TORCH, named["name"]}


def test_without_known_queries_the_runtime_is_torch_and_the_card_gives_the_reason(whole: BundleContents) -> None:
    named = with_fastest_runtime(whole, BenchmarkQueries([], [], np.zeros(0, dtype=int))).manifest["runtime"]
    assert named["name"] == TORCH
    assert "no known photograph" in named["reason"]


def named(whole: BundleContents, folder: Path, **runtime: object) -> Path:
    return write_bundle(
        dataclasses.replace(whole, manifest=whole.manifest | {"runtime": {"reason": "as a test has it", **runtime}}),
        folder,
    )


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ({"name": "onnxruntime", "tolerance": 1e-4}, "onnxruntime, which is not installed"),
        ({"name": "torch-bf16", "tolerance": 1e-12}, "on torch-bf16 differs by"),
        ({"name": "torch-bf16", "tolerance": 1.0}, "the tolerance of"),
        ({"name": "torch-bf16"}, "the tolerance of"),
        ({"name": "openvino-int8", "tolerance": 1e-4}, "int8 needs inputs to calibrate it with"),
        ({"name": "abacus", "tolerance": 1e-4}, "a runtime is one of"),
    ],
)
def test_a_missing_or_wrong_runtime_falls_back_to_torch_with_a_warning(
    whole: BundleContents,
    tmp_path: Path,
    runtime: dict[str, object],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.WARNING):
        bundle = Bundle.load(named(whole, tmp_path / "bundle", **runtime))
    assert bundle.runtime == TORCH
    assert f"runs on torch here, and not on {runtime['name']}" in caplog.text
    assert reason in caplog.text


def test_wrong_golden_images_are_refused_in_every_runtime(whole: BundleContents, tmp_path: Path) -> None:
    wrong = dataclasses.replace(whole, golden_vectors=-whole.golden_vectors)
    with pytest.raises(BundleError, match="the golden images must give their embeddings"):
        Bundle.load(named(wrong, tmp_path / "bundle", name="torch-bf16", tolerance=1e-4))
