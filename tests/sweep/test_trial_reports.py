"""Kinds of the reports that a trial's worker sends to the driver."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.utils import flatten_dict

from whale_ray.sweep.trial_reports import HEARTBEAT, NODE, UNFIT_NODE, WORKERS, ReportKind, kind_of


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        ({"epoch": 1, "loss": 0.5}, ReportKind.EPOCH),
        ({"epoch": 3, "done": True, "no_room": ""}, ReportKind.END),
        ({HEARTBEAT: {"pid": 7, NODE: "n1"}, "elsewhere": True}, ReportKind.HEARTBEAT),
        ({WORKERS: {"channel": "a", "places": "b"}}, ReportKind.WORKERS),
        ({UNFIT_NODE: "n1", "note": "node n1 lacks a file", "epoch": 0, "done": True}, ReportKind.UNFIT_NODE),
    ],
)
def test_a_report_has_one_kind_whatever_tune_adds(report: dict[str, Any], kind: ReportKind) -> None:
    full = {**report, NODE: "n1", "training_iteration": 1, "done": report.get("done", False), "config": {"trial": "0a"}}
    assert kind_of(full) is kind
    assert kind_of(flatten_dict(full)) is kind  # as a scheduler of Tune gets it
