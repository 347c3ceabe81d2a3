from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors
from saved_models import save_swin

from whale_ray.errors import EncoderError
from whale_ray.learning.encoders.backbones import hub_files, huggingface_backbones
from whale_ray.learning.encoders.registry import build_encoder

NAME = "owner/model"


def refused(kind: type[errors.HfHubHTTPError], status: int) -> Exception:
    request = httpx2.Request("GET", f"https://huggingface.co/{NAME}")
    return kind(f"{status} for {request.url}", response=httpx2.Response(status, request=request))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | Path], list[dict]]:
    """Stand in for the hub: an empty cache, and a refusal or the files of a folder. Returns the calls."""

    def answer(content: Exception | Path) -> list[dict]:
        calls: list[dict] = []

        def download(location: str, name: str, **options: object) -> str:
            calls.append({"location": location, "name": name, **options})
            if options["local_files_only"]:
                raise errors.LocalEntryNotFoundError("not in the cache")
            if isinstance(content, Exception):
                raise content
            if not (content / name).is_file():
                raise refused(errors.RemoteEntryNotFoundError, 404)
            return str(content / name)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(hub_files, "require_hub", lambda source: None)
        return calls

    return answer


@pytest.mark.parametrize("name", [f"timm:hf-hub:{NAME}", f"hf:{NAME}"])
@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (errors.RepositoryNotFoundError, 401, "the hub has no model owner/model, or it is private.*hf auth login"),
        (
            errors.GatedRepoError,
            403,
            "owner/model is a gated model.*Accept its terms at https://huggingface.co/owner/model",
        ),
        (errors.RevisionNotFoundError, 404, "owner/model has no revision 'v2' on the hub.*owner/model@REVISION"),
        (errors.HfHubHTTPError, 503, "the hub refused owner/model: 503 .* Try again later"),
    ],
)
def test_a_refusal_of_the_hub_is_one_message_with_its_remedy(
    hub: Callable, name: str, kind: type[errors.HfHubHTTPError], status: int, message: str
) -> None:
    hub(refused(kind, status))
    with pytest.raises(EncoderError, match=message):
        build_encoder(f"{name}@v2", embedding_size=8)


@pytest.mark.parametrize("kind", [errors.RepositoryNotFoundError, errors.GatedRepoError])
def test_a_refusal_that_transformers_wraps_has_the_same_message(kind: type[errors.HfHubHTTPError]) -> None:
    class Loader:
        @staticmethod
        def from_pretrained(source: str, *, local_files_only: bool = False, **options: object) -> None:
            try:
                raise refused(kind, 403)
            except OSError as error:
                raise OSError("an error of transformers") from error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_backbones, "require_hub", lambda source: None)
        with pytest.raises(EncoderError, match="hf auth login"):
            huggingface_backbones._fetch(Loader, NAME)


def test_config_and_weights_come_from_one_commit_even_if_the_branch_moves(hub: Callable, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "snapshots" / commit
    save_swin(folder)
    calls = hub(folder)
    recipe = build_encoder(f"timm:hf-hub:{NAME}@main", embedding_size=8, image_size=(64, 64)).recipe
    assert recipe["revision"] == commit
    assert {call["revision"] for call in calls if call["name"] == "config.json"} == {"main"}
    assert {call["revision"] for call in calls if call["name"] == "model.safetensors"} == {commit}


def test_a_repository_with_weights_in_pickle_alone_is_refused(hub: Callable, tmp_path: Path) -> None:
    save_swin(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pkl")
    hub(tmp_path)
    with pytest.raises(EncoderError, match=r"weights as tensors in model.safetensors or pytorch_model.bin, but owner"):
        build_encoder(f"timm:hf-hub:{NAME}", embedding_size=8, image_size=(64, 64))


def test_the_local_cache_is_asked_for_every_file_before_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(location: str, name: str, *, local_files_only: bool, **options: object) -> str:
        if name != "pytorch_model.bin" or not local_files_only:
            raise errors.LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = hub_files.ModelSource("timm:x", NAME).find("model.safetensors", "pytorch_model.bin")
    assert found == tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize("name", ["timm:resnet10t.c3_in1k", f"timm:hf-hub:{NAME}", f"hf:{NAME}"])
def test_an_unreachable_hub_names_the_command_that_fetches_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"cannot be reached.*hf download .*--local-dir DIR"):
        build_encoder(name, embedding_size=8)


@pytest.mark.parametrize("content", ["{", json.dumps(["swin"])])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    save_swin(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"cannot be loaded: its config.json is no"):
        build_encoder(f"timm:{tmp_path}", embedding_size=8)
