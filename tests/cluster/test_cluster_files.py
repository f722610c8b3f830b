"""The cluster's files: Ray's own schema and checks accept them, and they say what they promise."""

import copy
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from dgym.cluster.hosts import HOST_RESOURCE

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
LISTS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_the_cluster_file_passes_the_schema_and_the_checks_of_ray(cluster):
    jsonschema.validate(cluster, SCHEMA)
    whole = prepare_config(copy.deepcopy(cluster))  # with the defaults of its provider, as `ray up` does
    validate_config(whole)
    assert whole["head_node_type"] in whole["available_node_types"]
    for broken in ({"max_wokers": 8}, {"max_workers": -1}, {"cluster_name": 3}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(cluster | broken, SCHEMA)


def test_the_head_has_no_gpu_and_workers_with_gpus_come_and_go(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert "GPU" not in head["resources"]
    assert HOST_RESOURCE not in head["resources"]
    assert cluster["idle_timeout_minutes"] > 0
    for worker in types.values():
        assert worker["resources"]["GPU"] >= 1
        assert worker["resources"][HOST_RESOURCE] >= 1
        assert 0 == worker["min_workers"] < worker["max_workers"] <= cluster["max_workers"]


def test_every_node_has_the_code_the_token_and_the_shared_folder(cluster):
    mounts = cluster["file_mounts"]
    assert mounts["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "." in mounts.values()
    assert any("mount -t nfs4" in line and "/shared" in line for line in cluster["setup_commands"])
    for name in ("head", "worker"):
        (start,) = [line for line in cluster[f"{name}_start_ray_commands"] if "ray start" in line]
        assert start.startswith("RAY_AUTH_MODE=token ")
    (start,) = [line for line in cluster["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start


def test_every_command_of_the_cluster_file_is_one_that_a_shell_reads(cluster):
    for name in LISTS:
        for line in cluster.get(f"{name}_commands", []):
            done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)


@pytest.fixture
def job():
    claim, job = yaml.safe_load_all((ROOT / "kuberay_rayjob.yaml").read_text())
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    return job


POD = {"containers", "volumes", "tolerations", "nodeSelector", "serviceAccountName"}
GROUP = {"rayStartParams", "template"}
FIELDS = {
    "spec": {
        "entrypoint",
        "submissionMode",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "rayClusterSpec": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "headGroupSpec": GROUP | {"serviceType"},
    "workerGroupSpecs": GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"},
}
"""Fields of `ray.io/v1` (https://ray-project.github.io/kuberay/reference/api/) that the manifest may have."""


def test_the_job_has_fields_of_the_custom_resource_only(job):
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= FIELDS["spec"]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    assert set(cluster) <= FIELDS["rayClusterSpec"]
    for group, allowed in [
        (cluster["headGroupSpec"], FIELDS["headGroupSpec"]),
        *((group, FIELDS["workerGroupSpecs"]) for group in cluster["workerGroupSpecs"]),
    ]:
        assert set(group) <= allowed
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert set(group["template"]["spec"]) <= POD


def test_the_job_scales_gpu_workers_and_keeps_its_dashboard_private(job):
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert 0 == workers["minReplicas"] < workers["maxReplicas"]
    # KubeRay puts it into a shell's command: what Ray gets is the JSON inside.
    assert json.loads(json.loads(workers["rayStartParams"]["resources"])) == {HOST_RESOURCE: 1}
    gpu = "nvidia.com/gpu"
    (first,), (second,) = (group["template"]["spec"]["containers"] for group in (head, workers))
    assert gpu not in first["resources"]["limits"]
    assert second["resources"]["limits"][gpu] == "1"
    assert first["image"] == second["image"]
    for group in (head, workers):
        spec = group["template"]["spec"]
        assert spec["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/shared"}]
        assert spec["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": "dgym-runs"}}]
    assert "--address auto --out /shared/" in job["spec"]["entrypoint"]
