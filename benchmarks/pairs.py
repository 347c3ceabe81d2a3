"""Pairs of measurements, taken in turns (A B A B ...), so that a busy machine slows both alike.

Knows functions and seconds; knows nothing of what is timed. Import it before NumPy and torch: it settles on one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

THREADS = 1
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = str(THREADS)


@dataclass(frozen=True)
class Pair:
    """One function's seconds beside another's, round by round: by the clock, and of the processor."""

    first: list[float]
    second: list[float]
    first_cpu: list[float]
    second_cpu: list[float]

    @property
    def ratio(self) -> float:
        """The median over the rounds of first / second, by the clock."""
        return median(a / b for a, b in zip(self.first, self.second, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """As `ratio`, in seconds of the processor: what it would be if nobody else were at work here."""
        return median(a / b for a, b in zip(self.first_cpu, self.second_cpu, strict=True))


def take_turns(first: Callable[[], object], second: Callable[[], object], *, rounds: int) -> Pair:
    """Seconds of `rounds` rounds of both functions, each called once before to warm up."""
    for function in (first, second):
        function()
    taken = [(seconds(first), seconds(second)) for _ in range(rounds)]
    clock, cpu = ([[each[kind] for each in turn] for turn in taken] for kind in (0, 1))
    return Pair(*map(list, zip(*clock, strict=True)), *map(list, zip(*cpu, strict=True)))


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds that one call takes, by the clock and of the processor."""
    clock, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - cpu


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a head, columns aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]), flush=True)


def print_verdict(name: str, ratio: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Prints one line: the ratio, its goal, and whether it is reached."""
    reached = ratio >= at_least if at_least is not None else at_most is None or ratio <= at_most
    goal = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    print(f"{name}: ratio {ratio:.3g}, goal {goal}: {'reached' if reached else 'MISSED'}", flush=True)
