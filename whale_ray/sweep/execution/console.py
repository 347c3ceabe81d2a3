"""Display of a sweep: a live table on a terminal, plain lines elsewhere, and the final leaderboard."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from whale_ray.verbosity import is_quiet

if TYPE_CHECKING:
    import pandas as pd

_SHOWN_ROWS = 12
_WIDTH_OF_LOG = 140
_SHOWN_COLUMNS = (
    "recall@1",
    "recall@1_low",
    "recall@1_high",
    "map@5",
    "neighbours",
    "vote",
    "epochs",
    "seconds",
)


class Progress:
    """Shows the progress of one sweep; used as a context, in which the live table is shown."""

    def __init__(self, *, sweep: str, objective: str, total: int | None = None, console: Console | None = None) -> None:
        """Create the display.

        Args:
            sweep: Name of the sweep.
            objective: Score that is shown for each trial.
            total: Number of all trials; None if it is not known.
            console: Where to print; None prints to standard output.
        """
        self.console = console or _console()
        self._sweep, self._objective, self._total = sweep, objective, total
        self._running: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, int] = {}
        self._earlier = 0
        self._best: tuple[float, str] | None = None
        self._started = time.monotonic()
        self.trials_run = False
        self._live = Live(console=self.console, refresh_per_second=2, transient=True, get_renderable=self._table)

    def __enter__(self) -> Progress:
        if self.console.is_terminal and not is_quiet():
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    @contextlib.contextmanager
    def trials(self) -> Iterator[None]:
        """Open a block in which trials run: a signal lets them end their epoch; outside it, it ends the command."""
        self.trials_run = True
        try:
            yield
        finally:
            self.trials_run = False

    def say(self, text: str) -> None:
        """Print a line that stays, unless the command is quiet."""
        if not is_quiet():
            self.result(text)

    def result(self, text: str) -> None:
        """Print a line of the sweep's result, also when the command is quiet."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def expect(self, total: int) -> None:
        """Set the number of all trials, if it was not known before."""
        self._total = self._total or total

    def earlier(self, count: int) -> None:
        """Set and show the number of trials that have ended in earlier sessions."""
        self._earlier = count
        if count:
            self.say(
                "1 trial has ended before and is kept"
                if count == 1
                else f"{count} trials have ended before and are kept"
            )

    def started(self, trial: str, label: str) -> None:
        """Show that a trial begins.

        Args:
            trial: ID of the trial.
            label: Its settings as text.
        """
        self._running[trial] = {"label": label}
        if not self.console.is_terminal:
            self.say(f"trial {trial} starts: {label}" if label else f"trial {trial} starts")

    def epoch(self, trial: str, figures: Mapping[str, Any]) -> None:
        """Show the figures of an epoch.

        Args:
            trial: ID of the trial.
            figures: Epoch, loss, scores and speed, as far as the epoch has them.
        """
        row = self._running.setdefault(trial, {"label": ""})
        row.update(figures)
        if not self.console.is_terminal and "loss" in figures:
            self.say(f"trial {trial} {_figures(figures, self._objective)}")

    def ended(self, trial: str, *, status: str, score: float | None, error: str) -> None:
        """Show the outcome of a trial.

        Args:
            trial: ID of the trial.
            status: finished, pruned or failed.
            score: Value of the objective; None if the trial has none.
            error: Reason of the failure.
        """
        label = self._running.pop(trial, {"label": ""})["label"]
        self._ended[status] = self._ended.get(status, 0) + 1
        if score is not None and (self._best is None or score > self._best[0]):
            self._best = (score, trial)
        value = error if status == "failed" else f"{self._objective} {_number(score)}"
        self.say(f"trial {trial} {status} ({self._count()}): {value}" + (f"  [{label}]" if label else ""))

    def _count(self) -> str:
        done = self._earlier + sum(self._ended.values())
        return f"{done} of {self._total}" if self._total else f"{done} ended"

    def _table(self) -> Table:
        minutes = (time.monotonic() - self._started) / 60
        best = f", best {self._objective} {self._best[0]:.3f} ({self._best[1]})" if self._best else ""
        table = Table(title=f"{self._sweep}: {self._count()}, {minutes:.1f} min{best}", title_justify="left")
        for column in ("trial", "setting", "epoch", "loss", self._objective, "images/s"):
            table.add_column(column, overflow="fold")
        for trial, row in self._running.items():
            figures = (_number(row.get(name)) for name in ("loss", self._objective, "images_per_second"))
            table.add_row(trial, escape(row["label"]), str(row.get("epoch", "…")), *figures)
        return table


def _console() -> Console:
    """Return the terminal, or a console wide enough for a table in a log file."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_LOG)


def _figures(row: Mapping[str, Any], objective: str) -> str:
    parts = [f"epoch {row.get('epoch', '…')}"]
    names = {"loss": "loss", objective: objective, "images_per_second": "images/s"}
    parts += [f"{shown} {_number(row[name])}" for name, shown in names.items() if row.get(name) is not None]
    return ", ".join(parts)


def _number(value: Any) -> str:
    if _absent(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def leaderboard_table(table: pd.DataFrame, *, axes: list[str], objective: str = "recall@1") -> Table:
    """Return the first rows of the leaderboard for a terminal.

    Args:
        table: The leaderboard, best first.
        axes: Names of the axes that get a column.
        objective: Score that ranks the trials; it gets a column if recall@1 and map@5 are not it.
    """
    view = Table(title="Leaderboard", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("", justify="right")
    view.add_column("trial", no_wrap=True)
    for axis in axes:
        view.add_column(short_name(axis), overflow="fold", min_width=7)
    ranked_by = [objective] if objective not in ("recall@1", "map@5") else []
    for column in (*ranked_by, "recall@1", "95 %", "map@5", "vote", "k", "seconds"):
        view.add_column(column, justify="left" if column == "vote" else "right", no_wrap=True)
    for row in table.head(_SHOWN_ROWS).to_dict("records"):
        view.add_row(*_leaderboard_row(row, axes, ranked_by))
    if len(table) > _SHOWN_ROWS:
        view.caption = f"and {len(table) - _SHOWN_ROWS} more in leaderboard.csv"
    return view


def _leaderboard_row(row: Mapping[Any, Any], axes: list[str], ranked_by: list[str]) -> list[str]:
    words = {"finished": "", "running": " unfinished"}  # the table is shown after the last trial
    status = words.get(row["status"], f" {row['status']}")
    low, high = _number(row["recall@1_low"]), _number(row["recall@1_high"])
    return [
        _cell(row["rank"]),
        f"{row['trial']}{status}",
        *(_short_value(row[axis]) for axis in axes),
        *(_number(row[name]) for name in ranked_by),
        _number(row["recall@1"]),
        "-" if _absent(row["recall@1_low"]) else f"{low}-{high}",
        _number(row["map@5"]),
        _ranking(row),
        _cell(row["neighbours"]),
        "-" if _absent(row["seconds"]) else f"{row['seconds']:.0f}",
    ]


def _ranking(row: Mapping[Any, Any]) -> str:
    """Return the vote, and the local features that are fused with it."""
    local = row.get("local")
    return _cell(row["vote"]) + ("" if _absent(local) or local == "none" else f" + {_cell(local)}")


def short_name(axis: str) -> str:
    """Return a short name of an axis: `loss` for loss.name, else its last part."""
    return "loss" if axis == "loss.name" else axis.rpartition(".")[2].replace("_", " ")


def _short_value(value: Any) -> str:
    """Return the text of a cell; of `hf:google/vit-base-patch16-224` or `torchvision:resnet18` the last part."""
    return re.split("[:/]", _cell(value))[-1]


def _absent(value: Any) -> bool:
    import pandas as pd  # not at the top: a sweep checks cluster and storage before it loads pandas

    return value is None or (not isinstance(value, str) and bool(pd.isna(value)))


def _cell(value: Any) -> str:
    if _absent(value):
        return "-"
    return f"{value:g}" if isinstance(value, float) else escape(str(value))
