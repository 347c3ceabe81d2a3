"""`whale-ray discover` as a person types it, on drawn flukes with a bundle of the small sweep."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import socket
import threading
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from whale_ray.cli import application
from whale_ray.data.catalog import read_catalog
from whale_ray.discovery.records.discovery_folder import DiscoveryFolder
from whale_ray.discovery.review_server import server
from whale_ray.discovery.session import DiscoverySession
from whale_ray.sweep.execution.driver import SweepResult

pytestmark = pytest.mark.integration

COUNT = 30


@pytest.fixture(scope="module")
def folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 drawn flukes, one damaged file and one text, and a table of the names beside it."""
    root = tmp_path_factory.mktemp("unnamed")
    table = pd.read_csv(photographs / "train.csv")
    table = table[table["Id"] != "new_whale"].sort_values(["Id", "Image"]).head(COUNT)
    (root / "flukes").mkdir()
    for image in table["Image"]:
        shutil.copy(photographs / "train" / image, root / "flukes" / image)
    (root / "flukes" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "flukes" / "notes.txt").write_text("rain")
    table[["Image", "Id"]].to_csv(root / "names.csv", index=False)
    return root


@pytest.fixture(scope="module")
def discovered(folder: Path, finished: SweepResult) -> tuple[Path, Result]:
    """The discovery folder after the first run without a page, and what the command printed."""
    out = folder / "out"
    return out, run(folder, finished, "--out", out, "--no-page", local="sift")


@pytest.fixture(scope="module")
def answered(discovered: tuple[Path, Result], folder: Path, finished: SweepResult) -> tuple[Path, pd.DataFrame, Result]:
    """A copy of the folder after all its questions were answered rightly, the questions, and the command's output."""
    out = shutil.copytree(discovered[0], folder / "answered")
    truth = read(folder / "names.csv").set_index("Image")["Id"]
    questions = read(out / "questions.csv")
    is_same = questions["first"].map(truth) == questions["second"].map(truth)
    questions["answer"] = np.where(is_same, "same", "different")
    questions.to_csv(out / "filled.csv", index=False)
    options = ("--out", out, "--no-page", "--answers", out / "filled.csv")
    return out, questions, run(folder, finished, *options, local="sift")


@pytest.fixture
def continued(discovered: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of the discovery folder that a test may change."""
    return shutil.copytree(discovered[0], tmp_path / "out")


def run(folder: Path, finished: SweepResult | None, *options: object, local: str = "none") -> Result:
    bundle = ["--bundle", finished.folder / "best"] if finished is not None else []
    arguments = ["discover", folder / "flukes", *bundle, "--local", local, *options]
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_every_file_of_the_folder_is_written(discovered: tuple[Path, Result]) -> None:
    out, result = discovered
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "clusters.csv", "contradictions.csv", "discovery.json", "embeddings.npz", "keypoints", "lock",
        "photographs.csv", "questions.csv", "table.csv",
    }  # fmt: skip
    assert list(read(out / "clusters.csv")) == ["Image", "cluster", "name", "confidence"]
    assert len(read(out / "clusters.csv")) == COUNT
    assert list(read(out / "table.csv")) == ["Image", "Id"]
    faults = read(out / "photographs.csv").set_index("Image")["fault"]
    assert (faults != "").sum() == 1
    assert "damaged" in faults["damaged.jpg"]


def test_the_command_says_what_it_did_and_what_to_type_next(discovered: tuple[Path, Result]) -> None:
    out, result = discovered
    assert f"{COUNT + 1} photographs, 0 of them named" in result.stdout
    assert f"{COUNT} embedded now, 0 already in" in result.stdout
    assert "comparing keypoints (sift)" in result.stdout
    assert re.search(rf"{COUNT} photographs are in \d+ clusters, \d+ of them with one photograph", result.stdout)
    assert "more answers are needed for an estimate" in result.stdout
    assert f"--answers {out / 'questions.csv'}" in result.stdout
    assert "notes.txt is left out" in result.stderr
    assert "damaged.jpg cannot be decoded" in result.stderr


def test_a_table_without_two_photographs_of_an_individual_is_said_to_be_one(discovered: tuple[Path, Result]) -> None:
    out, result = discovered
    has_pairs = read(out / "table.csv")["Id"].pipe(lambda ids: ids[ids != "new_whale"]).duplicated().any()
    assert ("has no individual with two photographs yet" in result.stdout) is not has_pairs


def test_one_photograph_is_one_cluster_without_a_question(folder: Path, finished: SweepResult, tmp_path: Path) -> None:
    (tmp_path / "flukes").mkdir()
    shutil.copy(next((folder / "flukes").glob("[!d]*.jpg")), tmp_path / "flukes")
    result = run(tmp_path, finished, "--out", tmp_path / "out", "--no-page")
    assert result.exit_code == 0, result.output
    assert "1 photograph is in 1 cluster, 1 of them with one photograph; 0 answers" in result.stdout
    assert "about 1 animal, 1 to 1 with 95 % confidence (0 pairs)" in result.stdout
    assert "Offline review" not in result.stdout


def test_the_training_table_is_read_by_the_catalog_and_by_the_printed_sweep(
    answered: tuple[Path, pd.DataFrame, Result], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, result = answered
    catalog = read_catalog(folder / "flukes", format_name="kaggle", table=str(out / "table.csv"), image_folder=".")
    assert len(catalog.table) == COUNT
    (line,) = [line for line in result.stdout.splitlines() if line.endswith("--dry-run")]
    monkeypatch.chdir(Path(__file__).parents[2])
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "whale_ray.sweep"]
    tried = CliRunner().invoke(application, ["sweep", *words[3:], "--runs", str(folder / "runs")])
    assert tried.exit_code == 0, tried.output
    assert "4 trials" in tried.output


def test_the_same_command_continues_and_embeds_only_new_photographs(
    folder: Path, finished: SweepResult, continued: Path, photographs: Path
) -> None:
    more = folder / "flukes" / "more.jpg"
    shutil.copy(next((photographs / "test").iterdir()), more)
    try:
        result = run(folder, finished, "--out", continued, "--no-page")
    finally:
        more.unlink()
    assert f"1 embedded now, {COUNT} already in" in result.stdout
    assert len(read(continued / "clusters.csv")) == COUNT + 1


def test_a_filled_table_of_questions_changes_the_clusters(
    folder: Path, finished: SweepResult, answered: tuple[Path, pd.DataFrame, Result]
) -> None:
    out, questions, result = answered
    assert f"{len(questions)} new answers" in result.stdout
    cluster = read(out / "clusters.csv").set_index("Image")["cluster"]
    is_joined = questions["first"].map(cluster) == questions["second"].map(cluster)
    assert (is_joined == (questions["answer"] == "same")).all()
    again = run(folder, finished, "--out", out, "--no-page", "--answers", out / "filled.csv", local="sift")
    assert f"0 new answers of {out / 'filled.csv'} are saved, {len(questions)} were there before" in again.stdout


def test_a_table_that_makes_no_sense_changes_nothing(folder: Path, finished: SweepResult, continued: Path) -> None:
    questions = read(continued / "questions.csv")
    questions["answer"] = "same"
    questions.loc[1, "first"] = "nothing.jpg"
    questions.to_csv(continued / "filled.csv", index=False)
    before = (continued / "clusters.csv").read_bytes()
    options = ("--out", continued, "--no-page", "--answers", continued / "filled.csv")
    result = run(folder, finished, *options, local="sift")
    assert result.exit_code == 2
    assert "line 3: " in result.stderr
    assert not (continued / "answers.jsonl").exists()
    assert (continued / "clusters.csv").read_bytes() == before


def test_named_photographs_keep_their_names_and_stay_apart(folder: Path, finished: SweepResult, tmp_path: Path) -> None:
    labels = read(folder / "names.csv")
    labels[::2].to_csv(tmp_path / "half.csv", index=False)
    options = ("--out", tmp_path / "out", "--no-page", "--labels", tmp_path / "half.csv")
    result = run(folder, finished, *options, local="sift")
    assert f"{len(labels[::2])} of them named" in result.stdout
    assert "keypoints are not used" not in result.stdout
    assert "learned on the named photographs" in result.stdout
    found = read(tmp_path / "out" / "table.csv").set_index("Image")["Id"]
    assert (labels[::2].set_index("Image")["Id"] == found[labels[::2]["Image"]]).all()
    clusters = read(tmp_path / "out" / "clusters.csv").set_index("Image").loc[labels[::2]["Image"], "cluster"]
    assert clusters.nunique() == labels[::2]["Id"].nunique()


@pytest.mark.parametrize(
    ("row", "message"),
    [("nothing.jpg,w1", "line 3: .*'nothing.jpg' is none"), ("FIRST,other", "line 3: .*'other' here")],
)
def test_a_wrong_row_of_the_labels_is_named(
    folder: Path, finished: SweepResult, tmp_path: Path, row: str, message: str
) -> None:
    first = sorted(path.name for path in (folder / "flukes").glob("*.jpg"))[0]
    (tmp_path / "wrong.csv").write_text(f"Image,Id\n{first},w1\n{row.replace('FIRST', first)}\n")
    result = run(folder, finished, "--out", tmp_path / "out", "--no-page", "--labels", tmp_path / "wrong.csv")
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_read_with_its_names(photographs: Path, finished: SweepResult, tmp_path: Path) -> None:
    options = ["--bundle", finished.folder / "best", "--out", tmp_path / "out", "--no-page"]
    arguments = [str(one) for one in ["discover", photographs, *options]]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"72 photographs, \d\d of them named \(8 individuals\)", result.stdout)
    assert "--set data.image_folder=train" in result.stdout


def test_weights_that_cannot_be_had_are_refused_with_a_remedy(folder: Path, tmp_path: Path) -> None:
    result = run(folder, None, "--out", tmp_path / "out", "--weights", tmp_path / "none.pth")
    assert result.exit_code == 2
    assert "--bundle" in result.stderr
    assert "--weights FILE" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--singles", "twice"], "one of unknown, named, omitted"),
        (["--local", "surf"], "--local is one of none, sift, orb, but got 'surf'"),
        (["--host", "whale.example"], "--host is an IP address"),
    ],
)
def test_a_wrong_option_is_refused(
    folder: Path, finished: SweepResult, continued: Path, options: list[str], message: str
) -> None:
    result = run(folder, finished, "--out", continued, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_port_that_is_taken_is_refused(folder: Path, finished: SweepResult, continued: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(folder, finished, "--out", continued, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "Choose another one with --port" in result.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_very_few_photographs_are_clustered(folder: Path, finished: SweepResult, tmp_path: Path, count: int) -> None:
    (tmp_path / "flukes").mkdir()
    for image in read(folder / "names.csv")["Image"][:count]:
        shutil.copy(folder / "flukes" / image, tmp_path / "flukes" / image)
    result = run(tmp_path, finished, "--out", tmp_path / "out", "--no-page")
    assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "out" / "clusters.csv")) == count


def test_equal_photographs_are_one_cluster_or_reasoned(folder: Path, finished: SweepResult, tmp_path: Path) -> None:
    (tmp_path / "flukes").mkdir()
    image = read(folder / "names.csv")["Image"][0]
    for number in range(5):
        shutil.copy(folder / "flukes" / image, tmp_path / "flukes" / f"{number}.jpg")
    result = run(tmp_path, finished, "--out", tmp_path / "out", "--no-page")
    assert result.exit_code == 0, result.output


def test_the_page_is_served_until_it_is_ended(
    folder: Path, finished: SweepResult, continued: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real server of the command, in a thread of this process that ends it as a signal would."""
    answered: dict[str, object] = {}
    servers: list[server.uvicorn.Server] = []

    class Served(server.uvicorn.Server):
        def __init__(self, config: server.uvicorn.Config) -> None:
            super().__init__(config)
            servers.append(self)

    def visit(session: DiscoverySession, *, say: object, **options: object) -> None:
        def use(line: str) -> None:
            if "?token=" in line:
                threading.Thread(target=answer, args=(line.split()[-1],), daemon=True).start()

        def answer(address: str) -> None:
            with httpx.Client(follow_redirects=True, base_url=address.partition("?")[0]) as client:
                answered["page"] = client.get(address).text
                asked = client.get("/state").json()["questions"][0]
                body = {"first": asked["first"]["row"], "second": asked["second"]["row"]}
                client.post("/answers", json={**body, "verdict": "same", "person": "Ana"})
                servers[0].should_exit = True

        serve(session, say=use, **options)  # type: ignore[arg-type]

    serve = server.serve_review_page
    monkeypatch.setattr(server.uvicorn, "Server", Served)
    monkeypatch.setattr(server, "serve_review_page", visit)
    closed: list[bool] = []
    of_others = logging.NullHandler()
    monkeypatch.setattr(of_others, "close", lambda: closed.append(True))
    result = run(folder, finished, "--out", continued, "--port", 0)
    assert result.exit_code == 0, result.output
    assert not closed, "the handler of another library was closed: absl's takes the stream of the tests with it"
    assert "One animal or two?" in str(answered["page"])
    assert json.loads(DiscoveryFolder(continued).answers.read_text())["person"] == "Ana"
    assert "; 1 answer\n" in result.stdout
