"""The shortcut audit of a run: made once with the bundle's encoder, shown in the report, or left out with a reason."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from whale_ray.inference.predictor import Bundle
from whale_ray.sweep.planning.dataset import catalog_of
from whale_ray.sweep.report import shortcut_audit
from whale_ray.sweep.report.page import write_report
from whale_ray.sweep.report.shortcut_audit import audit_shortcuts
from whale_ray.sweep.report.shortcut_section import describe_verdict
from whale_ray.sweep.run_folder.records import Record, read_record

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration


@pytest.fixture
def run(finished: SweepResult, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(finished.folder, tmp_path / "little", symlinks=True))
    (run / "shortcut_audit.json").unlink(missing_ok=True)
    return run


def winner(run: Path) -> Record:
    return read_record(run / "trials" / json.loads((run / "best" / "bundle.json").read_text())["trial"])


def audited(run: Path, **options: Any) -> dict[str, Any]:
    record = winner(run)
    return audit_shortcuts(run, record, catalog_of(record.settings["data"]), **options)


def test_the_bundle_is_asked_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audited(run)
    assert (run / "shortcut_audit.json").is_file()
    assert "reason" in found or set(found["recall"]) == {"whole", "animal", "background"}
    monkeypatch.setattr(Bundle, "load", lambda *_, **__: pytest.fail("the bundle was loaded again"))
    assert audited(run) == found


@pytest.mark.parametrize("content", ['{"version": 1, "recall": {}}', '{"version": 0}', "{}"])
def test_an_incomplete_file_is_made_again(run: Path, content: str) -> None:
    (run / "shortcut_audit.json").write_text(content)
    assert audited(run).keys() >= {"bundle", "asked", "thorough"}


def test_thorough_takes_every_photograph_and_replaces_a_sample(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_PER_INDIVIDUAL": 1, "_FEWEST": 2, "MOST_SECONDS": 0.0, "_BATCH": 2}.items():
        monkeypatch.setattr(shortcut_audit, name, value)
    sample = audited(run)
    assert (sample["asked"], sample["thorough"]) == (2, False)
    everything = audited(run, thorough=True)
    assert everything["asked"] == everything["wanted"] > sample["wanted"]
    assert audited(run) == everything


def test_queries_come_with_their_answers_from_the_first_photograph_on() -> None:
    rows = pd.DataFrame(
        [
            {"image": f"{name}{number}", "individual": name, "group": "", "part": "val" if number == 9 else "train"}
            for name in "abcdefgh"
            for number in range(10)
            if number < 9 or name in "cd"
        ]
    )
    sample = shortcut_audit._sample(rows, thorough=False)
    assert sample["individual"].iloc[:8].tolist() in [list("ccccdddd"), list("ddddcccc")]
    assert sample["individual"].value_counts().to_dict() == {name: 4 if name in "cd" else 3 for name in "abcdefgh"}
    assert len(shortcut_audit._sample(rows, thorough=True)) == len(rows)


def test_without_a_bundle_or_with_that_of_another_trial_there_is_a_reason(run: Path) -> None:
    record = winner(run)
    catalog = catalog_of(record.settings["data"])
    other = audit_shortcuts(run, replace(record, trial="00000000"), catalog)
    assert other["reason"].startswith(f"the bundle is of trial {record.trial}")
    (run / "best").unlink()
    assert audit_shortcuts(run, record, catalog)["reason"].endswith("is made when the sweep ends")
    page = write_report(run).read_text()
    assert "Not measured: the bundle, whose encoder is asked, is made when the sweep ends." in page


SCORES = {
    "recall": {"whole": 0.7, "animal": 0.4, "background": 0.5},
    "intervals": {"whole": [0.6, 0.8], "animal": [0.3, 0.5], "background": [0.4, 0.6]},
    "above_chance": [0.45, 0.35, 0.55],
    "below_animal": [-0.1, -0.2, 0.0],
    "queries": 1,
    "gallery": 80,
    "chance": 0.05,
    "share": 0.69,
    "flagged": True,
    "asked": 81,
    "wanted": 90,
    "separated": 80,
    "sources": {"box": 60, "GrabCut": 20},
    "seconds": 30.2,
    "thorough": False,
    "pictures": [],
}


@pytest.mark.parametrize(
    ("flagged", "verdict"),
    [
        (True, "The encoder recognizes the place, not only the animal: .*, 69% of the gain over chance"),
        (False, "No shortcut was found: recall@1 is 0.50 on the background alone, 0.70 on whole photographs and 0.05"),
        (None, r"1 query: too few to tell a shortcut from chance \(recall@1 is 0.50"),
    ],
)
def test_the_report_shows_the_verdict_and_its_figures(run: Path, flagged: bool | None, verdict: str) -> None:
    audit = {**SCORES, "flagged": flagged, "version": 1, "bundle": Bundle.load(run / "best").id}
    (run / "shortcut_audit.json").write_text(json.dumps(audit))
    page = write_report(run).read_text()
    assert describe_verdict(audit) in page
    assert re.match(verdict, describe_verdict(audit))
    assert "80 of 81 photographs: 20 by GrabCut, 60 by box; 1 left out. After 30 s, 9 of the sample" in page
    assert f"<code>whale-ray report {run} --thorough</code>" in page
