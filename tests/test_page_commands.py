"""Commands of README and docs run as printed, with relative paths, in a folder that is not the repository."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from documentation_pages import ROOT, commands
from typer.testing import CliRunner

from whale_ray.cli import application
from whale_ray.serving.gallery.enrolled_pictures import EnrolledPicture
from whale_ray.serving.gallery.enrolment_store import EnrolmentStore

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

MODULE = "python -m whale_ray.sweep"
# Commands that are not run here, and the reason.
LEFT_OUT = {
    r"whale-ray serve|whale-ray deploy|whale-ray identify http": "starts or needs a service; tests/serving runs them",
    r"whale-ray synth": "draws thousands of pictures; tests/data/test_synthetic.py draws fewer",
    rf"{MODULE} (?!sweeps/quickstart.yaml$)(?!.*--dry-run)": "trains for minutes or more",
    r"whale-ray discover(?!.*--no-page)": "opens a page; tests/discovery answers on it",
    r"whale-ray discover.*--answers": "needs a filled questions.csv; tests/discovery fills one",
    r".*--estimate": "times large encoders",
    r".* (hf|s3|gs)://": "needs a hub or a store; tests/test_bundle_transfer.py has stand-ins",
}
RUN = [line for line in commands() if line.startswith(("whale-ray ", MODULE))]
RUN = [line for line in RUN if not any(re.match(pattern, line) for pattern in LEFT_OUT)]


@pytest.fixture(scope="module")
def template(finished: SweepResult, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name: photographs, sweep files, run folders, reviews, enrolments."""
    folder = tmp_path_factory.mktemp("pages") / "whales"
    shutil.copytree(photographs, folder / "data")
    for name in ("synthetic", "DIR"):
        (folder / name).symlink_to("data")
    (folder / "photographs").symlink_to("data/train")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    shutil.copytree(finished.folder, folder / "runs" / "quickstart", symlinks=True)
    text = (finished.folder / "sweep.yaml").read_text()
    text = re.sub(r"(?m)^name: .*$", "name: quickstart", text).replace(str(photographs), "data")
    for path in (folder / "sweeps" / "quickstart.yaml", folder / "runs" / "quickstart" / "sweep.yaml"):
        path.write_text(text)
    for name in ("photos", "photos_best", "vit_proxy"):
        (folder / "runs" / name).symlink_to("quickstart")
    shutil.copy(next((photographs / "test").iterdir()), folder / "one.jpg")
    _confirm_a_row(folder)
    store = EnrolmentStore(f"sqlite:///{folder}/enrolled.db")
    picture = (folder / "one.jpg").read_bytes()
    store.enrol("ann", [EnrolledPicture("0" * 64, "met.jpg", picture, picture, np.ones(4, np.float32))], bundle="b")
    store.close()
    return folder


def _confirm_a_row(folder: Path) -> None:
    labels = pd.read_csv(folder / "data" / "train.csv", dtype=str)
    image, individual = labels.loc[labels["Id"] != "new_whale", ["Image", "Id"]].iloc[0]
    row = {"kind": "mislabelled", "image": image, "individual": individual, "suggested": "new_whale", "confirm": "yes"}
    for path in (folder / "review.csv", folder / "runs" / "quickstart" / "review.csv"):
        pd.DataFrame([row]).to_csv(path, index=False)


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the template as the current folder. The sweep command's signal handlers are removed afterwards."""
    copy = shutil.copytree(template, tmp_path / "whales", symlinks=True)
    monkeypatch.chdir(copy)
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield copy
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("line", RUN)
def test_a_command_of_the_pages_runs_as_printed_with_relative_paths(line: str, folder: Path) -> None:
    words = shlex.split(line.replace(MODULE, "whale-ray sweep"), comments=True)
    if words[:2] == ["whale-ray", "init"]:
        (folder / "sweeps" / f"{words[2]}.yaml").unlink()
    result = CliRunner().invoke(application, words[1:])
    assert (result.exit_code, result.exception) == (0, None), result.output


# Paths that cannot be used, where a bundle or a run folder is needed


@pytest.mark.parametrize("bad", ["nowhere/x", "data", "loop", "one.jpg/x", "x" * 300], ids=lambda bad: bad[:10])
def test_a_path_beside_a_bundle_that_cannot_be_used_is_one_message(bad: str, folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    commands = [["identify", "runs/quickstart/best", bad], ["submit", "runs/quickstart/best", bad, "out.csv"]]
    commands.append(["serve", "runs/quickstart/best", "--port", "0", "--set", f"access_log={bad}"])
    if bad not in ("nowhere/x", "loop"):  # the folder is made, the link replaced
        commands.append(["submit", "runs/quickstart/best", "data/test", bad])
    for words in commands:
        if words[-2] in ("runs/quickstart/best", "data") and bad == "data":
            continue  # a folder of photographs
        result = CliRunner().invoke(application, words)
        assert isinstance(result.exception, SystemExit), (words, result.exception)
        assert (result.exit_code, result.stderr[:11]) == (2, "whale_ray: "), words
        assert bad.removesuffix("/x")[:50] in result.stderr


@pytest.mark.parametrize(
    "name", ["audit.json", "review.json", "shortcut_audit.json", "split.csv", "review.csv", "sweep.yaml"]
)
@pytest.mark.parametrize("content", [b"\x00\xff{", b"[]", None])
def test_a_damaged_file_of_a_run_folder_is_named(name: str, content: bytes | None, folder: Path) -> None:
    path = folder / "runs" / "quickstart" / name
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    result = CliRunner().invoke(application, ["report", "runs/quickstart"])
    if (name, content) != ("review.csv", b"[]"):  # a table of one column without a finding
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2
        assert re.search(r"^whale_ray: ", result.stderr, re.MULTILINE)
        assert name in result.stderr


# Commands that the program prints itself


def printed_commands(text: str) -> list[list[str]]:
    """Return the words of each command in a text."""
    found = re.findall(r"^(?:serve it +)?((?:whale-ray|kaggle|python -m whale_ray\.sweep) .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found]


def invoke(*words: object) -> str:
    result = CliRunner().invoke(application, [str(word) for word in words])
    assert (result.exit_code, result.exception) == (0, None), result.output
    return result.output


@pytest.fixture
def awkward(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pages, with blanks, quotes and a dollar sign in its path and in that of its runs."""
    moved = folder.rename(tmp_path / 'anna\'s "best" $whales')
    monkeypatch.chdir(moved)
    (moved / "runs").rename(moved / "my runs")
    shutil.copy("one.jpg", "photo.jpg")
    return moved


def test_printed_commands_can_be_run_for_paths_with_blanks_and_quotes(awkward: Path) -> None:
    run, review = awkward / "my runs" / "quickstart", (awkward / "review.csv").read_bytes()
    texts = [
        invoke("apply-review", run / "review.csv", "--data", awkward / "data", "--set", "data.unknown_label=new_whale"),
        invoke("apply-review", awkward / "review.csv", "--data", awkward / "data"),
        invoke("submit", run / "best", awkward / "data" / "test", awkward / "my answers.csv"),
        invoke("init", "vit_proxy", "--to", awkward / "my sweeps" / "a.yaml"),
        invoke("sweep", "sweeps/quickstart.yaml", "--runs", run.parent),
    ]
    blocks = re.findall(r"<pre>(.*?)</pre>", (run / "report.html").read_text(), re.DOTALL)
    found = [words for text in [*texts, *map(html.unescape, blocks)] for words in printed_commands(text)]
    (run / "review.csv").write_bytes(review)
    for program, name, *rest in found:
        named = [Path(word) for word in rest if word.startswith(str(awkward))]
        assert [path for path in named if not path.exists()] == []
        if program == "whale-ray" and name in ("submit", "identify", "apply-review"):
            invoke(name, *rest)
        elif name == "sweep" and "SWEEP.yaml" not in rest:
            assert "quickstart_reviewed" in invoke(name, *rest, "--dry-run")
    programs = {words[1] if words[0] == "whale-ray" else words[0] for words in found}
    assert programs == {"sweep", "serve", "submit", "identify", "apply-review", "kaggle", "python"}
