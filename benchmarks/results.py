"""Run the benchmarks and write RESULTS.md: machine, versions, each ratio with its goal, reached or missed.

python benchmarks/results.py --quick       in less than ten minutes, with few rounds and small sizes

Each benchmark runs in a process of its own, one after the other. One that fails or takes too long is a row "failed",
and the others run. Rows whose benchmark needs a GPU or half an hour are left out of a quick run and listed as not
measured.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
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
        limit: Seconds after which a quick run of it is ended.
    """

    measures: str
    script: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    limit: float = 90.0


BENCHMARKS = (
    Benchmark("images/s of a trial", "training_step.py", quick=("--short",), limit=150.0),
    Benchmark("a sweep of 8 trials", "whole_sweep.py"),
    Benchmark("retrieval settings of one trial", "scoring.py", quick=("--rounds", "1"), limit=150.0),
    Benchmark(
        "neighbours, scores and intervals",
        "evaluation.py",
        quick=("--rounds", "2", "--scale", "0.5", "--memory", "20000"),
    ),
    Benchmark("pixel cache, second sweep", "second_sweep.py", quick=("--rounds", "1", "--images", "200")),
    Benchmark("pixel cache, decoding and memory", "pixel_cache.py", quick=("--rounds", "3", "--photographs", "120")),
    Benchmark("frozen trunks", "frozen_trunk.py", quick=("--rounds", "3", "--photographs", "120")),
    Benchmark(
        "search in a large gallery", "large_gallery.py", quick=("--rounds", "1", "--images", "50000"), limit=90.0
    ),
    Benchmark("start of the commands", "startup.py", quick=("--rounds", "3", "--images", "200")),
    Benchmark("service", "serving.py", quick=("--short", "--sizes", "64"), limit=200.0),
    Benchmark("service, by size of the gallery", "gallery_sizes.py", quick=("--short",), limit=200.0),
)
QUICK_SECONDS, FULL_LIMIT = 570.0, 3 * 3600.0
"""All of a quick run, and one benchmark of a full run."""
_PATIENCE = 10.0  # seconds between the request to end and the kill


@dataclass(frozen=True)
class Outcome:
    """Rows of a benchmark, and why it has no more: "" if it ended well."""

    verdicts: list[dict[str, Any]]
    fault: str = ""
    failed: bool = False


def run(script: Path, arguments: Sequence[str], *, limit: float) -> Outcome:
    """Return the rows that a benchmark wrote until its end, its failure or its limit in seconds.

    Args:
        script: The benchmark.
        arguments: Its arguments.
        limit: Seconds after which it and its processes are ended.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        environment = {**os.environ, ROWS_VARIABLE: str(rows)}
        # A session, so that its servers and workers can be ended with it.
        process = subprocess.Popen([sys.executable, str(script), *arguments], env=environment, start_new_session=True)
        fault = ""
        try:
            if code := process.wait(limit):
                fault = f"exit code {code}"
        except subprocess.TimeoutExpired:
            fault = f"not done after {limit:.0f} s"
        finally:
            _end_session(process)
        verdicts = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return Outcome(verdicts, fault, failed=bool(fault))


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the processes that a benchmark started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and _is_alive(process):
            time.sleep(0.1)


def _is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process of the session is left."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


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


def page(found: Mapping[str, Outcome], here: Mapping[str, str], *, quick: bool) -> str:
    """Return RESULTS.md.

    Args:
        found: Outcome by script.
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
        outcome = found.get(benchmark.script, Outcome([], "not measured in this run"))
        for one in outcome.verdicts:
            reached = "reached" if one["reached"] else "**missed**"
            lines.append(f"| {benchmark.measures} | {one['name']} | {one['ratio']:.3g} | {one['goal']} | {reached} |")
        if outcome.fault:
            shown = f"**failed**: {outcome.fault}" if outcome.failed else outcome.fault
            lines.append(f"| {benchmark.measures} | `{benchmark.script}` | | | {shown} |")
    return "\n".join([*lines, ""])


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds and small sizes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A script to run, such as startup.py; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = FOLDER / "RESULTS.md",
) -> None:
    """Run the benchmarks one after the other and write their ratios; hours, with --quick ten minutes at most.

    The exit code is 1 if a benchmark failed; a missed goal is no failure.
    """
    here, started = machine(), time.monotonic()
    found: dict[str, Outcome] = {}
    chosen = [one for one in BENCHMARKS if (not only or one.script in only) and not (quick and one.quick is None)]
    for number, benchmark in enumerate(chosen, start=1):
        left = QUICK_SECONDS - (time.monotonic() - started)
        limit = min(benchmark.limit, left) if quick else FULL_LIMIT
        title = f"benchmark {number} of {len(chosen)}: {benchmark.measures} ({benchmark.script})"
        if limit < 1.0:
            found[benchmark.script] = Outcome([], "not measured: the ten minutes of a quick run were over")
        else:
            print(f"{title}, at most {limit:.0f} s", flush=True)
            found[benchmark.script] = run(
                FOLDER / benchmark.script, (benchmark.quick or ()) if quick else benchmark.full, limit=limit
            )
        outcome = found[benchmark.script]
        ended = outcome.fault or "done"
        print(
            f"{title}: {ended}, {len(outcome.verdicts)} ratios, {time.monotonic() - started:.0f} s so far", flush=True
        )
        out.write_text(page(found, here, quick=quick), encoding="utf-8")
    print(f"results  {out}")
    if any(outcome.failed for outcome in found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
