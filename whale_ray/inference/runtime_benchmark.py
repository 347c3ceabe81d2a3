"""Runtime benchmark: the fastest runtime on this machine that recognises as many photographs as torch."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whale_ray.device import available_cpus, has_bfloat16, restored_threads
from whale_ray.errors import BundleError, EncoderError
from whale_ray.inference.bundle_contents import BundleContents
from whale_ray.inference.golden_images import largest_tolerance
from whale_ray.inference.predictor import Bundle
from whale_ray.inference.runtimes import BFLOAT16_RUNTIMES, RUNTIMES, TORCH, OnnxModel

_TOGETHER = 8
_ROUNDS = 5
_SECONDS = 1.5
_FAR_BEHIND = {2: 4.0, 3: 2.0}  # times the fastest: a runtime that is slower before this round is not timed again
_RECALL_SECONDS = 4.0
_FEWEST_QUERIES = 32


@dataclasses.dataclass(frozen=True)
class BenchmarkQueries:
    """Prepared photographs with known individuals.

    Attributes:
        arrays: Inputs of the encoder.
        individuals: Individual of each photograph.
        gallery: Rows of the bundle's gallery to search, such that no photograph finds itself.
    """

    arrays: Sequence[np.ndarray]
    individuals: Sequence[str]
    gallery: np.ndarray


def with_fastest_runtime(contents: BundleContents, queries: BenchmarkQueries, *, threads: int = 1) -> BundleContents:
    """Return the contents with the fastest runtime whose recall@1 is at least torch's.

    All usable runtimes are timed: the smallest time for one photograph plus eight together. The fastest is then
    compared with torch on the queries, the next one if it recognises fewer, and so on; queries that would take longer
    than four seconds with torch are left out. `passed_over` in the manifest's `runtime` says why a runtime that is
    missing, emulated by this processor, unable to run the encoder or less exact was not chosen.

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
    able, passed_over = _usable_runtimes(searched, threads)
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
    return _naming(contents, {"name": name, **found})


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
    """Return the first runtime by time with at least torch's recall@1, and the recalls that had to be measured."""
    recalls: dict[str, float] = {}
    for name in sorted(able, key=lambda one: sum(seconds[one])):
        if name == TORCH:
            break
        for one in {TORCH, name} - recalls.keys():
            recalls[one] = _recall(able[one], queries)
        if recalls[name] >= recalls[TORCH]:
            return name, recalls
        passed_over[name] = f"its recall@1 is {recalls[name]:.3f}, and torch's {recalls[TORCH]:.3f}"
    return TORCH, recalls


def _naming(contents: BundleContents, runtime: dict[str, Any]) -> BundleContents:
    return dataclasses.replace(contents, manifest=contents.manifest | {"runtime": runtime})


def _usable_runtimes(contents: BundleContents, threads: int) -> tuple[dict[str, Bundle], dict[str, str]]:
    """Return a predictor per usable runtime, torch first, and why the others are not usable."""
    able, reasons, onnx_model = {TORCH: Bundle(contents)}, {}, OnnxModel()
    for name in RUNTIMES:
        if name == TORCH:
            continue
        if name in BFLOAT16_RUNTIMES and not has_bfloat16():
            reasons[name] = "this processor emulates bfloat16"
            continue
        try:
            bundle = _on_runtime(able[TORCH], name, threads=threads, onnx_model=onnx_model)
            _tolerance(bundle)
        except (EncoderError, BundleError) as error:
            reasons[name] = str(error)
        else:
            able[name] = bundle
    return able, reasons


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


def _recall(bundle: Bundle, queries: BenchmarkQueries) -> float:
    answers = bundle.rank(bundle.embed(queries.arrays), top=1)
    found = [answer.candidates[0].individual for answer in answers]
    return float(np.mean([one == name for one, name in zip(found, queries.individuals, strict=True)]))


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
