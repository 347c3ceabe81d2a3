"""Paired timings: two functions are timed in alternation (A B A B ...), so that other load slows both alike.

Import this module before NumPy and torch: it limits them to one thread, and lets OpenBLAS choose its kernels by the
processor, as it does where no variable of the machine names others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

THREADS = 1
ROWS_VARIABLE = "WHALE_RAY_BENCHMARK_ROWS"
"""Environment variable: file to which each verdict is appended as a line of JSON."""
UNKNOWN = "The cause is not known."
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = str(THREADS)
for _variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_variable, None)


@dataclass(frozen=True)
class Pair:
    """Wall-clock and CPU seconds of two functions, round by round."""

    first: list[float]
    second: list[float]
    first_cpu: list[float]
    second_cpu: list[float]

    @property
    def ratio(self) -> float:
        """Return the median over the rounds of first / second in wall-clock time."""
        return median(a / b for a, b in zip(self.first, self.second, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """Return the median ratio in CPU time, which other load affects less."""
        return median(a / b for a, b in zip(self.first_cpu, self.second_cpu, strict=True))


def take_turns(first: Callable[[], object], second: Callable[[], object], *, rounds: int) -> Pair:
    """Return the seconds of `rounds` rounds of both functions after one warm-up call of each."""
    for function in (first, second):
        function()
    taken = [(seconds(first), seconds(second)) for _ in range(rounds)]
    clock, cpu = ([[each[kind] for each in turn] for turn in taken] for kind in (0, 1))
    return Pair(*map(list, zip(*clock, strict=True)), *map(list, zip(*cpu, strict=True)))


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of one call."""
    clock, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - cpu


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table, its first column to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]), flush=True)


def print_verdict(
    name: str, ratio: float, *, at_least: float | None = None, at_most: float | None = None, obstacle: str = UNKNOWN
) -> None:
    """Print the ratio, its goal and the verdict in one line, and append them to the file of `results.py`, if any.

    Args:
        name: What was measured, and what it is compared with.
        ratio: Its value.
        at_least: The goal, or
        at_most: the goal.
        obstacle: What stands in the way where the goal is missed, as a sentence.
    """
    reached = ratio >= at_least if at_least is not None else at_most is None or ratio <= at_most
    goal = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    print(f"{name}: ratio {ratio:.3g}, goal {goal}: {'reached' if reached else f'MISSED. {obstacle}'}", flush=True)
    if rows := os.environ.get(ROWS_VARIABLE):
        with open(rows, "a", encoding="utf-8") as file:
            row = {"name": name, "ratio": ratio, "goal": goal, "reached": reached, "obstacle": obstacle}
            file.write(json.dumps(row) + "\n")
