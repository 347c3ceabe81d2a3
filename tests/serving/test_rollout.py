"""Exchange of a bundle in a running service: the settings that result, and what the driver imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from whale_ray.errors import InputError
from whale_ray.serving.deployment import rollout
from whale_ray.serving.deployment.rollout import exchanged
from whale_ray.serving.deployment.settings import ServeSettings

TWO = {"models": {"small": "a", "large": "b"}}


def test_an_exchange_replaces_one_model_and_ends_its_shadow() -> None:
    live = ServeSettings.model_validate({**TWO, "shadow": "next"})
    assert exchanged(live, Path("next"), model="large", shadow=False).bundles == {
        "small": Path("a"),
        "large": Path("next"),
    }
    assert exchanged(live, Path("next"), model=None, shadow=False).shadow is None
    assert exchanged(live, Path("other"), model=None, shadow=True).shadow == Path("other")
    with pytest.raises(InputError, match=r"--model must be one that is served \(small, large\), but is 'huge'"):
        exchanged(live, Path("next"), model="huge", shadow=False)


@pytest.mark.parametrize("running", [["whale_ray"], ["whale_ray", "page"]])
def test_a_rollout_removes_the_page_application_of_version_0_1(
    monkeypatch: pytest.MonkeyPatch, running: list[str]
) -> None:
    deleted: list[str] = []
    status = SimpleNamespace(applications=dict.fromkeys(running))
    fake = SimpleNamespace(
        RunTarget=lambda *target: target, run_many=lambda targets: None, status=lambda: status, delete=deleted.append
    )
    monkeypatch.setattr(rollout, "serve", fake)
    rollout.run_application(object())
    assert deleted == running[1:]


def test_describing_and_exchanging_a_service_does_not_import_torch(bundle: Path) -> None:
    code = """
import sys
from pathlib import Path
import whale_ray.commands.services, whale_ray.serving.deployment.rollout
from whale_ray.serving.auth.api_keys import NO_KEYS
from whale_ray.serving.deployment.application import build_application
from whale_ray.serving.deployment.settings import ServeSettings
path = Path(sys.argv[1])
build_application(ServeSettings(bundle=path, shape="split", shadow=path), keys=NO_KEYS)
print(sorted({"torch", "torchvision", "transformers", "faiss", "sklearn"} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stdout + ended.stderr
