"""Commands and options that need no sweep: `init`, `--version`, `--json`, the JSON Schema, `-q`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from small_sweep import SWEEP
from typer.testing import CliRunner, Result

from whale_ray import __version__
from whale_ray.cli import application

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "sweeps" / "sweep.schema.json").read_text())
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def test_version_is_printed() -> None:
    assert run("--version").output == f"whale-ray {__version__}\n"


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in run("--help").output


# init


def test_init_lists_every_shipped_sweep_file() -> None:
    output = run("init").output
    assert [path.stem for path in SWEEPS if path.stem not in output] == []


def test_init_copies_a_sweep_file_and_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("init", "vit_proxy")
    assert result.exit_code == 0
    assert "python -m whale_ray.sweep sweeps/vit_proxy.yaml" in result.output
    assert (tmp_path / "sweeps" / "vit_proxy.yaml").read_text() == (ROOT / "sweeps" / "vit_proxy.yaml").read_text()
    again = run("init", "vit_proxy")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_init_names_the_sweep_files_when_it_does_not_know_one() -> None:
    result = run("init", "vit_prxy")
    assert result.exit_code == 2
    assert "vit_proxy" in result.stderr


# The JSON Schema


def test_the_committed_schema_is_the_generated_one() -> None:
    result = run("spec", "--json-schema")
    assert json.loads(result.output) == SCHEMA, "run: whale-ray spec --json-schema > sweeps/sweep.schema.json"
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_file_names_the_schema_and_fits_it(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=sweep.schema.json\n")
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "embeding_size", 64),
        ("train", "epochs", "two"),
        ("train", "learning_rate", {"low": 0.1}),
        ("retrieval", "vote", ["nearest", "nearst"]),
        ("loss", "margn", 1),
        ("data", "root", ["a", "b"]),
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(section: str, key: str, value: object) -> None:
    sweep = yaml.safe_load(SWEEP)
    assert list(Draft202012Validator(SCHEMA).iter_errors(sweep)) == []
    sweep[section][key] = value
    assert list(Draft202012Validator(SCHEMA).iter_errors(sweep)) != []


# JSON output and verbosity


def test_audit_prints_its_findings_as_json(photographs: Path) -> None:
    found = json.loads(run("audit", photographs, "--json").output)
    assert found["photographs"] == 72
    assert found["set_aside"] == []


def test_a_dry_run_prints_its_plan_as_json(photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "little.yaml"
    file.write_text(SWEEP.replace("ROOT", str(photographs)))
    plan = json.loads(run("sweep", file, "--dry-run", "--json", "--runs", tmp_path / "runs").output)
    assert plan["name"] == "little"
    assert plan["axes"]["loss.name"] == ["arcface", "proxy_anchor"]
    assert (plan["trials"], plan["trials_left"]) == (3, 2)
    refused = run("sweep", file, "--json")
    assert refused.exit_code == 2
    assert "--json needs --dry-run" in refused.stderr


@pytest.mark.integration
def test_quiet_and_verbose_are_options_of_every_command(photographs: Path) -> None:
    command = [sys.executable, "-c", "from whale_ray.cli import main; main()"]
    for option in ("-q", "-v"):
        ended = subprocess.run([*command, option, "audit", str(photographs)], capture_output=True, text=True)
        assert ended.returncode == 0
        assert "nothing wrong was found" in ended.stdout
