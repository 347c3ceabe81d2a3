"""Files of deploy/ for clusters: `ray up` and KubeRay."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from documentation_pages import commands
from ray._private.authentication.authentication_token_setup import _get_default_token_path
from ray.autoscaler._private.util import fillout_defaults

from whale_ray.serving.deployment.settings import ServeSettings

pytestmark = pytest.mark.integration

KUBERNETES = "1.30"
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


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods that the operator makes from the groups of a manifest, without what it adds itself."""
    cluster = manifest["spec"].get("rayClusterSpec") or manifest["spec"].get("rayClusterConfig") or manifest["spec"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {}, **group["template"]} for group in groups]


@pytest.mark.parametrize("name", SPECS)
def test_kubernetes_takes_the_pods_of_a_kuberay_manifest(name: str) -> None:
    found = pods(yaml.safe_load((DEPLOY / "kuberay" / name).read_text()))
    for pod in found:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for one in pod["spec"]["containers"] for mount in one["volumeMounts"]} == volumes
    found[0]["spec"]["containers"][0]["imagepullPolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagepullPolicy"):
        kubernetes_validate.validate(found[0], KUBERNETES, strict=True)


def test_the_service_on_kubernetes_has_settings_that_exist_and_needs_a_key() -> None:
    manifest = yaml.safe_load((DEPLOY / "kuberay" / "rayservice.yaml").read_text())
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "whale_ray.serve_app:build"
    assert set(application["args"]) <= set(ServeSettings.model_fields)
    assert application["args"]["keys"]
    assert "insecure" not in application["args"]


def submitted_sweeps() -> list[str]:
    """Return the commands of the deploy files and the pages that submit a sweep to a cluster."""
    comments = [
        line.removeprefix("#").lstrip() for file in DEPLOY.rglob("*.yaml") for line in file.read_text().splitlines()
    ]
    lines = ["\n".join(comments).replace("\\\n", " "), *commands()]
    entrypoint = yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    return [
        entrypoint,
        *(found for line in lines for found in re.findall(r"ray job submit .*whale_ray\.sweep.*", line)),
    ]


@pytest.mark.parametrize("sweep", submitted_sweeps())
def test_a_submitted_sweep_names_photographs_and_runs_that_are_not_sent_with_it(sweep: str) -> None:
    words = shlex.split(sweep)
    for option in ("--data", "--runs"):
        assert words[words.index(option) + 1].startswith(("/shared/", "s3://"))


def test_sweeps_are_submitted_by_two_files_and_a_page() -> None:
    assert len(submitted_sweeps()) >= 4


def test_a_sweep_on_kubernetes_whose_trials_failed_is_not_repeated_on_another_cluster() -> None:
    """Exit code 3 says that there is a bundle; the operator takes it for a failure, as every other code but 0."""
    assert yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())["spec"]["backoffLimit"] == 0


def test_the_secret_of_the_service_is_not_the_one_in_which_the_operator_keeps_the_token_of_a_cluster() -> None:
    text = (DEPLOY / "kuberay" / "raycluster.yaml").read_text()
    cluster = yaml.safe_load(text)["metadata"]["name"]
    assert f"kubectl get secret {cluster} --output jsonpath='{{.data.auth_token}}'" in text
    names = re.findall(
        r"secret generic (\S+)|secretName: ([\w-]+)", (DEPLOY / "kuberay" / "rayservice.yaml").read_text()
    )
    assert {"".join(found) for found in names} == {"whale-ray-keys"} != {cluster}


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
