"""Machines of a cluster that run something else than the driver, or do not see its results, are named before a run."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

import dgym
from dgym.bench import Job, bench
from dgym.cluster import RayBackend
from dgym.cluster.nodes import check_nodes, differences, versions
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.specs import EpisodeSpec
from tests.rows import assert_same_rows
from tests.s3 import serving

SPEC = EpisodeSpec(teacher="uniform", domain="fake", student="fake", rules=Rules(iterations=1, budget=Budget(10)))


def test_a_version_says_which_code_but_not_for_which_hardware_torch_was_built():
    found = versions()
    assert found["dgym"].startswith(f"{dgym.__version__} (code ")
    assert "+" not in found["torch"]
    assert found["python"].count(".") == 1
    assert {"ray", "transformers", "peft", "numpy"} <= set(found)


def test_what_differs_is_said_and_only_that():
    here = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0"}
    assert differences(here, dict(here)) == ""
    there = {"python": "3.11", "ray": "2.59.0", "peft": "0.21.0"}
    assert differences(here, there) == (
        "ray 2.59.0 (here 2.60.0), torch not installed (here 2.13.0), peft 0.21.0 (here not installed)"
    )


def test_memory_of_one_process_is_no_place_for_results():
    with pytest.raises(UsageError, match="seen by one process alone"):
        RayBackend().run(Job([], "memory://run"), print)


@pytest.fixture(scope="module")
def s3():
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def far(s3, tmp_path_factory):  # machines have the keys of the store in their own environment
    """A cluster of a head that computes nothing, and a machine that does and sees none of the driver's `own` folder."""
    own = tmp_path_factory.mktemp("own")
    alone = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(own), "--"]
    if shutil.which("bwrap") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("bubblewrap, which gives a process another view of the disk, cannot be used here")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    words = ["start", "--address", made.address, "--num-cpus", "2", "--block", "--disable-usage-stats"]
    worker = subprocess.Popen([*alone, sys.executable, "-m", "ray.scripts.scripts", *words], stdout=subprocess.DEVNULL)
    try:
        ray.init(address=made.address)
        patience = time.monotonic() + 60
        while ray.cluster_resources().get("CPU", 0) < 2:
            assert worker.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.1)
        ray.shutdown()
        yield made.address, own
    finally:
        ray.shutdown()
        worker.terminate()
        worker.wait()
        made.shutdown()


def test_machines_that_share_nothing_but_an_object_store_give_the_same_rows(far, s3, tmp_path, monkeypatch):
    address, own = far
    monkeypatch.setattr(tempfile, "tempdir", str(own))  # whatever the driver keeps for itself
    assert len(bench([SPEC], tmp_path / "run").ok) == 1
    summary = bench([SPEC], f"{s3}/run", backend=RayBackend(address=address, hosts=1, workers=1))
    assert len(summary.ok) == 1, summary.failed
    assert_same_rows(f"{s3}/run", tmp_path / "run")


def test_a_folder_that_another_machine_does_not_see_is_said_before_anything_is_run(far):
    address, own = far
    with pytest.raises(UsageError, match=r"is not seen on every machine of the cluster: .*Name one on shared storage"):
        bench([SPEC], own / "run", backend=RayBackend(address=address))
    assert [path.name for path in (own / "run").rglob("*.parquet")] == []
    assert not list((own / "run").glob(".driver-*"))


def test_versions_that_differ_are_said_with_the_machine(far, tmp_path):
    ray.init(address=far[0])
    try:
        check_nodes(tmp_path)
        with pytest.raises(UsageError) as raised:
            check_nodes(tmp_path, {**versions(), "torch": "1.0"})
    finally:
        ray.shutdown()
    assert f"torch {versions()['torch']} (here 1.0)" in str(raised.value)
    assert "dgym " not in str(raised.value)


@pytest.fixture
def mixed(tmp_path):
    """Two machines, the second of which has another dgym: nothing is installed there, its code comes first instead."""
    other = tmp_path / "other"
    ignored = shutil.ignore_patterns("__pycache__", "weights", "fixtures")
    shutil.copytree(Path(dgym.__file__).parent, other / "dgym", ignore=ignored)
    with (other / "dgym" / "errors.py").open("a") as file:
        file.write("\n# another commit\n")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other)}, node_ip_address="127.0.0.2")
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_machine_with_another_dgym_is_named_before_anything_is_run(mixed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Ray puts the driver's working directory first everywhere
    with pytest.raises(UsageError) as raised:
        bench([SPEC], tmp_path / "run", backend=RayBackend(address=mixed.address))
    message = str(raised.value)
    assert message.startswith("Not every machine of the cluster runs what this one runs: 127.0.0.2 has dgym")
    assert message.count(versions()["dgym"]) == 1
    assert "torch" not in message
    assert not (tmp_path / "run" / "episodes").exists()
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == []
