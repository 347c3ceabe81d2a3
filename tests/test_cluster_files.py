"""Files of deploy/ for clusters: `ray up`, KubeRay and SLURM."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.authentication.authentication_token_setup import _get_default_token_path
from ray.autoscaler._private.util import fillout_defaults

from whale_ray.serving.deployment.settings import ServeSettings

pytestmark = pytest.mark.integration

DEPLOY = Path(__file__).parents[1] / "deploy"
TEMPLATE = {"type": "object", "required": ["spec"]}
GROUP = {"rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}}, "template": TEMPLATE}
NUMBER = {"type": "integer", "minimum": 0}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


CLUSTER = closed(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string", "pattern": rf"^{ray.__version__.rpartition('.')[0]}\."},
    authOptions=closed(["mode"], mode={"const": "token"}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed([], idleTimeoutSeconds=NUMBER),
    headGroupSpec=closed(["template"], **GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ["groupName", "template"],
            groupName={"type": "string"},
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            **GROUP,
        ),
    },
)
SPECS = {
    "raycluster.yaml": ("RayCluster", CLUSTER),
    "rayjob.yaml": (
        "RayJob",
        closed(
            ["entrypoint", "rayClusterSpec"],
            entrypoint={"type": "string"},
            backoffLimit=NUMBER,
            shutdownAfterJobFinishes={"type": "boolean"},
            ttlSecondsAfterFinished=NUMBER,
            rayClusterSpec=CLUSTER,
        ),
    ),
    "rayservice.yaml": (
        "RayService",
        closed(["serveConfigV2", "rayClusterConfig"], serveConfigV2={"type": "string"}, rayClusterConfig=CLUSTER),
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_kuberay_manifest_has_the_fields_of_the_operators_api(name: str) -> None:
    kind, spec = SPECS[name]
    manifest = yaml.safe_load((DEPLOY / "kuberay" / name).read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(manifest["spec"], spec)
    cluster = manifest["spec"].get("rayClusterSpec") or manifest["spec"].get("rayClusterConfig") or manifest["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]} == volumes


def test_the_service_on_kubernetes_has_settings_that_exist_and_needs_a_key() -> None:
    manifest = yaml.safe_load((DEPLOY / "kuberay" / "rayservice.yaml").read_text())
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "whale_ray.serve_app:build"
    assert set(application["args"]) <= set(ServeSettings.model_fields)
    assert application["args"]["keys"]
    assert "insecure" not in application["args"]


def images(value: Any) -> Iterator[str]:
    """Yield the value of every key `image` in a parsed file."""
    for key, one in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from [one] if key == "image" else images(one)


@pytest.mark.parametrize("name", ["ray-cluster.yaml", *(f"kuberay/{name}" for name in SPECS)])
def test_an_image_has_a_registry_to_replace_since_no_node_has_built_it(name: str) -> None:
    found = list(images(yaml.safe_load((DEPLOY / name).read_text())))
    assert found
    assert [one for one in found if not one.startswith("REGISTRY/whale_ray")] == []


def test_the_file_of_ray_up_follows_rays_own_schema(ray_up: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(ray_up, schema)
    assert ray_up["head_node_type"] in ray_up["available_node_types"]


@pytest.fixture
def ray_up() -> dict[str, Any]:
    cluster: dict[str, Any] = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    return cluster


def test_ray_up_installs_nothing_over_the_image_by_rays_defaults(ray_up: dict[str, Any]) -> None:
    filled = fillout_defaults(ray_up)
    assert [filled[f"{part}setup_commands"] for part in ("", "head_", "worker_")] == [[], [], []]


def test_ray_up_copies_the_token_to_where_the_user_of_the_image_has_it(ray_up: dict[str, Any]) -> None:
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    assert "RAY_AUTH_MODE=token" in dockerfile
    assert "USER whale" in dockerfile
    ((there, here),) = ray_up["file_mounts"].items()
    assert there == "/home/whale/.ray/auth_token"
    assert Path(here).expanduser() == _get_default_token_path()


def test_a_node_of_ray_up_gives_its_container_a_shared_folder_and_its_gpus(
    ray_up: dict[str, Any], tmp_path: Path
) -> None:
    (volume,) = (one.split()[1] for one in ray_up["docker"]["run_options"] if one.startswith("--volume"))
    assert volume == "/shared:/shared"
    assert ray_up["docker"]["worker_run_options"] == ["--gpus all"]
    shared = tmp_path / "shared"
    fakes = {"sudo": '"$@"', "mount": f'[ -d "{shared}" ] && echo "$@" >> "{tmp_path}/mounts"'}
    fakes["mountpoint"] = f'[ -e "{tmp_path}/mounts" ]'
    script = "\n".join(f"{name}() {{ {body}; }}" for name, body in fakes.items())
    for command in ray_up["initialization_commands"] * 2:  # `ray up` runs them again after a change of the file
        line = f"{script}\n{command.replace('/shared', str(shared))}"
        subprocess.run(["bash", "-c", line], check=True)
    assert (tmp_path / "mounts").read_text() == f"-t nfs4 FILESYSTEM:/ {shared}\n"


FAKES = {
    "scontrol": 'printf "%s\\n" n1 n2 n3',
    # a job step: runs its command, and ends with it
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": """
case "$1" in
start) [ -z "${FAIL:-}" ] || [ "${*#*$FAIL}" = "$*" ] || exit 1
       touch "$STATE/node.$$"; trap 'rm "$STATE/node.$$"; exit 0' TERM; while :; do sleep 0.05; done ;;
status) echo Active:; for one in "$STATE"/node.*; do [ ! -e "$one" ] || echo " 1 node_$one"; done; echo Pending: ;;
esac""",
    # the sweep: an epoch at a time, resumed by the next job
    "python": """
echo "$@" >> "$STATE/commands"
trap 'exit 130' TERM
while [ "$(cat "$STATE/epochs" 2> /dev/null | wc -l)" -lt 4 ]; do echo epoch >> "$STATE/epochs"; sleep 0.5; done
exit ${CODE:-0}""",
}


class Slurm:
    """Commands of SLURM and Ray that only pretend, and jobs that run deploy/slurm.sh with them."""

    def __init__(self, folder: Path) -> None:
        self.state, tools = folder / "state", folder / "bin"
        self.state.mkdir()
        tools.mkdir()
        for name, body in FAKES.items():
            (tools / name).write_text(f"#!/bin/bash\n{body}\n")
            (tools / name).chmod(stat.S_IRWXU)
        self.environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "SLURM_JOB_NODELIST": "n[1-3]",
        }

    def submit(self, **environment: str) -> subprocess.Popen[str]:
        command = [str(DEPLOY / "slurm.sh"), "a.yaml", "--runs", "/shared/my runs"]
        return subprocess.Popen(command, env=self.environment | environment, stderr=subprocess.PIPE, text=True)

    def epochs(self) -> int:
        file = self.state / "epochs"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def has_nodes(self) -> bool:
        return any(self.state.glob("node.*"))


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("code", [0, 3])
def test_a_slurm_job_has_the_exit_code_of_its_sweep_and_leaves_no_node(slurm: Slurm, code: int) -> None:
    job = slurm.submit(CODE=str(code))
    job.communicate(timeout=300)
    assert job.returncode == code
    assert (slurm.state / "commands").read_text() == (
        "-m whale_ray.sweep a.yaml --runs /shared/my runs --address n1:6379\n"
    )
    assert not slurm.has_nodes()


def test_a_slurm_job_that_is_ended_twice_goes_on_each_time(slurm: Slurm) -> None:
    for epoch in (1, 2):
        job = slurm.submit()
        while slurm.epochs() < epoch:
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
        job.communicate(timeout=300)
        assert job.returncode == 130
        assert not slurm.has_nodes()
    job = slurm.submit()
    job.communicate(timeout=300)
    assert job.returncode == 0
    assert slurm.epochs() == 4


@pytest.mark.parametrize("what", ["--head", "--address"])
def test_a_slurm_job_whose_ray_does_not_start_fails_before_the_sweep(slurm: Slurm, what: str) -> None:
    job = slurm.submit(FAIL=what)
    _, said = job.communicate(timeout=300)
    assert job.returncode == 1
    assert "a `ray start` has failed" in said
    assert not (slurm.state / "commands").exists()
    assert not slurm.has_nodes()
