"""Report context: the sweep, its trials in leaderboard order and their comparison, shared by all sections."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from whale_ray.errors import DataError
from whale_ray.retrieval.evaluation.score_names import INDIVIDUAL_SCORES
from whale_ray.sweep.analysis.trial_comparison import Comparison, compare_trials
from whale_ray.sweep.config.sweep_spec import Sweep, load_sweep
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.report.thumbnails import Photographs
from whale_ray.sweep.run_folder.leaderboard import leaderboard
from whale_ray.sweep.run_folder.optional_json import read_optional_json
from whale_ray.sweep.run_folder.records import Record, read_records, sweep_file

if TYPE_CHECKING:
    from whale_ray.inference.predictor import Bundle


@dataclass(frozen=True)
class ReportContext:
    """The state of a run when its report is written.

    Attributes:
        run: The run folder.
        sweep: Its sweep.
        records: Its trials, best first; trials repeated over seeds have `over_seeds` in their result.
        live: The sweep is running.
        progress: Progress bars are shown while photographs are compared.
        thorough: The shortcut audit uses every photograph, and the label review keypoints.
        loaded: The best bundle, if it is in memory already.
    """

    run: Path
    sweep: Sweep
    records: tuple[Record, ...]
    live: bool
    progress: bool = False
    thorough: bool = False
    loaded: Bundle | None = None

    @property
    def objective(self) -> str:
        """The first objective of the sweep."""
        return self.sweep.objective

    @property
    def best(self) -> Record | None:
        """The best finished trial."""
        return next((record for record in self.records if record.status == "finished"), None)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The finished trials compared with the best one on the same queries."""
        return compare_trials(self.records, self.objective)

    @property
    def counts(self) -> Counter[str]:
        """Number of trials by status."""
        return Counter(record.status for record in self.records)

    @property
    def table_scores(self) -> list[str]:
        """Names of the scores that tables show."""
        return list(dict.fromkeys((self.objective, "recall@1", "recall@4", "map@5", *INDIVIDUAL_SCORES)))

    @cached_property
    def drawn(self) -> str:
        """A sentence that says that the photographs are drawn; "" if they are not."""
        return str(read_optional_json(self.run / "audit.json").get("drawn", ""))

    @cached_property
    def bundle(self) -> Bundle:
        """The best bundle, loaded once for all sections that embed photographs."""
        from whale_ray.inference.predictor import Bundle

        return self.loaded or Bundle.load(self.run / "best")

    @cached_property
    def photographs(self) -> Photographs:
        """The photographs that the sweep was run on."""
        settings = {key.removeprefix("data."): value for key, value in self.sweep.fixed.items()}
        try:
            catalog = catalog_of(settings)
        except DataError:  # the data set was moved or changed; the report says so for each photograph
            return Photographs(Path(settings["root"]) / settings["image_folder"], image_bytes=settings["image_bytes"])
        return Photographs(catalog.folder, catalog)


def read_context(
    run: Path,
    *,
    live: bool = False,
    progress: bool = False,
    thorough: bool = False,
    bundle: Bundle | None = None,
) -> ReportContext:
    """Read a run folder.

    Args:
        run: The run folder.
        live: The sweep is running.
        progress: Show progress bars while photographs are compared.
        thorough: Use every photograph in the shortcut audit.
        bundle: The best bundle, if it is in memory already.

    Raises:
        InputError: If the folder is not that of a sweep.
    """
    sweep = load_sweep(sweep_file(run), is_recorded=True)
    records = tuple(_in_leaderboard_order(read_records(run), sweep))
    return ReportContext(run, sweep, records, live, progress, thorough, bundle)


def _in_leaderboard_order(records: Sequence[Record], sweep: Sweep) -> list[Record]:
    table = leaderboard(records, axes=[], objective=sweep.ranked_by, also=sweep.also)
    by_id = {record.trial: record for record in records}
    repeated = table[table["runs"] > 1] if "runs" in table else table.iloc[:0]
    for row in repeated.to_dict("records"):
        over = {"runs": int(row["runs"]), "mean": row[f"{sweep.ranked_by}_mean"], "sd": row[f"{sweep.ranked_by}_sd"]}
        record = by_id[row["trial"]]
        by_id[row["trial"]] = dataclasses.replace(record, result={**record.result, "over_seeds": over})
    return [by_id[trial] for trial in table["trial"]]
