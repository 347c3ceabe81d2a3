"""Run the benchmarks and write RESULTS.md: machine, versions, each ratio with its goal, reached or missed.

python benchmarks/results.py --quick       in less than ten minutes, with few rounds and small sizes

Each benchmark runs in a process of its own, one after the other. One that fails or takes too long is a row "failed",
and the others run. RESULTS.json beside it keeps all rows: those that a run leaves out stay with their date and machine.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from paired_timing import ROWS_VARIABLE

FOLDER = Path(__file__).parent
LIBRARIES = ("ray", "torch", "torchvision", "faiss-cpu", "numpy", "pandas", "onnxruntime", "openvino")


GPU_FIGURES = "../docs/experiments/training-speed.md#training-on-a-gpu"


@dataclass(frozen=True)
class Benchmark:
    """One script.

    Attributes:
        row: Rows of the table of goals that it measures.
        measures: What its rows say; a name of its own.
        script: File in this folder.
        full: Arguments of a full run.
        quick: Arguments of a quick run; None leaves it out of one.
        limit: Seconds after which a quick run of it is ended.
        earlier: It needs a GPU, and figures of an earlier run are at this link.
    """

    row: str
    measures: str
    script: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
    limit: float = 90.0
    earlier: str = ""


_SERVICES = ("--rounds", "2", "--seconds", "4", "--patience", "20")
BENCHMARKS = (
    Benchmark("1", "images/s of a trial", "training_step.py", ("--rounds", "5"), ("--short",), limit=150.0),
    Benchmark("2", "a trial and a study's loop", "study_loop.py", ("--rounds", "3"), ("--short",)),
    Benchmark("3", "a sweep of 8 trials", "whole_sweep.py", ("--rounds", "1")),
    Benchmark("4", "end of a sweep", "after_trials.py"),
    Benchmark("5", "retrieval settings of one trial", "scoring.py", ("--rounds", "3"), ("--rounds", "1"), limit=150.0),
    Benchmark(
        "6, 7",
        "neighbours, scores and intervals",
        "evaluation.py",
        ("--rounds", "3"),
        ("--rounds", "2", "--scale", "0.5", "--memory", "20000"),
    ),
    Benchmark(
        "8", "pixel cache, second sweep", "second_sweep.py", ("--rounds", "1"), ("--rounds", "1", "--images", "200")
    ),
    Benchmark("8", "pixel cache, decoding and memory", "pixel_cache.py", (), ("--rounds", "3", "--photographs", "120")),
    Benchmark("9", "frozen trunks", "frozen_trunk.py", (), ("--rounds", "3", "--photographs", "120")),
    Benchmark("10", "search in a large gallery", "large_gallery.py", (), ("--rounds", "1", "--images", "50000")),
    Benchmark("11", "choice of a runtime", "runtimes.py", (), ()),
    Benchmark("12", "start of the commands", "startup.py", (), ("--rounds", "3", "--images", "200", "--no-serve")),
    Benchmark("13", "service", "serving.py", (*_SERVICES, "--load", "1,32"), ("--short", "--sizes", "64"), limit=200.0),
    Benchmark("14", "service, by size of the gallery", "gallery_sizes.py", _SERVICES, ("--short",), limit=200.0),
    Benchmark("15", "images/s of a trial on a GPU", "training_step.py", ("--device", "cuda"), earlier=GPU_FIGURES),
)
QUICK_SECONDS, FULL_LIMIT = 570.0, 3600.0
"""All of a quick run, and one benchmark of a full run."""
_PATIENCE = 10.0  # seconds between the request to end and the kill


@dataclass(frozen=True)
class Measurement:
    """Ratios of a benchmark in one run.

    Attributes:
        measures: Name of the benchmark.
        date: Day of the run.
        quick: It was a quick run.
        load: Load of the machine before the run.
        machine: The machine, as `machine` returns it.
        verdicts: Rows that the benchmark wrote.
        fault: How it failed; "" if it ended well.
    """

    measures: str
    date: str
    quick: bool
    load: float
    machine: dict[str, str]
    verdicts: list[dict[str, Any]]
    fault: str = ""

    def run(self, letter: str) -> str:
        """Return the run in a few words.

        Args:
            letter: Letter of its machine.
        """
        return f"{letter}, {self.date}, {'quick' if self.quick else 'full'}, load {self.load:.1f}"


def run(script: Path, arguments: Sequence[str], *, limit: float) -> tuple[list[dict[str, Any]], str]:
    """Return the rows that a benchmark wrote until its end or its limit, and why it has no more: "" if it ended well.

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
    return verdicts, fault


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
    """Return processor, cores, instructions, Python and versions of libraries."""
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
        "Python": platform.python_version(),
    }
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES if _is_installed(name)}


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def merge(earlier: Sequence[Measurement], new: Measurement) -> list[Measurement]:
    """Return the measurements with a new one, which replaces those of its benchmark on the same kind of processor.

    Ratios of a full run that a quick or a failed run did not measure stay.

    Args:
        earlier: Measurements of earlier runs.
        new: Measurement of this run.
    """
    kept: list[Measurement] = []
    again = {one["name"] for one in new.verdicts}
    for one in earlier:
        if one.measures != new.measures or _processor(one) != _processor(new):
            kept.append(one)
        elif not one.quick and (new.quick or new.fault):
            left = [verdict for verdict in one.verdicts if verdict["name"] not in again]
            kept += [replace(one, verdicts=left, fault="")] if left else []
    return [*kept, new]


def _processor(one: Measurement) -> tuple[str | None, ...]:
    return one.machine.get("processor"), one.machine.get("instructions")


def page(found: Sequence[Measurement]) -> str:
    """Return RESULTS.md.

    Args:
        found: The measurements, each with its machine.
    """
    machines = list({json.dumps(one.machine): one.machine for one in found}.values())
    names = list(dict.fromkeys(name for one in machines for name in one))
    letters = string.ascii_uppercase[: len(machines)]
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench`, a row per kind of processor. A quick run has few rounds and wide margins of",
    ]
    lines += ["error, and keeps what the last full run measured and it does not. Machines:", ""]
    lines += [f"| | {' | '.join(letters)} |", "|---|" + "---|" * len(machines)]
    lines += [f"| {name} | {' | '.join(one.get(name, '') for one in machines)} |" for name in names]
    lines += [
        "",
        "Each ratio is the median of pairs that were measured in alternation in one run. The row is that of the",
    ]
    lines += ["goals of the project.", "", "| row | benchmark | measured / compared with | ratio | goal | | run |"]
    lines += ["|---|---|---|---|---|---|---|"]
    missed: list[tuple[str, str, dict[str, Any]]] = []
    for benchmark in BENCHMARKS:
        start = f"| {benchmark.row} | {benchmark.measures} |"
        measured = [one for one in found if one.measures == benchmark.measures]
        for one in measured:
            letter = letters[machines.index(one.machine)]
            run = one.run(letter)
            for row in one.verdicts:
                reached = "reached" if row["reached"] else "**missed**"
                lines.append(f"{start} {row['name']} | {row['ratio']:.3g} | {row['goal']} | {reached} | {run} |")
            if one.fault:
                lines.append(f"{start} `{benchmark.script}` | | | **failed**: {one.fault} | {run} |")
            missed += [(letter, benchmark.row, row) for row in one.verdicts if not row["reached"]]
        if not measured:
            reason = f"it needs a GPU; [figures of an earlier run]({benchmark.earlier})" if benchmark.earlier else ""
            lines.append(f"{start} `{benchmark.script}` | | | not measured{reason and f': {reason}'} | |")
    lines += ["", "## Missed goals, and what stands in the way", ""] if missed else []
    lines += [
        f"- Row {number}, {row['name']}, {row['ratio']:.3g} instead of {row['goal']} on {letter}: {row['obstacle']}"
        for letter, number, row in missed
    ]
    return "\n".join([*lines, ""])


def read_measurements(file: Path) -> list[Measurement]:
    """Return the measurements of earlier runs; none without the file, or of benchmarks that are gone."""
    known = {one.measures for one in BENCHMARKS}
    written = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return [Measurement(**one) for one in written if one["measures"] in known]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds and small sizes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="A script to run, such as startup.py; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = FOLDER / "RESULTS.md",
) -> None:
    """Run the benchmarks one after the other and write their ratios; most of an hour, with --quick ten minutes at most.

    The exit code is 1 if a benchmark failed; a missed goal is no failure.
    """
    here, load, started = machine(), os.getloadavg()[0], time.monotonic()
    store = out.with_suffix(".json")
    found, failed = read_measurements(store), False
    chosen = [one for one in BENCHMARKS if _is_wanted(one, only, quick=quick)]
    for number, benchmark in enumerate(chosen, start=1):
        left = QUICK_SECONDS - (time.monotonic() - started)
        limit = min(benchmark.limit, left) if quick else FULL_LIMIT
        title = f"benchmark {number} of {len(chosen)}: {benchmark.measures} ({benchmark.script})"
        if limit < 1.0:
            print(f"{title}: not measured: the ten minutes of a quick run are over", flush=True)
            continue
        print(f"{title}, at most {limit:.0f} s", flush=True)
        arguments = (benchmark.quick or ()) if quick else benchmark.full
        verdicts, fault = run(FOLDER / benchmark.script, arguments, limit=limit)
        day = f"{datetime.date.today():%Y-%m-%d}"
        found = merge(found, Measurement(benchmark.measures, day, quick, load, here, verdicts, fault))
        failed |= bool(fault)
        took = f"{len(verdicts)} ratios, {time.monotonic() - started:.0f} s so far"
        print(f"{title}: {fault or 'done'}, {took}", flush=True)
        store.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
        out.write_text(page(found), encoding="utf-8")
    out.write_text(page(found), encoding="utf-8")
    print(f"results  {out}")
    if failed:
        raise typer.Exit(1)


def _is_wanted(benchmark: Benchmark, only: Sequence[str] | None, *, quick: bool) -> bool:
    if only and benchmark.script not in only:
        return False
    return not (quick and benchmark.quick is None) and not (benchmark.earlier and not _has_gpu())


if __name__ == "__main__":
    typer.run(main)
