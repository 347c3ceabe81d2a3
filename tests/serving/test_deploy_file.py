"""`serve deploy deploy/serve.yaml` on a Ray cluster in token mode, and again with another bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from drawn_photographs import draw, encode
from load_generator import PAUSE, load
from server_processes import free_port
from services import TOP, check_ended, contents, descendants, process, write_named
from waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """A Ray cluster in token mode: its dashboard, its environment, and the port of the service."""

    dashboard: str
    variables: dict[str, str]
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, bundle: Path) -> None:
        """Run `serve deploy` with the file, adapted to this machine's paths and port."""
        asked = yaml.safe_load((TOP / "deploy" / "serve.yaml").read_text())
        asked["http_options"]["port"] = self.port
        service = asked["applications"][0]["args"]
        service["models"] = {"whales": str(bundle)}
        service["store"] = f"sqlite:///{self.folder}/enrolled.db"
        (self.folder / "serve.yaml").write_text(yaml.safe_dump(asked))
        self._serve("deploy", str(self.folder / "serve.yaml"))

    def _serve(self, *words: str) -> str:
        command = [sys.executable, "-m", "ray.serve.scripts", *words, "--address", self.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=os.environ | self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> str:
        """Return the output of `serve status`, which takes seconds."""
        return self._serve("status")

    def applications(self) -> str:
        """Return the answer from which `serve status` makes its output."""
        token = (self.folder / ".ray" / "auth_token").read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(f"{self.dashboard}/api/serve/applications/", headers=headers)
        return answer.raise_for_status().text

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds."""
        wait_until(condition, rest=0.2, said=self.status, despite=(httpx.TransportError,))

    def bundle(self) -> object:
        """Return the bundle id of the model card."""
        answer = httpx.get(f"{self.url}/v1/model")
        return answer.json().get("id") if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def cluster_in_token_mode() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="r-") as folder:  # short: Ray's sockets are in it
        variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": folder,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "PYTHONPATH": str(TOP),
            "HOME": folder,
            "WHALE_RAY_API_KEY": "",
        }
        port, dashboard = free_port(), free_port()
        options = ["--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4"]
        options += [f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0"]
        ray = (sys.executable, "-m", "ray.scripts.scripts")
        token = (*ray, "get-auth-token", "--generate")
        subprocess.run(token, check=True, capture_output=True, timeout=SECONDS, env=os.environ | variables)
        with process(*ray, "start", *options, ready="--block", **variables) as running:
            yield Cluster(f"http://127.0.0.1:{dashboard}", variables, free_port(), Path(folder))
            started = descendants(running.pid)
        check_ended(started)


def test_the_file_is_deployed_and_a_changed_copy_replaces_it_under_load(
    cluster_in_token_mode: Cluster, tmp_path: Path
) -> None:
    running = cluster_in_token_mode
    running.deploy(write_named(tmp_path, "tiny-live"))
    running.wait_for(lambda: httpx.get(f"{running.url}/page/en/").status_code == 200)
    running.wait_for(lambda: running.bundle() == "tiny-live")
    answer = httpx.post(f"{running.url}/v1/identify", files={"image": encode(draw(1, 0), "PNG")})
    assert answer.json()["results"][0]["candidates"][0]["individual"] == "w_01"
    with load(running.url, clients=4, pause=PAUSE) as seen:
        seen.wait_for(20)
        running.deploy(write_named(tmp_path, "tiny-next"))
        running.wait_for(lambda: running.bundle() == "tiny-next")
        seen.wait_for(20)
        # a bundle that fails its check never serves, and the one before goes on
        running.deploy(write_named(tmp_path, "tiny-wrong", golden_vectors=-contents().golden_vectors))
        refusal = "the golden images must give their embeddings"
        running.wait_for(lambda: refusal in running.applications())
        assert refusal in running.status()
        seen.wait_for(20)
    assert seen.failed == []
    assert {one.bundle for one in seen.seen} == {"tiny-live", "tiny-next"}
    assert seen.seen[-1].bundle == "tiny-next"
