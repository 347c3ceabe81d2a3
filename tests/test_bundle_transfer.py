"""Bundles pushed to and pulled from a stand-in of the Hugging Face Hub, S3 (moto) and a mounted disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_stand_in import READER, WRITER, Hub, logged_in_hub
from server_processes import free_port
from typer.testing import CliRunner

from whale_ray.errors import BundleError
from whale_ray.inference.bundle import MANIFEST, read_bundle, read_manifest
from whale_ray.inference.bundle_transfer.addresses import local_bundle, push_bundle
from whale_ray.inference.bundle_transfer.object_store import ObjectStore
from whale_ray.inference.predictor import Bundle

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

URL = "hf://whales/flukes"


@pytest.fixture
def bundle(finished: SweepResult) -> Path:
    assert finished.bundle
    return finished.bundle


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with logged_in_hub(tmp_path, monkeypatch) as hub:
        yield hub


def changed(bundle: Path, folder: Path) -> Path:
    """Return a copy of a bundle with another ID and without thumbnails."""
    shutil.copytree(bundle, folder)
    shutil.rmtree(folder / "thumbnails")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if "thumbnails" not in name}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"id": "another"}))
    return folder


# The hub


def test_a_bundle_that_was_pushed_is_pulled_and_identifies(hub: Hub, bundle: Path, photographs: Path) -> None:
    pushed = push_bundle(bundle, URL)
    assert pushed == f"{URL}@{hub.repositories['whales/flukes'].refs['main']}"
    assert hub.repositories["whales/flukes"].private
    for url in (URL, pushed):
        assert read_manifest(local_bundle(url)) == read_manifest(bundle)
    photograph = sorted((photographs / "test").iterdir())[0]
    assert Bundle.load(URL).identify([photograph]) == Bundle.load(bundle).identify([photograph])


def test_files_of_an_earlier_bundle_and_of_the_desktop_are_not_in_the_next_one(
    hub: Hub, bundle: Path, tmp_path: Path
) -> None:
    first = push_bundle(bundle, URL, public=True)
    (changed(bundle, tmp_path / "second") / ".DS_Store").write_bytes(b"")
    second = push_bundle(tmp_path / "second", URL)
    assert not hub.repositories["whales/flukes"].private
    assert not [name for name in os.listdir(local_bundle(second)) if name in ("thumbnails", ".DS_Store")]
    assert [read_manifest(local_bundle(url))["id"] for url in (first, second, URL)] == [
        bundle.name,
        "another",
        "another",
    ]


def test_a_commit_in_the_cache_needs_no_call(hub: Hub, bundle: Path) -> None:
    pushed = push_bundle(bundle, URL)
    local_bundle(pushed)
    hub.calls.clear()
    assert read_manifest(local_bundle(pushed))["id"] == bundle.name
    assert hub.calls == []


def test_without_the_hub_the_cache_is_used_with_a_warning(
    bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    push_bundle(bundle, URL)
    local_bundle(URL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_manifest(local_bundle(URL))["id"] == bundle.name
    assert "the hub does not answer, so commit" in caplog.text


def test_a_revision_that_moved_is_refused_and_the_main_branch_may_move(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    push_bundle(bundle, f"{URL}@v1")
    repository = hub.repositories["whales/flukes"]
    before = repository.refs["v1"]
    local_bundle(f"{URL}@v1")
    push_bundle(changed(bundle, tmp_path / "second"), f"{URL}@v1")
    for _ in range(2):
        with pytest.raises(BundleError, match=rf"@v1 was commit {before} .* is {repository.refs['v1']} now\. Name"):
            local_bundle(f"{URL}@v1")
    assert read_manifest(local_bundle(f"{URL}@{repository.refs['v1']}"))["id"] == "another"


def test_a_revision_that_was_deleted_is_refused_though_it_is_in_the_cache(hub: Hub, bundle: Path) -> None:
    pushed = push_bundle(bundle, f"{URL}@v1")
    local_bundle(f"{URL}@v1")
    del hub.repositories["whales/flukes"].refs["v1"]
    with pytest.raises(BundleError, match="@v1 has none of that name"):
        local_bundle(f"{URL}@v1")
    assert read_manifest(local_bundle(pushed))["id"] == bundle.name


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("hf://whales/nothing", READER, "the hub shows none. Check the spelling"),
        ("hf://whales/flukes", "", "run `hf auth login` or set HF_TOKEN if it is private"),
        ("hf://whales/gated", READER, "a gated model needs your access granted"),
        ("hf://whales/flukes@v9", READER, "but hf://whales/flukes@v9 has none of that name. Leave @v9 out"),
        (f"hf://whales/flukes@{'0' * 40}", READER, "has none of that name"),
        ("hf://flukes", READER, "is hf://OWNER/NAME or hf://OWNER/NAME@REVISION, but got hf://flukes"),
        ("hf://whales/fl..ukes", READER, "the hub must accept hf://whales/fl..ukes, but"),
        ("hff://whales/flukes", READER, "begins with hf://, s3://, gs://, file://, but got hff. Did you mean"),
    ],
)
def test_a_bundle_that_cannot_be_pulled_is_one_message(
    hub: Hub, bundle: Path, url: str, token: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flukes", "gated"):
        push_bundle(bundle, f"hf://whales/{name}")
    hub.repositories["whales/gated"].gated = True
    monkeypatch.setenv("HF_TOKEN", token)
    ended = CliRunner().invoke(application(), ["submit", url, "photographs", "out.csv"])
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert ended.stderr.startswith("whale_ray: ")
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("token", "message"),
    [(READER, "the hub answers 403"), ("", "the hub answers 401"), ("hf_other", "answers 403|shows none")],
)
def test_a_token_that_may_not_write_is_one_message(
    hub: Hub, bundle: Path, token: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_bundle(bundle, URL)
    monkeypatch.setenv("HF_TOKEN", token)
    for url in (URL, "hf://others/flukes"):
        with pytest.raises(BundleError, match=message):
            push_bundle(bundle, url)
    assert len(hub.repositories["whales/flukes"].commits) == 2


def test_without_the_hub_and_without_a_copy_the_message_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(BundleError, match=r"the hub must answer for hf://whales/flukes, which is not in the cache"):
        local_bundle(URL)


def test_a_damaged_file_on_the_hub_is_named(hub: Hub, bundle: Path) -> None:
    push_bundle(bundle, URL)
    repository = hub.repositories["whales/flukes"]
    repository.commits[repository.refs["main"]]["gallery.csv"] += b"\n"
    with pytest.raises(BundleError, match=r"gallery\.csv is damaged"):
        read_bundle(local_bundle(URL))


def test_a_damaged_bundle_is_not_pushed(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "damaged")
    (folder / "gallery.csv").write_text("image,individual\n")
    with pytest.raises(BundleError, match=r"gallery\.csv is damaged"):
        push_bundle(folder, URL)
    assert hub.repositories == {}


@pytest.mark.slow
def test_the_commands_push_and_identify_as_a_person_types_them(
    hub: Hub, bundle: Path, photographs: Path, tmp_path: Path
) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": WRITER,
    }
    code = "from whale_ray.cli import main; main()"
    program = [sys.executable, "-c", code]
    pushed = subprocess.run(
        [*program, "push", str(bundle), URL], env=environment, capture_output=True, text=True, check=True
    )
    url = pushed.stdout.strip().split()[-1]
    assert url.startswith(f"{URL}@")
    photograph = str(sorted((photographs / "test").iterdir())[0])
    found = subprocess.run(
        [*program, "identify", url, photograph], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout)["model"] == bundle.name


# Serve settings


def test_serve_settings_pull_their_bundles(hub: Hub, bundle: Path) -> None:
    from whale_ray.serving.deployment.settings import ServeSettings, read_settings

    pushed = push_bundle(bundle, URL)
    one, several = read_settings([pushed], []), read_settings([f"small={pushed}", f"large={URL}"], [])
    file = ServeSettings.model_validate({"models": {"a": URL}, "shadow": pushed})
    for path in (*one.bundles.values(), *several.bundles.values(), *file.bundles.values(), file.shadow):
        assert path is not None
        assert read_manifest(path)["id"] == bundle.name
    with pytest.raises(BundleError, match="the hub shows none"):
        read_settings(["hf://whales/nothing"], [])


def application() -> object:
    from whale_ray.cli import application

    return application


# Object storage


@pytest.fixture(params=["s3", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL below which bundles can be pushed, with an empty cache."""
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        return f"file://{tmp_path}/disk"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3://whales/{tmp_path.name}"


@pytest.mark.slow
def test_a_bundle_in_storage_is_pushed_pulled_and_never_overwritten(storage: str, bundle: Path, tmp_path: Path) -> None:
    assert push_bundle(bundle, f"{storage}/best") == f"{storage}/best"
    pulled = local_bundle(f"{storage}/best")
    assert pulled.is_relative_to(tmp_path / "cache")
    assert read_manifest(pulled) == read_manifest(bundle)
    assert local_bundle(f"{storage}/best") == pulled
    push_bundle(bundle, f"{storage}/best")
    with pytest.raises(BundleError, match="never overwritten"):
        push_bundle(changed(bundle, tmp_path / "second"), f"{storage}/best")
    push_bundle(tmp_path / "second", f"{storage}/second")
    assert local_bundle(f"{storage}/second") != pulled
    with pytest.raises(BundleError, match=rf"{storage}/nothing must hold a bundle"):
        local_bundle(f"{storage}/nothing")


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/../../b"])
def test_a_bundle_whose_files_lead_out_of_its_folder_is_not_pulled(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: "0"}}))
    with pytest.raises(BundleError, match="files of a bundle lie in its folder"):
        local_bundle(f"file://{tmp_path}/forged")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_in_storage_leaves_nothing_in_the_cache(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHALE_RAY_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(bundle, tmp_path / "damaged")
    (folder / "gallery.csv").write_text("image,individual\n")
    with pytest.raises(BundleError, match=r"gallery\.csv is damaged"):
        local_bundle(f"file://{folder}")
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []


def test_storage_that_does_not_answer_is_one_message(bundle: Path) -> None:
    url = "s3://whales/best?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1&access_key=a&secret_key=b"
    with pytest.raises(BundleError, match="must be storage that can be used"):
        local_bundle(url)
    with pytest.raises(BundleError, match=r"is pushed to hf://OWNER/NAME or s3://BUCKET/PATH, but got elsewhere"):
        push_bundle(bundle, "elsewhere")


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_a_link_is_followed_with_the_options_of_its_url(
    storage: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_bundle(bundle, f"{storage}/first")
    ObjectStore(storage).write("best", b"first")
    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    pulled = local_bundle(f"{storage}/best?endpoint_override={server}&scheme=http&region=us-east-1")
    assert read_manifest(pulled) == read_manifest(bundle)
