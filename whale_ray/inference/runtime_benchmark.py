"""Runtime benchmark: the fastest runtime on this machine that recognises as many photographs as torch."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from whale_ray.data.image_io import Geometry
from whale_ray.device import available_cpus, has_bfloat16, has_int8, restored_threads
from whale_ray.errors import BundleError, EncoderError
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.golden_images import largest_tolerance
from whale_ray.inference.predictor import Bundle
from whale_ray.inference.runtimes import BFLOAT16_RUNTIMES, INT8_RUNTIMES, RUNTIMES, TORCH, OnnxModel
from whale_ray.retrieval.embed import image_batch

_TOGETHER = 8
_ROUNDS = 5
_SECONDS = 1.5
_FAR_BEHIND = {2: 4.0, 3: 2.0}  # times the fastest: a runtime that is slower before this round is not timed again
_RECALL_SECONDS = 4.0
_FEWEST_QUERIES = 32
_DECIDED_OTHERWISE = 0.01  # largest share of the queries


@dataclasses.dataclass(frozen=True)
class BenchmarkQueries:
    """Prepared photographs with known individuals.

    Attributes:
        arrays: Inputs of the encoder.
        individuals: Individual of each photograph.
        gallery: Rows of the bundle's gallery to search, such that no photograph finds itself.
        calibration: Prepared gallery photographs to quantize the encoder with; none for no runtime in int8.
    """

    arrays: Sequence[np.ndarray]
    individuals: Sequence[str]
    gallery: np.ndarray
    calibration: Iterable[np.ndarray] = ()


def with_fastest_runtime(contents: BundleContents, queries: BenchmarkQueries, *, threads: int = 1) -> BundleContents:
    """Return the contents with the fastest runtime whose recall@1 is at least torch's.

    All usable runtimes are timed: the smallest time for one photograph plus eight together. The fastest is then
    compared with torch on the queries, the next one if it recognises fewer or decides more than one in a hundred
    otherwise, and so on; queries that would take longer than four seconds with torch are left out. `passed_over` in the
    manifest's `runtime` says why a runtime that is missing, emulated by this processor, unable to run the encoder or
    less exact was not chosen. The contents have the model in int8 if the runtime needs it.

    Args:
        contents: The bundle.
        queries: Photographs to measure on.
        threads: Threads per runtime.
    """
    if not len(queries.arrays):
        return _naming(contents, {"name": TORCH, "reason": "no known photograph was there to compare runtimes with"})
    searched = dataclasses.replace(
        contents,
        manifest=contents.manifest | {"retrieval": contents.manifest["retrieval"] | {"local": "none"}},
        gallery=contents.gallery[queries.gallery],
        table=contents.table.iloc[queries.gallery],
        keypoints=None,  # the same in every runtime
    )
    onnx_model = OnnxModel(calibration=_calibration_batches(queries.calibration, searched))
    able, passed_over = _usable_runtimes(searched, _not_tried(queries), threads=threads, onnx_model=onnx_model)
    with restored_threads():
        torch.set_num_threads(threads)
        seconds = _measure_seconds(able, queries.arrays)
        asked = _affordable(queries, seconds[TORCH][1])
        torch.set_num_threads(available_cpus())  # for torch's recall, which takes longest
        name, recalls = _fastest_without_loss(able, seconds, asked, passed_over)
    speeds = {one: [round(1 / alone, 1), round(_TOGETHER / eight, 1)] for one, (alone, eight) in seconds.items()}
    reason = f"{speeds[name][0]:g} images/s alone and {speeds[name][1]:g} in eights, torch {speeds[TORCH][0]:g} and "
    found = {
        "reason": f"{reason}{speeds[TORCH][1]:g}, with the same recall@1 or better",
        "tolerance": contents.manifest["tolerance"] if name == TORCH else _tolerance(able[name]),
        "images_per_second": speeds,
        "recall@1": recalls,
        "queries": len(asked.arrays) if recalls else 0,
        "threads": threads,
        "passed_over": passed_over,
    }
    needed = dataclasses.replace(contents, int8=onnx_model.int8) if name in INT8_RUNTIMES else contents
    return _naming(needed, {"name": name, **found})


def _calibration_batches(photographs: Iterable[np.ndarray], contents: BundleContents) -> Iterator[np.ndarray]:
    """Yield inputs of the encoder in batches, each made when it is needed."""
    geometry, left = Geometry(**contents.manifest["preprocessing"]), iter(photographs)
    while batch := list(itertools.islice(left, _TOGETHER)):
        yield image_batch(np.stack(batch), geometry, torch.device("cpu"), flipped=False).numpy()


def _affordable(queries: BenchmarkQueries, seconds: float) -> BenchmarkQueries:
    """Return as many queries as torch embeds within the limit, evenly spread, if eight take it that many seconds."""
    count = max(_FEWEST_QUERIES, int(_RECALL_SECONDS * _TOGETHER / seconds))
    places = np.unique(np.linspace(0, len(queries.arrays) - 1, min(count, len(queries.arrays))).round().astype(int))
    arrays, individuals = ([one[place] for place in places] for one in (queries.arrays, queries.individuals))
    return BenchmarkQueries(arrays, individuals, queries.gallery)


def _fastest_without_loss(
    able: dict[str, Bundle],
    seconds: dict[str, tuple[float, float]],
    queries: BenchmarkQueries,
    passed_over: dict[str, str],
) -> tuple[str, dict[str, float]]:
    """Return the first runtime by time that recognises as torch does, and the recalls that had to be measured."""
    found: dict[str, tuple[float, np.ndarray]] = {}
    chosen = TORCH
    for name in sorted(able, key=lambda one: sum(seconds[one])):
        if name == TORCH:
            break
        for one in {TORCH, name} - found.keys():
            found[one] = _recognise(able[one], queries)
        if not (fault := _loss(*found[name], *found[TORCH])):
            chosen = name
            break
        passed_over[name] = fault
    return chosen, {name: recall for name, (recall, _) in found.items()}


def _loss(recall: float, known: np.ndarray, torch_recall: float, torch_known: np.ndarray) -> str:
    """Return how a runtime recognises less well than torch; "" if it does not."""
    if recall < torch_recall:
        return f"its recall@1 is {recall:.3f}, and torch's {torch_recall:.3f}"
    changed = float(np.mean(known != torch_known))
    return f"it decides otherwise than torch on {changed:.1%} of the photographs" * (changed > _DECIDED_OTHERWISE)


def _naming(contents: BundleContents, runtime: dict[str, Any]) -> BundleContents:
    return dataclasses.replace(contents, manifest=contents.manifest | {"runtime": runtime})


def _usable_runtimes(
    contents: BundleContents, not_tried: dict[str, str], *, threads: int, onnx_model: OnnxModel
) -> tuple[dict[str, Bundle], dict[str, str]]:
    """Return a predictor per usable runtime, torch first, and why the others are not usable."""
    able, reasons = {TORCH: Bundle(contents)}, dict(not_tried)
    for name in [name for name in RUNTIMES if name != TORCH and name not in not_tried]:
        try:
            bundle = _on_runtime(able[TORCH], name, threads=threads, onnx_model=onnx_model)
            _tolerance(bundle)
        except (EncoderError, BundleError) as error:
            reasons[name] = str(error)
        else:
            able[name] = bundle
    return able, reasons


def _not_tried(queries: BenchmarkQueries) -> dict[str, str]:
    """Return why runtimes are not tried here."""
    reasons: dict[str, str] = {}
    if not has_bfloat16():
        reasons |= dict.fromkeys(BFLOAT16_RUNTIMES, "this processor emulates bfloat16")
    if not has_int8():
        reasons |= dict.fromkeys(INT8_RUNTIMES, "this processor has no VNNI, which adds products of int8")
    elif not queries.calibration:
        reasons |= dict.fromkeys(INT8_RUNTIMES, "no gallery photographs were there to calibrate int8 with")
    return reasons


def _on_runtime(bundle: Bundle, name: str, *, threads: int, onnx_model: OnnxModel) -> Bundle:
    """Return a bundle on torch with its encoder on another runtime; both have the same gallery."""
    other = copy.copy(bundle)
    other.runtime = name
    other.encoder = bundle.encoder and bundle.encoder.on_runtime(name, threads=threads, onnx_model=onnx_model)
    return other


def _tolerance(bundle: Bundle) -> float:
    """Return four times the distance of this runtime's golden embeddings from torch's, at least 1e-4.

    Raises:
        BundleError: If they are farther away than half of the largest tolerance.
    """
    expected = bundle.contents.golden_vectors
    difference, most = bundle.golden_difference(expected), largest_tolerance(expected)
    if difference > most / 2:
        raise BundleError(
            f"golden embeddings must stay within {most / 2:.2g} cosine distance, but {bundle.runtime} moves one by "
            f"{difference:.2g}. Use the runtime torch"
        )
    return min(max(4.0 * difference, 1e-4), most)


def _recognise(bundle: Bundle, queries: BenchmarkQueries) -> tuple[float, np.ndarray]:
    """Return recall@1, and whether each query is decided to be known."""
    answers = bundle.rank(bundle.embed(queries.arrays), top=1)
    found = [answer.candidates[0].individual for answer in answers]
    known = np.array([answer.new_individual.decision == "known" for answer in answers])
    return float(np.mean([one == name for one, name in zip(found, queries.individuals, strict=True)])), known


def _measure_seconds(able: dict[str, Bundle], arrays: Sequence[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the smallest times for one and for eight photographs, measured in turns."""
    groups = [[arrays[place % len(arrays)] for place in range(count)] for count in (1, _TOGETHER)]
    best = {name: (_time(bundle, groups[0]), _time(bundle, groups[1])) for name, bundle in able.items()}
    started, rounds = time.perf_counter(), 1
    while rounds < _ROUNDS or time.perf_counter() - started < _SECONDS:
        rounds += 1
        limit = _FAR_BEHIND[min(rounds, 3)] * min(map(sum, best.values()))
        for name in [name for name in able if sum(best[name]) <= limit]:
            alone, eight = (_time(able[name], group) for group in groups)
            best[name] = (min(alone, best[name][0]), min(eight, best[name][1]))
    return best


def _time(bundle: Bundle, arrays: list[np.ndarray]) -> float:
    started = time.perf_counter()
    bundle.embed(arrays)
    return time.perf_counter() - started
