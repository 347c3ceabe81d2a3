"""Files of deploy/ for clusters: `ray up`, KubeRay and SLURM."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

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


def test_the_file_of_ray_up_follows_rays_own_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]


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
