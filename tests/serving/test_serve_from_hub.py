"""A bundle that was pushed to a stand-in of the Hugging Face Hub answers over HTTP after it was pulled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from hub_stand_in import logged_in_hub
from services import plain_server, web_service

from whale_ray.inference.bundle_transfer.addresses import push_bundle
from whale_ray.serving.deployment.settings import read_settings

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult


def test_a_bundle_of_the_hub_answers_over_http(
    finished: SweepResult, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finished.bundle
    with logged_in_hub(tmp_path, monkeypatch):
        settings = read_settings([push_bundle(finished.bundle, "hf://whales/flukes")], [])
    photograph = sorted((photographs / "test").iterdir())[0]
    with plain_server(web_service(settings.bundles["default"])) as address:
        answer = httpx.post(f"{address}/v1/identify", content=photograph.read_bytes()).raise_for_status().json()
    assert answer["model"] == finished.bundle.name
    assert answer["results"][0]["candidates"]
