"""Dockerfile and compose file: parsed and compared with the project; no container runs in the tests."""

from __future__ import annotations

import re
import shlex
import subprocess
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


def test_the_image_has_what_ray_up_and_kuberay_call_in_it() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    (packages,) = (one.split(" && ")[0] for run in runs for one in re.findall(r"apt-get install (.*)", run))
    assert {"openssh-client", "rsync", "wget"} <= set(packages.split())
    (modules,) = (one for run in runs for one in re.findall(r"pip install (.*)", run))
    assert "boto3" in modules.split()


def test_a_login_shell_which_resets_path_finds_the_commands_of_the_image(tmp_path: Path) -> None:
    """`ray up` and older versions of KubeRay run `ray` in a login shell; Debian's /etc/profile sets PATH anew."""
    (line,) = (one for word, run in instructions() if word == "RUN" for one in run.split("&&") if "profile.d" in one)
    subprocess.run(["bash", "-c", line.replace("/etc/profile.d", str(tmp_path))], check=True)
    (script,) = tmp_path.glob("*.sh")
    command = ["env", "-i", "PATH=/usr/bin:/bin", "bash", "-c", f". {script}; echo $PATH"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    first = re.search(r"PATH=(\S+):\$PATH", dict(instructions())["ENV"])
    assert first
    assert found == f"{first[1]}:/usr/bin:/bin"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_runs_a_command_of_whale_ray(service: str) -> None:
    from whale_ray.cli import application

    names = {(one.name or one.callback.__name__).replace("_", "-") for one in application.registered_commands}
    assert SERVICES[service]["command"][0] in names


def test_the_service_is_published_on_loopback_alone_and_wants_a_key() -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES["serve"]["ports"])
    assert "WHALE_RAY_API_KEY" in SERVICES["serve"]["environment"]
