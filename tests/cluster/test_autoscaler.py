"""Ray's own autoscaler adds machines for hosts that wait, and takes them away; its machines are raylets of this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tests.waiting import until

HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
TYPE = "ray.head.default"
"""What Ray's provider of emulated machines calls the head, and its type."""

COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
MOST = 3


def config(address: str) -> dict[str, object]:
    """Returns a cluster as in `ray_cluster.yaml`: a head that computes nothing, workers with a GPU that come and go."""
    return {
        "cluster_name": "emulated",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": {
            TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu_worker": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "max_workers": MOST},
        },
        "head_node_type": TYPE,
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in COMMANDS},
    }


RUN = """
import json, sys, time
import ray
from dgym.bench import bench
from dgym.cluster import RayBackend
from dgym.core import Budget, Rules
from dgym.specs import EpisodeSpec, Seeds

specs = [
    EpisodeSpec(
        teacher="uniform",
        domain="fake",
        student="fake",
        device="cuda",  # so that its host asks for a GPU; as far as Ray counts, each worker has one
        rules=Rules(iterations=3, budget=Budget(10)),
        seeds=Seeds.all(seed),
    )
    for seed in range(1, 61)
]
address, gpus = sys.argv[1], []

def report(_):
    gpus.append(ray.cluster_resources().get("GPU", 0.0))

summary = bench(specs, sys.argv[2], backend=RayBackend(address=address), report=report)
ray.init(address=address, log_to_driver=False)
deadline = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
    time.sleep(0.1)
left = sum(node["Alive"] for node in ray.nodes())
found = {"ok": len(summary.ok), "failed": len(summary.failed), "replaced": summary.usage.replaced}
print(json.dumps(found | {"fewest": min(gpus), "most": max(gpus), "left": left}))
"""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in (("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", "autoscaler" * 6)):
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = f"{ray.util.get_node_ip_address()}:{port}"
    file, log = tmp_path / "cluster.json", tmp_path / "log"
    file.write_text(json.dumps(config(made)))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    command += ["--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", f"--autoscaling-config={file}"]
    emulated = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    with log.open("w") as out:
        head = subprocess.Popen(command, env=os.environ | emulated, stdout=out, stderr=out)
        try:
            until(lambda: "runtime started" in log.read_text())
            yield made
        finally:
            family = psutil.Process(head.pid).children(recursive=True)
            head.send_signal(signal.SIGTERM)
            for process in psutil.wait_procs(family, timeout=10)[1]:
                process.kill()
            head.wait()


@pytest.mark.slow
def test_machines_come_for_hosts_that_wait_and_go_when_nothing_is_left(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, address, str(tmp_path / "run")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert 0 < found.pop("fewest") < found.pop("most") <= MOST
    assert found == {"ok": 60, "failed": 0, "replaced": 0, "left": 1}
