"""Command line: output and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from small_sweep import SWEEP
from typer.testing import CliRunner, Result
from waiting import SECONDS

from whale_ray.cli import application
from whale_ray.data.exports.registry import EXPORTS

if TYPE_CHECKING:
    from whale_ray.sweep.execution.driver import SweepResult

# The command of a sweep that gets a signal when it has printed the second epoch of a trial. Another process that reads
# its output might send it when the sweep has ended.
SIGNALLED = """
import os, runpy, sys
from whale_ray.sweep.execution.console import Progress
number, say = int(sys.argv.pop(1)), Progress.say
def say_and_signal(progress, text):
    say(progress, text)
    if " epoch 2," in text:
        os.kill(os.getpid(), number)
Progress.say = say_and_signal
runpy.run_module("whale_ray.sweep", run_name="__main__")
"""
COMMANDS = (
    "sweep",
    "synth",
    "audit",
    "apply-review",
    "spec",
    "report",
    "submit",
    "identify",
    "discover",
    "push",
    "export-matcher",
    "serve",
)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The sweep command listens to signals; afterwards they are pytest's again."""
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.fixture
def file(tmp_path: Path, photographs: Path) -> Path:
    path = tmp_path / "little.yaml"
    path.write_text(SWEEP.replace("ROOT", str(photographs)))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


# Help and the reference


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert [name for name in COMMANDS if not re.search(rf"^  {name}\b", result.output, re.MULTILINE)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert command == "spec" or "Example" in result.output


@pytest.mark.integration
def test_help_of_the_module_is_that_of_the_command() -> None:
    both = (["-m", "whale_ray.sweep"], ["-c", "from whale_ray.cli import main; main()", "sweep"])
    shown = [
        subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, check=True).stdout
        for command in both
    ]
    without_name = [text.partition("[OPTIONS]")[2] for text in shown]
    assert without_name[0] == without_name[1]
    for option in ("--set", "--data", "--runs", "--address", "--dry-run", "--estimate", "--retry-failed", "--fresh"):
        assert option in shown[0]


def test_an_unknown_command_exits_with_code_2() -> None:
    assert run("swep").exit_code == 2


def test_a_command_ends_with_its_exit_code_after_its_threads_and_exit_functions() -> None:
    code = """
import atexit, sys, threading, time
from whale_ray.sweep.command import run_and_exit

def work():
    time.sleep(0.1)
    sys.stdout.write("thread, ")

def command():
    atexit.register(lambda: sys.stdout.write("exit function"))
    threading.Thread(target=work).start()
    raise SystemExit({code})

run_and_exit(command)
"""
    for given, expected, message in (("3", 3, ""), ("None", 0, ""), ("'a reason'", 1, "a reason\n")):
        ended = subprocess.run([sys.executable, "-c", code.format(code=given)], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (expected, "thread, exit function", message)


def test_spec_prints_the_whole_reference() -> None:
    from whale_ray.sweep.config.sweep_spec import SETTINGS

    result = run("spec")
    assert result.exit_code == 0
    assert [setting.key for setting in SETTINGS if setting.key not in result.output] == []


def test_importing_the_command_imports_no_heavy_library() -> None:
    heavy = ("torch", "ray", "numpy", "pandas", "scipy", "PIL", "pyarrow", "optuna", "rich", "fastapi", "pydantic")
    code = f"import sys, whale_ray.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Data


@pytest.mark.slow
def test_synth_draws_a_data_set_and_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    command = [sys.executable, "-c", "from whale_ray.cli import main; main()", "synth", str(folder)]
    ended = subprocess.run(
        [*command, "--individuals", "2", "--images", "6"], capture_output=True, text=True, check=True
    )
    assert f"6 photographs of 2 individuals in {folder}/train, 1 more in {folder}/test" in ended.stdout
    assert len(pd.read_csv(folder / "train.csv")) == 6
    again = run("synth", folder, "--individuals", 2, "--images", 6)
    assert again.exit_code == 2
    assert "empty" in again.stderr
    assert run("synth", tmp_path / "other", "--difficulty", 2).exit_code == 2


@pytest.mark.integration
def test_audit_lists_problems_and_changes_nothing(photographs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photographs, tmp_path / "photographs")
    name = pd.read_csv(root / "train.csv")["Image"][0]
    (root / "train" / name).write_text("a text")
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*"))
    result = run("audit", root)
    assert result.exit_code == 0
    assert name in result.output
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*")) == before
    assert "audit.json" not in result.output
    missing = run("audit", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert missing.stderr.startswith("whale_ray: ")


def test_audit_takes_the_data_settings_that_its_messages_name(photographs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photographs, tmp_path / "photographs")
    table = pd.read_csv(root / "train.csv").rename(columns={"Image": "file"})
    table.to_csv(root / "train.csv", index=False)
    assert "data.image_column" in run("audit", root).stderr
    result = run("audit", root, "--set", "data.image_column=file", "--set", "data.group_column=Encounter")
    assert result.exit_code == 0
    assert "72 photographs" in result.output
    assert f"; {table['Encounter'].nunique()} encounters" in result.output
    assert "only settings of `data`" in run("audit", root, "--set", "train.epochs=2").stderr


def test_audit_prints_how_a_data_set_was_understood(photographs: Path) -> None:
    for path in (photographs, photographs / "train.csv"):
        result = run("audit", path)
        assert "format          kaggle\n" in result.output
        assert "rows            72\n" in result.output
    understood = json.loads(run("audit", photographs, "--json").output)["understood"]
    assert (understood["format"], understood["rows"], understood["individuals"]) == ("kaggle", 72, 8)


@pytest.mark.parametrize("target", ["run", "bundle", "data"])
def test_export_writes_what_can_be_read_again(
    target: str, finished: SweepResult, photographs: Path, tmp_path: Path
) -> None:
    source = {"run": finished.folder, "bundle": finished.folder / "best", "data": photographs}[target]
    out = tmp_path / "an export"
    result = run("export", source, out, "--format", "wildlife")
    assert result.exit_code == 0, result.output
    command = shlex.split(result.output.splitlines()[-1])
    assert command[:3] == ["whale-ray", "audit", str(out)]
    table = pd.read_csv(photographs / "train.csv")
    expected = len(table) if target != "bundle" else (table["Id"] != "new_whale").sum()
    assert f"{expected} rows of {expected} photographs" in result.output
    if target != "bundle":
        again = json.loads(run(*command[1:], "--json").output)["understood"]
        assert (again["format"], again["rows"], again["individuals"]) == ("wildlife", expected, 8)
    assert run("export", source, out, "--format", "wildlife").exit_code == 2


def test_the_help_of_export_names_every_format() -> None:
    text = run("export", "--help").output
    assert all(name in text for name in EXPORTS)


# The sweep


def test_a_dry_run_lists_trials_and_starts_nothing(file: Path, tmp_path: Path) -> None:
    result = run("sweep", file, "--dry-run", "--runs", tmp_path / "runs", "--set", "train.epochs=[1, 2]")
    assert result.exit_code == 0
    for part in ("little: grid search, 4 trials and 1 baseline", "train.epochs: [1, 2]", "never retrained", "1 CPU"):
        assert part in result.output
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_finished_trials(file: Path, finished: SweepResult) -> None:
    result = run("sweep", file, "--dry-run", "--runs", finished.folder.parent)
    assert "3 trials are done" in result.output
    assert finished.table["trial"][0] in result.output


def test_all_faults_of_a_sweep_file_are_reported_at_once_with_their_lines(file: Path, tmp_path: Path) -> None:
    text = file.read_text().replace("embedding_size", "embeding_size").replace("epochs: 2", "epochs: two")
    file.write_text(text)
    result = run("sweep", file, "--runs", tmp_path / "runs", "--set", "loss.margn=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("whale_ray: ")
    assert "faults, nothing was started" in result.stderr
    assert re.search(r"line 4: .*embeding_size.*embedding_size", result.stderr)
    assert re.search(r"line 6: .*train.epochs", result.stderr)
    assert "margn" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_sweep_file_exits_with_code_2(tmp_path: Path) -> None:
    result = run("sweep", tmp_path / "nowhere.yaml")
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert "Did you mean" not in result.stderr
    (tmp_path / "flukes.yaml").touch()
    assert "Did you mean `flukes.yaml`" in run("sweep", tmp_path / "fluke.yaml").stderr


@pytest.mark.integration
def test_all_faults_outside_the_file_are_reported_at_once_before_ray_starts(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(tmp_path / "runs")]
    command += ["--data", str(tmp_path / "nowhere"), "--set", f"model.weights={tmp_path}/none.pth"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "humpback-whale-identification" in ended.stderr
    assert "none.pth" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.integration
def test_a_cluster_that_does_not_exist_exits_with_code_2(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "whale_ray.sweep", str(file), "--runs", str(tmp_path)]
    ended = subprocess.run([*command, "--address", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "a Ray cluster must answer at 127.0.0.1:1" in ended.stderr


@pytest.mark.slow
def test_a_second_driver_is_refused(file: Path, finished: SweepResult, tmp_path: Path) -> None:
    from whale_ray.sweep.run_folder.lock import claimed

    with claimed(tmp_path / "runs" / "little"):
        result = run("sweep", file, "--runs", tmp_path / "runs")
    assert result.exit_code == 2
    assert "one driver at a time" in result.stderr


def run_sweep_command(command: list[str], *, folder: Path) -> tuple[int, str]:
    """Exit code and output of a command that runs in a session of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": folder}
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "own_ray"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_an_interrupted_sweep_prints_the_resume_command_which_works(
    number: int, own_ray: bool, cluster: str, photographs: Path, tmp_path: Path
) -> None:
    """Also: paths that are relative to where the command was typed hold in Ray's workers, which work elsewhere.

    A sweep that began on a Ray of its own goes on on a cluster.
    """
    epochs = 4
    shutil.copytree(photographs, tmp_path / "drawn")
    (tmp_path / "little.yaml").write_text(SWEEP.replace("ROOT", "drawn"))
    options = ["little.yaml", "--set", f"train.epochs={epochs}", "--set", "loss.name=arcface"]
    on_cluster = [*options, "--address", cluster]
    signalled = [sys.executable, "-c", SIGNALLED, str(int(number)), *(options if own_ray else on_cluster)]
    code, output = run_sweep_command(signalled, folder=tmp_path)
    assert code == 130, output
    assert "stopping: trials keep their last checkpoint" in output
    assert "Run the same command again to resume" in output
    assert "Traceback" not in output
    folder = tmp_path / "runs" / "little"
    before = pd.read_csv(folder / "leaderboard.csv").set_index("trial")["status"]
    assert "running" in set(before)
    code, output = run_sweep_command([sys.executable, "-m", "whale_ray.sweep", *on_cluster], folder=tmp_path)
    assert code == 0, output
    assert "epoch 1," not in output
    for part in ("Leaderboard", "report       ", "best bundle  ", "serve it     whale-ray serve runs/little/best"):
        assert part in output
    table = pd.read_csv(folder / "leaderboard.csv").set_index("trial")
    assert set(table["status"]) == {"finished"}
    (trial,) = (name for name in table.index if not name.startswith("baseline"))
    assert pd.read_csv(folder / "trials" / trial / "epochs.csv")["epoch"].tolist() == list(range(1, epochs + 1))


@pytest.mark.slow
def test_failed_trials_are_listed_with_their_reasons_and_exit_code_3(
    file: Path, cluster: str, finished: SweepResult, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "runs" / "little", symlinks=True)
    options = ("--set", "loss.name=arcface", "--set", "train.learning_rate=1.0e+30")
    result = run("sweep", file, "--runs", tmp_path / "runs", *options)
    assert result.exit_code == 3
    assert re.search(r"failed: trial [0-9a-f]{8}: the loss .* must be finite.*traceback\.txt", result.output)
    assert "best bundle" in result.output


# What comes after


def test_report_rewrites_the_report(finished: SweepResult, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.folder, tmp_path / "little", symlinks=True)
    (folder / "report.html").unlink()
    result = run("report", folder)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(folder / "report.html")
    assert re.findall(r"report: .*", result.stderr)
    assert (folder / "report.html").exists()
    assert run("report", tmp_path / "nowhere").exit_code == 2


def test_submit_writes_the_file_and_prints_the_command(
    finished: SweepResult, photographs: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(photographs / "test", tmp_path / "test")
    (images / "zz.jpg").write_text("a text")
    result = run("submit", finished.folder / "best", images, tmp_path / "out.csv")
    assert result.exit_code == 0
    assert "kaggle competitions submit -c humpback-whale-identification -f" in result.output
    assert "zz.jpg cannot be decoded" in result.stderr
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) == len(list(images.iterdir()))
    new = table["Id"].str.startswith("new_whale").sum()
    counts = f"{len(table)} photographs, {new} of them first of all new_whale, 1 of them not decodable"
    assert f"out.csv is written: {counts}. Send it" in result.output
    again = run("submit", finished.folder / "best", images, tmp_path / "out.csv")
    assert "is written again, over the older file: " in again.output
    assert run("submit", tmp_path, images, tmp_path / "out.csv").exit_code == 2
    assert run("submit", finished.folder / "best", tmp_path / "nowhere", tmp_path / "out.csv").exit_code == 2


def test_submit_names_every_file_without_a_row(finished: SweepResult, photographs: Path, tmp_path: Path) -> None:
    images = shutil.copytree(photographs / "test", tmp_path / "test")
    (images / "sub").mkdir()
    for name in ("notes.txt", "sub/more.md"):
        (images / name).write_text("a text")
    result = run("submit", finished.folder / "best", images, tmp_path / "out.csv")
    assert "notes.txt has no row: the content is none of" in result.stderr
    assert "sub/more.md has no row: " in result.stderr
    assert "; 2 other files without a row. Send it" in result.output


def test_identify_answers_for_the_photographs_of_a_folder(
    finished: SweepResult, photographs: Path, tmp_path: Path
) -> None:
    first, second = sorted((photographs / "test").iterdir())[:2]
    (tmp_path / "sub").mkdir()
    shutil.copy(first, tmp_path / "sub" / "photograph")
    shutil.copy(second, tmp_path / "b.jfif")
    (tmp_path / "damaged.jpg").write_bytes(second.read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("a text")
    result = run("identify", finished.folder / "best", tmp_path)
    assert result.exit_code == 0
    named = [json.loads(line)["filename"] for line in result.stdout.splitlines()]
    assert named == [str(tmp_path / "b.jfif"), str(tmp_path / "sub" / "photograph")]
    assert "damaged.jpg gets no answer: the picture is damaged" in result.stderr
    assert "notes.txt gets no answer: the content is none of" in result.stderr


def test_identify_prints_one_line_per_photograph(finished: SweepResult, photographs: Path) -> None:
    images = sorted((photographs / "test").iterdir())[:2]
    result = run("identify", finished.folder / "best", *images, "--top", 3)
    assert result.exit_code == 0
    answers = [json.loads(line) for line in result.output.splitlines()]
    assert [answer["filename"] for answer in answers] == [str(image) for image in images]
    assert [len(answer["candidates"]) for answer in answers] == [3, 3]
    assert {"decision", "probability"} == answers[0]["new_individual"].keys()
    assert {"rank", "individual", "distance", "probability", "image", "matched_points"} == answers[0]["candidates"][
        0
    ].keys()


def test_identify_refuses_missing_files_and_files_that_are_no_photographs(
    finished: SweepResult, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("a text")
    for image in (tmp_path / "text.jpg", tmp_path / "nowhere.jpg"):
        result = run("identify", finished.folder / "best", image)
        assert result.exit_code == 2
        assert result.stderr.startswith("whale_ray: ")
        assert image.name in result.stderr
        assert "Errno" not in result.stderr


def test_serve_refuses_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    result = run("serve", tmp_path)
    assert result.exit_code == 2
    assert "a bundle is a folder with a bundle.json" in result.stderr


# The review of labels


def test_a_finished_sweep_has_a_review_whose_confirmed_rows_become_a_new_table(
    finished: SweepResult, photographs: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(photographs / "train.csv", dtype=str)
    row = table[table["Id"] != "new_whale"].iloc[0]
    other = table.loc[~table["Id"].isin([row["Id"], "new_whale"]), "Id"].iloc[0]
    shutil.copytree(photographs, tmp_path / "data")
    listed = pd.read_csv(finished.folder / "review.csv", dtype=str, keep_default_na=False)
    mine = dict.fromkeys(listed.columns, "")
    mine |= {
        "kind": "mislabelled",
        "image": row["Image"],
        "individual": row["Id"],
        "suggested": other,
        "confirm": "yes",
    }
    pd.concat([listed, pd.DataFrame([mine])]).to_csv(tmp_path / "review.csv", index=False)
    shutil.copy(finished.folder / "sweep.yaml", tmp_path / "sweep.yaml")
    result = run("apply-review", tmp_path / "review.csv", "--data", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert f"{row['Image']}: {row['Id']} -> {other}" in result.output
    assert result.output.rstrip().endswith("--set data.table=train.reviewed.csv")
    after = pd.read_csv(tmp_path / "data" / "train.reviewed.csv", dtype=str)
    assert after[after["Image"] == row["Image"]]["Id"].item() == other
    assert after.drop(columns="Id").equals(table.drop(columns="Id"))
    assert (tmp_path / "data" / "train.csv").read_bytes() == (photographs / "train.csv").read_bytes()


def test_a_review_of_an_unknown_table_asks_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "review.csv").write_text("kind,image,individual,confirm\n")
    result = run("apply-review", tmp_path / "review.csv")
    assert result.exit_code == 2
    assert "beside" in result.output
    assert "Name its folder with --data" in result.output


def test_report_prints_the_leaderboard_as_json(finished: SweepResult) -> None:
    answer = json.loads(run("report", finished.folder, "--json").output)
    assert [row["trial"] for row in answer["trials"]] == finished.table["trial"].tolist()
    assert Path(answer["best_bundle"]) == (finished.folder / "best").resolve()
    for row, result in zip(answer["trials"], finished.table.to_dict("records"), strict=True):
        for name in ("map@5_individuals", "recall@1_individuals"):
            ends = [f"{name}{end}" for end in ("", "_low", "_high")]
            assert [row[end] for end in ends] == pytest.approx([result[end] for end in ends])
