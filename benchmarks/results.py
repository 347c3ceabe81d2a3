"""Run the benchmarks and write RESULTS.md: machine, versions, each ratio with its goal, reached or missed.

python benchmarks/results.py --quick       in less than ten minutes, with few rounds and small sizes

Each benchmark runs in a process of its own, one after the other. Rows whose benchmark needs a GPU or half an hour are
left out of a quick run and listed as not measured.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pairs import ROWS_VARIABLE

FOLDER = Path(__file__).parent
LIBRARIES = ("ray", "torch", "torchvision", "faiss-cpu", "numpy", "pandas", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes:
        measures: What its rows say.
        script: File in this folder.
        full: Arguments of a full run.
        quick: Arguments of a quick run; None leaves it out of one.
    """

    measures: str
    script: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None


BENCHMARKS = (
    Benchmark("images/s of a trial", "training_step.py", quick=("--rounds", "2")),
    Benchmark("a sweep of 8 trials", "whole_sweep.py"),
    Benchmark("retrieval settings of one trial", "scoring.py", quick=("--rounds", "2")),
    Benchmark(
        "neighbours, scores and intervals",
        "evaluation.py",
        quick=("--rounds", "2", "--scale", "0.25", "--memory", "20000"),
    ),
    Benchmark("pixel cache, second sweep", "second_sweep.py", quick=("--rounds", "1")),
    Benchmark("pixel cache, decoding and memory", "pixel_cache.py", quick=("--rounds", "2", "--photographs", "120")),
    Benchmark("frozen trunks", "frozen_trunk.py", quick=("--rounds", "2", "--photographs", "120")),
    Benchmark("search in a large gallery", "large_gallery.py", quick=("--rounds", "1", "--images", "50000")),
    Benchmark("start of the commands", "startup.py", quick=("--rounds", "3")),
    Benchmark("service", "serving.py", quick=("--short", "--sizes", "64")),
    Benchmark("service, by size of the gallery", "gallery_sizes.py", quick=("--short",)),
)


def run(benchmark: Benchmark, arguments: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the verdicts of a benchmark, and why it failed ("" if it did not)."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        environment = {**os.environ, ROWS_VARIABLE: str(rows)}
        ended = subprocess.run(
            [sys.executable, str(FOLDER / benchmark.script), *arguments], env=environment, check=False
        )
        verdicts = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return verdicts, "" if ended.returncode == 0 else f"it ended with exit code {ended.returncode}"


def machine() -> dict[str, str]:
    """Return processor, cores, load before the run, system and versions of libraries."""
    model = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    flags = next((line for line in _cpu_lines() if line.startswith("flags")), "")
    found = {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "instructions": ", ".join(
            name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()
        )
        or "none of AVX",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
    }
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)}


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def page(found: Mapping[str, tuple[list[dict[str, Any]], str]], here: Mapping[str, str], *, quick: bool) -> str:
    """Return RESULTS.md.

    Args:
        found: Verdicts and fault by script.
        here: The machine.
        quick: Few rounds were run.
    """
    kind = "quick run: few rounds, wide margins of error" if quick else "full run"
    lines = [
        "# Results of the benchmarks",
        "",
        f"{datetime.date.today():%Y-%m-%d}, {kind}. Written by `make bench`.",
        "",
    ]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in here.items()), ""]
    lines += ["Each ratio is the median of pairs that were measured in alternation in one run.", ""]
    lines += ["| benchmark | measured / compared with | ratio | goal | |", "|---|---|---|---|---|"]
    for benchmark in BENCHMARKS:
        verdicts, fault = found.get(benchmark.script, ([], "not measured in this run"))
        for one in verdicts:
            reached = "reached" if one["reached"] else "**missed**"
            lines.append(f"| {benchmark.measures} | {one['name']} | {one['ratio']:.3g} | {one['goal']} | {reached} |")
        if fault:
            lines.append(f"| {benchmark.measures} | `{benchmark.script}` | | | {fault} |")
    return "\n".join([*lines, ""])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds and small sizes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A script to run, such as startup.py; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = FOLDER / "RESULTS.md",
) -> None:
    """Run the benchmarks one after the other and write their ratios; about an hour, with --quick ten minutes."""
    here, found = machine(), {}
    chosen = [one for one in BENCHMARKS if not only or one.script in only]
    for number, benchmark in enumerate(chosen, start=1):
        arguments = benchmark.quick if quick else benchmark.full
        if arguments is None:
            continue
        print(f"benchmark {number} of {len(chosen)}: {benchmark.measures} ({benchmark.script})", flush=True)
        found[benchmark.script] = run(benchmark, arguments)
        out.write_text(page(found, here, quick=quick), encoding="utf-8")
    print(f"results  {out}")


if __name__ == "__main__":
    typer.run(main)
