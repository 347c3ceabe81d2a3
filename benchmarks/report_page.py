"""Benchmark of a report in headless Chromium: seconds until it is drawn, and until its leaderboard is sorted.

python benchmarks/report_page.py RUN/report.html       benchmarks/driver_scale.py makes a run of many trials

The time runs from the navigation to the second frame after the page's `load` event; each round uses a new process of
Chromium, so that nothing is in its caches. Sorting runs from the click to the second frame after it.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
MARKS = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {parsed: page.domContentLoadedEventEnd, loaded: page.loadEventEnd, painted: paint ? paint.startTime : NaN};
}"""
SORT = """async (button) => {
  const start = performance.now();
  button.click();
  return (await DRAWN) - start;
}""".replace("DRAWN", DRAWN)
VALUES = "(rows, column) => rows.map((row) => row.cells[column].dataset.value)"


def measure(report: Path, picture: Path | None) -> dict[str, float]:
    """Return milliseconds of one opening: first paint, parsed, loaded, drawn, sorted.

    Args:
        report: The page.
        picture: File that gets a picture of the whole page.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(report.resolve().as_uri(), wait_until="load")
        drawn = page.evaluate(DRAWN)
        times = {**page.evaluate(MARKS), "drawn": drawn, "sorted": sort_by_score(page)}
        if picture:
            page.screenshot(path=picture, full_page=True)
        browser.close()
    return times


def sort_by_score(page: Any) -> float:
    """Click twice on the first score of the leaderboard, check the order and return the longer of both times in ms."""
    heading = page.locator("#leaderboard th[data-first=descending] button").first
    column = heading.evaluate("(button) => button.closest('th').cellIndex")
    times: list[float] = []
    for reverse in (True, False):
        times.append(heading.evaluate(SORT))
        found = page.locator("#leaderboard tbody tr").evaluate_all(VALUES, column)
        values = [float(value) for value in found if value]
        assert values == sorted(values, reverse=reverse), "the table must be sorted"
    return max(times)


def main(
    report: Annotated[Path, typer.Argument(help="report.html of a run.")],
    rounds: Annotated[int, typer.Option(help="Openings.")] = 5,
    picture: Annotated[Path | None, typer.Option(help="PNG file of the whole page.")] = None,
) -> None:
    """Open the report several times."""
    found = [measure(report, picture if number == 0 else None) for number in range(rounds)]
    for times in found:
        typer.echo(", ".join(f"{name} {value:.0f} ms" for name, value in times.items()))
    for name, goal in (("drawn", 2.0), ("sorted", 1.0)):
        seconds = statistics.median(times[name] for times in found) / 1000.0
        say(f"seconds until it is {name}", seconds, goal)
    say("MB", report.stat().st_size / 1e6, 5.0)


def say(name: str, value: float, goal: float) -> None:
    """Print a figure with its goal."""
    typer.echo(f"{name}: {value:.2f}, goal <= {goal:g}: {'reached' if value <= goal else 'MISSED'}")


if __name__ == "__main__":
    typer.run(main)
