"""Bundles from a URL on several machines: each machine pulls the bundle that was deployed into its own cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ray import cloudpickle

from whale_ray.errors import BundleError
from whale_ray.inference.bundle import MANIFEST, read_manifest
from whale_ray.inference.bundle_transfer.addresses import local_bundle
from whale_ray.serving.deployment.pulled_bundles import BundleSources
from whale_ray.serving.deployment.replica_components import load_encoder
from whale_ray.serving.deployment.rollout import exchanged
from whale_ray.serving.deployment.settings import ServeSettings, read_settings, with_options

RENAMED = "tiny-renamed"


@pytest.fixture
def url(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a link to a bundle, as `best` of a run is one."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "deployer"))
    shutil.copytree(bundle, tmp_path / "disk" / "first")
    (tmp_path / "disk" / "best").write_text("first")
    return f"file://{tmp_path}/disk/best"


def on_another_machine(settings: ServeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    """The settings as a replica gets them on a machine that has not the files of the first one."""
    shutil.rmtree(tmp_path / "deployer")
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "replica"))
    sent: ServeSettings = cloudpickle.loads(cloudpickle.dumps(settings.resolved()))
    return sent


def rename(folder: Path) -> None:
    """Make another bundle of the one in a folder."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"id": RENAMED}))


def test_a_replica_pulls_the_deployed_bundle_although_best_has_moved(
    url: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = on_another_machine(read_settings([url], []), tmp_path, monkeypatch)
    rename(shutil.copytree(bundle, tmp_path / "disk" / "second"))
    (tmp_path / "disk" / "best").write_text("second")
    loaded, _ = load_encoder(settings.bundles["default"], settings)
    assert loaded.id == read_manifest(bundle)["id"]
    (pulled,) = (tmp_path / "replica" / "bundles").iterdir()
    shutil.rmtree(tmp_path / "disk")  # what is in the cache needs no storage
    assert settings.sources.replica_folder(settings.bundles["default"]) == pulled


def test_a_replica_refuses_a_bundle_that_has_replaced_the_deployed_one(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = on_another_machine(read_settings([url], []), tmp_path, monkeypatch)
    rename(tmp_path / "disk" / "first")
    with pytest.raises(BundleError, match=r"disk/first must still hold the bundle that was deployed.*whale-ray deploy"):
        load_encoder(settings.bundles["default"], settings)


def test_a_replica_on_a_machine_without_the_folder_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-2")
    settings = ServeSettings(bundle=tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"node-2 has no \S+/bundle. Copy it there, or name the bundle by a URL"):
        load_encoder(tmp_path / "bundle", settings)


def test_options_and_exchanges_keep_the_urls_of_the_bundles_that_are_served(
    url: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(shutil.copytree(bundle, tmp_path / "disk" / "second"))
    second = BundleSources()
    folder = second.pull(f"file://{tmp_path}/disk/second")
    live = with_options(read_settings([url], []), [f"shadow={tmp_path}/other", "replicas=2"])
    wanted = exchanged(live, folder, model=None, shadow=False, sources=second)
    assert wanted.sources == live.sources.merged(second)  # encoders of the old bundle run until the exchange ends
    assert exchanged(wanted, folder, model=None, shadow=False).sources == second
    both = exchanged(live, folder, model=None, shadow=True, sources=second)
    assert both.sources == live.sources.merged(second)
    both = on_another_machine(both, tmp_path, monkeypatch)
    ids = [read_manifest(both.sources.replica_folder(one))["id"] for one in (both.bundles["default"], folder)]
    assert ids == [read_manifest(bundle)["id"], RENAMED]


def test_a_pull_removes_what_a_killed_pull_of_the_same_bundle_has_left(url: str, tmp_path: Path) -> None:
    folder = local_bundle(url)
    folder.rename(folder.with_name(f".{folder.name}.left"))
    assert local_bundle(url) == folder
    assert list(folder.parent.iterdir()) == [folder]
