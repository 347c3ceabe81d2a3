"""Settings of a service: deploy/serve.yaml, command lines, and contradictions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from services import TOP

from whale_ray import serve_app
from whale_ray.errors import InputError, StoreError
from whale_ray.serving.deployment import replica_components
from whale_ray.serving.deployment.settings import ServeSettings, read_settings

TWO = {"models": {"small": "a", "large": "b"}}


def test_the_file_for_serve_deploy_is_valid_and_listens_on_loopback() -> None:
    text = (TOP / "deploy" / "serve.yaml").read_text()
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.http_options.host == "127.0.0.1"
    (service,) = schema.applications
    assert service.import_path == "serve_app:build"
    settings = ServeSettings.model_validate(service.args)
    assert all(path.is_absolute() for path in settings.bundles.values())
    missing = [name for name in ServeSettings.model_fields if not re.search(rf"\b{name}\b", text)]
    assert not missing, "settings that the file does not show"


def test_the_page_application_of_version_0_1_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"must be part of the application `whale_ray`.*Remove that application"):
        serve_app.page({"image_bytes": 1})


def test_every_setting_has_a_description() -> None:
    missing = [name for name, field in ServeSettings.model_fields.items() if not field.description]
    assert not missing


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, r"either `bundle` or `models` must be given"),
        ({"bundle": "a", **TWO}, r"either `bundle` or `models` must be given, not both"),
        ({**TWO, "default": "huge"}, r"`default` must be one of `models` \(small, large\), but is 'huge'"),
        ({"bundle": "a", "replicas": 3, "max_replicas": 2}, r"`replicas <= max_replicas` must hold, but got 3 and 2"),
        ({"models": {"a b": "x"}}, r"String should match pattern"),
        ({"bundle": "a", "shape": "round"}, r"'joined' or 'split'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ServeSettings.model_validate(settings)


def test_the_default_is_the_first_model_or_the_one_that_is_named() -> None:
    assert list(ServeSettings.model_validate(TWO).bundles) == ["small", "large"]
    assert list(ServeSettings.model_validate({**TWO, "default": "large"}).bundles) == ["large", "small"]


def test_every_model_but_a_joined_default_has_an_encoder_deployment() -> None:
    assert list(ServeSettings.model_validate(TWO).remote_encoders) == ["large"]
    assert list(ServeSettings.model_validate({**TWO, "shape": "split"}).remote_encoders) == ["small", "large"]


def test_a_command_line_names_one_bundle_or_several() -> None:
    assert read_settings(["runs/a=1/best"], ["replicas=2"]) == ServeSettings(bundle=Path("runs/a=1/best"), replicas=2)
    assert read_settings(["small=a", "large=b"], []) == ServeSettings.model_validate(TWO)
    with pytest.raises(InputError, match=r"must each have another name, as small=runs/a/best"):
        read_settings(["a", "b"], [])
    with pytest.raises(InputError, match=r"replicas: Input should be greater than or equal to 1; treads: Extra"):
        read_settings(["a"], ["replicas=0", "treads=2"])


@pytest.mark.parametrize(("alive", "refused"), [((True, True), True), ((True, False), False)])
def test_a_store_in_a_file_is_refused_on_several_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: tuple[bool, ...], refused: bool
) -> None:
    monkeypatch.setattr(replica_components.ray, "nodes", lambda: [{"Alive": one} for one in alive])
    url = f"sqlite:///{tmp_path}/enrolled.db"
    if refused:
        with pytest.raises(StoreError, match=r"need a store that they share.*Set WHALE_RAY_STORE to postgresql"):
            replica_components.open_store(url)
    else:
        store = replica_components.open_store(url)
        assert store is not None
        store.close()
    assert replica_components.open_store("none") is None
