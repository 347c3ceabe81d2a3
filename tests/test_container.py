"""Dockerfile and compose file: parsed and compared with the project; no container runs in the tests."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KNOWN = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_every_instruction_is_known_and_the_first_stage_has_a_base() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN
    assert next(word for word in words if word != "ARG") == "FROM"


def test_every_copied_file_exists() -> None:
    copies = [shlex.split(rest) for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    sources = [source for words in copies for source in words[:-1]]
    assert {"whale_ray", "sweeps", "pyproject.toml"} <= {source.rstrip("/") for source in sources}
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_extras_that_it_installs_exist() -> None:
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', (ROOT / "Dockerfile").read_text())
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_the_container_runs_whale_ray_without_root() -> None:
    last: dict[str, str] = dict(instructions())
    assert last["USER"] not in ("", "root", "0")
    assert last["ENTRYPOINT"] == '["whale-ray"]'


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_runs_a_command_of_whale_ray(service: str) -> None:
    from whale_ray.cli import application

    names = {(one.name or one.callback.__name__).replace("_", "-") for one in application.registered_commands}
    assert SERVICES[service]["command"][0] in names


def test_the_service_is_published_on_loopback_alone_and_wants_a_key() -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES["serve"]["ports"])
    assert "WHALE_RAY_API_KEY" in SERVICES["serve"]["environment"]
