"""Exchange of a bundle in a running service: the settings that result, and what the driver imports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from whale_ray.errors import InputError
from whale_ray.serving.deployment import rollout, start_failures
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
    monkeypatch.setattr(start_failures, "serve", SimpleNamespace(status=lambda: SimpleNamespace(applications={})))
    rollout.run_application(object())
    assert deleted == running[1:]


@pytest.mark.integration
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


FAILED = "A replica failed to start with exception. Retrying. Error:\nTraceback\n"


def said_while_watching(monkeypatch: pytest.MonkeyPatch, looks: list[list[str]]) -> list[str]:
    """Return what is said while the deployments have the messages of each look, and one look more, without any."""
    seen: list[list[str]] = []
    coming = iter(looks)

    def status() -> SimpleNamespace:
        seen.append(next(coming, []))
        deployments = {number: SimpleNamespace(message=message) for number, message in enumerate(seen[-1])}
        return SimpleNamespace(applications={"whale_ray": SimpleNamespace(deployments=deployments)})

    monkeypatch.setattr(start_failures, "serve", SimpleNamespace(status=status))
    said: list[str] = []
    with start_failures.reported_failures("whale_ray", said.append, rest=0.01):
        while len(seen) <= len(looks):
            time.sleep(0.01)
    return said


def test_a_replica_that_does_not_start_is_reported_once_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve tries again without end where other replicas of the same version run."""
    messages = ["", FAILED + "BundleError: n0 has no bundle", FAILED + "BundleError: n1 has no bundle"]
    looks = [["of an earlier one"], *([FAILED + "OSError: disk"] for _ in range(3)), messages, messages, [FAILED]]
    said = said_while_watching(monkeypatch, looks)
    assert [line.split(": ", 1)[1] for line in said] == [
        "OSError: disk",
        "n0 has no bundle",
        "n1 has no bundle",
        "Traceback",
    ]


def test_failures_of_an_earlier_deployment_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_while_watching(monkeypatch, [[FAILED + "StoreError: gone"]] * 3) == []
