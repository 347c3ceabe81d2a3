"""Code and photographs on the nodes of a cluster: compared with those of the driver; nodes that differ are left out."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ray.cluster_utils import Cluster
from run_store_files import write_files
from server_processes import end_nodes, node_without_dashboard
from small_sweep import SWEEP

import whale_ray
from whale_ray.data.caches.cache_folder import pixel_cache
from whale_ray.data.image_io import Geometry
from whale_ray.errors import InputError
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.bundle_transfer.photograph_download import download_photographs
from whale_ray.sweep.execution.cluster import trial_slots
from whale_ray.sweep.execution.cluster.trial_slots import TrialSlots, describe_left_out
from whale_ray.sweep.execution.runners.tune_callback import SweepCallback
from whale_ray.sweep.planning import node_checks
from whale_ray.sweep.planning.dataset import Dataset, open_dataset
from whale_ray.sweep.planning.node_checks import (
    NodeNeeds,
    UnfitNodeError,
    check_code,
    check_run_folder,
    code_version,
    dataset_on_this_node,
    needs_of,
)
from whale_ray.sweep.planning.trial_points import first_settings, geometries
from whale_ray.sweep.trial_reports import NODE, UNFIT_NODE
from whale_ray.sweep.trials.worker import run_trial_on_ray

if TYPE_CHECKING:
    from whale_ray.sweep.config.sweep_spec import Sweep


@pytest.fixture
def root(photographs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photographs, tmp_path / "photographs"))


@pytest.fixture
def opened(
    write_sweep: Callable[..., Sweep], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Dataset]:
    """Opens the photographs as a driver whose cache the node does not see."""

    def open_as_driver(address: str) -> Dataset:
        sweep = write_sweep(f"data.root={address}")
        monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "driver"))
        settings = first_settings(sweep)
        cache = tmp_path / "driver" / "pixels"
        dataset = open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=cache)
        shutil.move(tmp_path / "driver", tmp_path / "unseen")
        monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "node"))
        download_photographs.cache_clear()
        return dataset

    return open_as_driver


def test_a_node_with_the_same_photographs_decodes_them_into_its_own_cache(
    opened: Callable[[str], Dataset], root: Path, tmp_path: Path
) -> None:
    dataset = opened(str(root))
    here = dataset_on_this_node(dataset, str(root))
    (geometry,) = here.decoded
    assert here.cache == tmp_path / "node" / "pixels"
    driver = np.load(next((tmp_path / "unseen").rglob("pixels.npy")))
    np.testing.assert_array_equal(here.pixels(geometry).array, driver)
    assert dataset_on_this_node(here, str(root)) is here


def test_a_node_decodes_the_geometry_of_its_trial_only(
    opened: Callable[[str], Dataset], root: Path, tmp_path: Path
) -> None:
    driver = opened(str(root))
    (first,) = driver.decoded
    larger = Geometry(48, 96)
    driver = dataclasses.replace(driver, decoded={**driver.decoded, larger: "0" * 16})
    for geometry, wanted in ((larger, larger), (Geometry(8, 8), first), (None, first)):
        (decoded,) = dataset_on_this_node(driver, str(root), geometry).decoded
        assert decoded == wanted
        assert len(list((tmp_path / "node" / "pixels").glob("*/"))) == (1 if geometry == larger else 2)


def test_photographs_at_a_url_are_downloaded_on_the_node(
    opened: Callable[[str], Dataset], root: Path, tmp_path: Path
) -> None:
    url = f"file://{root}"
    here = dataset_on_this_node(opened(url), url)
    assert here.catalog.folder.is_relative_to(tmp_path / "node" / "photographs")
    assert len(list(here.catalog.folder.iterdir())) == 72


def test_a_node_that_lacks_photographs_says_how_many(opened: Callable[[str], Dataset], root: Path) -> None:
    dataset = opened(str(root))
    for image in dataset.table["image"][:3]:
        (root / "train" / image).unlink()
    with pytest.raises(
        UnfitNodeError,
        match=r"node .* must have the photographs .* but 3 of the 72 photographs that were looked for "
        r"are missing in .*--data s3",
    ):
        dataset_on_this_node(dataset, str(root))


def test_a_node_with_another_photograph_of_the_same_name_is_named(opened: Callable[[str], Dataset], root: Path) -> None:
    dataset = opened(str(root))
    Image.new("RGB", (64, 32), "blue").save(root / "train" / dataset.table["image"][0], "JPEG")
    with pytest.raises(UnfitNodeError, match="but their content differs"):
        dataset_on_this_node(dataset, str(root))


def test_a_node_whose_storage_does_not_answer_is_named(opened: Callable[[str], Dataset], root: Path) -> None:
    url = f"file://{root}"
    dataset = opened(url)
    shutil.rmtree(root)
    with pytest.raises(UnfitNodeError, match=r"node .* cannot use the photographs: data\.root must hold"):
        dataset_on_this_node(dataset, url)


def test_a_dataset_whose_cache_is_there_is_taken_as_it_is(
    write_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path))
    settings = first_settings(sweep := write_sweep())
    dataset = open_dataset(settings["data"], settings["split"], geometry=geometries(sweep)[0], cache=pixel_cache())
    elsewhere = dataclasses.replace(dataset, catalog=dataclasses.replace(dataset.catalog, folder=Path("/nowhere")))
    assert dataset_on_this_node(elsewhere, "/nowhere") is elsewhere


def test_a_node_is_checked_for_code_folder_and_photographs_before_it_has_a_trial(
    opened: Callable[[str], Dataset], root: Path
) -> None:
    needs = needs_of(opened(str(root)), str(root), code_version())
    assert (needs.fault(), len(needs.images)) == ("", 72)
    assert "must have the driver's whale_ray" in dataclasses.replace(needs, code="0.1.0 (code 0)").fault()
    needs.images[0].unlink()
    assert f"1 of the 72 photographs that were looked for are missing in {root}/train. Copy them" in needs.fault()
    shutil.rmtree(root / "train")
    assert f"node {socket.gethostname()} must have the photographs" in needs.fault()
    assert f"but {root}/train does not exist there" in needs.fault()
    (root / "train").mkdir()
    assert f"but {root}/train is empty there" in dataclasses.replace(needs, images=()).fault()
    assert dataclasses.replace(needs, folder=None).fault() == "", "it downloads them"


def test_a_node_that_shares_the_decoded_photographs_of_the_driver_needs_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path))
    cache = tmp_path / "pixels"
    needs = NodeNeeds(code_version(), Path("/nowhere"), (), cache, ("decoded",))
    assert "/nowhere does not exist there" in needs.fault()
    (cache / "decoded").mkdir(parents=True)
    assert needs.fault() == ""
    assert dataclasses.replace(needs, cache=tmp_path / "other").fault(), "another folder of the same name"
    assert dataclasses.replace(needs, decoded=()).fault(), "nothing shows that the folder is the driver's"


def test_a_check_looks_for_at_most_100_photographs(opened: Callable[[str], Dataset], root: Path) -> None:
    dataset = opened(str(root))
    many = dataclasses.replace(dataset, table=pd.concat([dataset.table] * 350, ignore_index=True))
    assert 90 < len(needs_of(many, str(root), "").images) <= 100


def test_nodes_with_the_same_fault_share_a_line_of_the_error() -> None:
    assert describe_left_out(["node a lacks one", "node b has another", "node c lacks one", "node c lacks one"]) == (
        "a node of the cluster must be able to run the trials, but none is left:\n"
        "  nodes a, c lacks one\n  node b has another"
    )


def test_a_node_that_is_left_out_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"good": {"CPU": 2.0}, "unfit": {"CPU": 4.0}}
    monkeypatch.setattr(
        trial_slots, "_alive_nodes", lambda left_out: [one for name, one in nodes.items() if name not in left_out]
    )
    slots = TrialSlots({"CPU": 1.0}, workers=1)
    assert slots.count() == 6
    assert slots.leave_out("unfit", "node unfit lacks photographs")
    assert slots.count() == 2
    assert not slots.leave_out("good", "node good lacks photographs"), "no node is left"
    stopping = threading.Event()
    with pytest.raises(InputError, match=r"none is left:\n  nodes unfit, good lacks photographs$"):
        slots.wait_for_one(minutes=0.0, say=print, stopping=stopping)


def test_a_node_that_does_not_see_the_run_folder_is_left_out_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.get_runtime_context", lambda: Mock(get_node_id=lambda: "n1"))
    monkeypatch.setattr("ray.tune.report", reported.append)
    context = Mock(working_folder=tmp_path, folder=tmp_path / "runs/little", remote=None, workers=1)
    waited: list[float] = []
    monkeypatch.setattr(node_checks, "time", SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append))
    run_trial_on_ray({"trial": "1"}, context)
    assert sum(waited) == pytest.approx(10, abs=0.3)
    assert [one[UNFIT_NODE] for one in reported] == ["n1"]
    assert "has no trial 1 there. Name a folder that all nodes share, or object storage: --runs" in reported[0]["note"]
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_a_node_sees_a_little_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(seconds: float) -> None:
        write_files(tmp_path, {"trials/1/settings.json": "{}"})

    monkeypatch.setattr(node_checks, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=show))
    check_run_folder(tmp_path, "1")


@pytest.mark.parametrize("others", [True, False])
def test_the_sweep_ends_when_no_node_is_left_that_can_run_trials(others: bool) -> None:
    slots, stopping = Mock(left_out={}), threading.Event()
    slots.leave_out.return_value = others
    callback = SweepCallback.__new__(SweepCallback)
    callback.__dict__ |= {"_slots": slots, "_stopping": stopping, "_events": Mock(), "_progress": Mock()}
    callback.has_no_node = False
    callback._order = Mock()
    trial = Mock(config={"trial": "1"})
    callback.on_trial_result(1, [], trial, {NODE: "n1", UNFIT_NODE: "n1", "note": "node n1 lacks 3 photographs"})
    callback._order.record_node.assert_called_once_with("1", "n1")
    callback._events.unplaced.assert_called_once_with("1")
    slots.leave_out.assert_called_once_with("n1", "node n1 lacks 3 photographs")
    assert stopping.is_set() is callback.has_no_node is not others
    (said,) = callback._progress.say.call_args.args
    assert said.startswith(
        "node n1 lacks 3 photographs. This node" if others else "node n1 lacks 3 photographs. No other"
    )


def test_a_node_with_other_code_is_named_with_both_versions() -> None:
    check_code(code_version())
    with pytest.raises(
        UnfitNodeError, match=r"node .* must have the driver's whale_ray, 0\.1\.0 \(code 0\), but has .*ray job submit"
    ):
        check_code("0.1.0 (code 0)")


def other_code(folder: Path) -> Path:
    """Return a folder with a copy of the package in which one file differs."""
    package = Path(whale_ray.__file__).parent
    shutil.copytree(package, folder / "other" / "whale_ray", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "other" / "whale_ray" / "errors.py").open("a") as file:
        file.write("# another version\n")
    return folder / "other"


@pytest.mark.slow
def test_a_sweep_leaves_out_nodes_with_other_code_or_without_photographs_and_ends_without_a_node(
    s3: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_ENDPOINT_URL", s3), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    url = "s3://whales/for_nodes"
    for path in photographs.rglob("*"):
        if path.is_file():
            ObjectStore(url).upload(path, str(path.relative_to(photographs)))
    (tmp_path / "little.yaml").write_text(SWEEP.replace("ROOT", url))
    (tmp_path / "driver_only.yaml").write_text(SWEEP.replace("ROOT", f"/proc/self/cwd/{photographs.name}"))
    (tmp_path / photographs.name).symlink_to(photographs)
    cluster = Cluster(initialize_head=True, head_node_args=node_without_dashboard())

    def run(file: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "whale_ray.sweep", file, "--address", cluster.address]
        settings = ("resources.cpus=1", *options)
        environment = {**os.environ, "WHALE_RAY_CACHE": str(tmp_path / "driver")}
        return subprocess.run(
            [*command, *(word for setting in settings for word in ("--set", setting))],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    try:
        # Three trials begin at once, one on each node.
        unfit = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        for name, more in (("good", {}), ("unfit", unfit), ("older", {"PYTHONPATH": str(other_code(tmp_path))})):
            cluster.add_node(num_cpus=1, env_vars={"WHALE_RAY_CACHE": str(tmp_path / name), **more})
        refused = run("driver_only.yaml")
        has_begun = (tmp_path / "runs").exists()
        ended = run("little.yaml")
        grown = run("driver_only.yaml", "loss.name=[arcface, proxy_anchor, triplet]")
    finally:
        end_nodes(cluster)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "must have the driver's whale_ray" in ended.stdout
    assert ended.stdout.count("cannot use the photographs: s3://whales/for_nodes must be storage") == 1
    assert "This node is left out, and its trials get others" in ended.stdout
    assert (tmp_path / "good" / "pixels").exists()
    assert not (tmp_path / "unfit" / "pixels").exists()
    # Known before the driver has read the photographs: nothing has begun.
    assert (refused.returncode, refused.stdout, has_begun) == (2, "", False), refused.stdout + refused.stderr
    assert "whale_ray: a node of the cluster must be able to run the trials, but none is left:" in refused.stderr
    assert f"/proc/self/cwd/{photographs.name} does not exist there. Copy them to the same path" in refused.stderr
    assert "must have the driver's whale_ray" in refused.stderr
    # A sweep that has begun ends without a node, and keeps what it has.
    assert grown.returncode == 4, grown.stdout + grown.stderr
    assert "No other node can run the trials: the sweep ends" in grown.stdout
    assert "/train does not exist there. Copy them to the same path" in grown.stderr
    assert "finished trials are kept. When a node can run the trials, run the same command again" in grown.stderr
    assert "interrupted" not in grown.stdout
    table = pd.read_csv(tmp_path / "runs" / "little" / "leaderboard.csv")
    assert table["status"].tolist() == ["finished"] * 3 + ["running"] * (len(table) - 3)
