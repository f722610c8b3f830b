"""Hosts follow the queue and the machines of a cluster of real raylets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import dgym
from dgym.bench import Progress, bench
from dgym.cluster import RayBackend, hosts
from dgym.cluster.hosts import end_hosts, host_stats, open_student, start_manager
from dgym.cluster.nodes import versions
from dgym.cluster.queue import Queue
from dgym.core import Budget, Rules
from dgym.errors import InfrastructureError, UsageError
from dgym.models.recipe import Recipe
from dgym.specs import EpisodeSpec, Seeds
from dgym.students.host import StudentConfig
from tests.waiting import until

FAKE = StudentConfig("fake", "a", Recipe())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head with two processors and one GPU, as far as Ray counts; tests add machines and take them away."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def joined(cluster: Cluster) -> Iterator[Cluster]:
    ray.init(address=cluster.address)
    yield cluster
    ray.shutdown()


def free() -> float:
    return float(ray.available_resources().get("GPU", 0.0))


def test_hosts_take_the_gpus_that_come_and_give_back_those_they_do_not_need(
    joined: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = start_manager(1, 1, gpus_per_host=1.0)

    def fit(left: int) -> int:
        return ray.get(manager.fit.remote(left, 10))

    def count() -> int:
        return len(ray.get(manager.hosts.remote()))

    try:
        student = open_student(manager, "first", FAKE)
        fit(4)
        fit(4)
        assert count() == 2, "one waits, which asks the cluster for a machine; no more"
        machine = joined.add_node(num_cpus=1, num_gpus=2)
        until(lambda: fit(4) and count() == 4)
        others = [open_student(manager, lease, FAKE) for lease in ("second", "third")]
        assert free() == 0.0
        for other in others:
            other.close()
        fit(1)
        assert count() == 1
        until(lambda: free() == 2.0)
        stats, replaced = host_stats(manager)
        assert (len(stats), replaced) == (3, 0), "what the ended ones did still counts; one of four never started"
        assert sum(s.ended is not None for s in stats) == 2
        student.close()
    finally:
        end_hosts(manager)
        joined.remove_node(machine)


def test_a_lease_does_not_wait_for_a_machine_that_another_host_has_room_on(
    joined: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "SOON", 0.5)
    manager = start_manager(2, 1, gpus_per_host=1.0)  # there is one GPU
    try:
        first = open_student(manager, "first", FAKE)
        first.close()
        assert len(open_student(manager, "second", FAKE).answer([])) == 0
    finally:
        end_hosts(manager)


def test_a_host_on_a_machine_that_runs_something_else_says_so(joined: Cluster) -> None:
    manager = start_manager(1, 1, driver={**versions(), "torch": "1.0"})
    try:
        with pytest.raises(InfrastructureError) as raised:
            open_student(manager, "lease", FAKE)
    finally:
        end_hosts(manager)
    assert "does not run what the driver did when the run began: it has torch 2.13.0 (here 1.0)" in str(raised.value)


class Manager:
    """Answers as an actor's handle does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.fit = self

    def remote(self, left: int, most: int) -> Any:
        self.asked.append((left, most))
        return ray.put(len(self.asked))


def test_as_many_episodes_run_as_hosts_have_room_for(joined: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgym.cluster.queue.EVERY", 0.0)
    monkeypatch.setattr("dgym.cluster.queue.MACHINES_EVERY", 0.0)
    manager, set_to, seen = Manager(), [], []
    queue = Queue(manager, 3, set_to.append, lambda: 10 + len(seen), seen.append)
    queue(50)
    queue(49)
    assert manager.asked == [(50, 10), (49, 10)]
    assert set_to == [3]
    machine = joined.add_node(num_cpus=1)
    try:
        queue(48)
        assert manager.asked[-1] == (48, 11)
        assert [len(new) for new in seen] == [1]
    finally:
        joined.remove_node(machine)


SPECS = [
    EpisodeSpec(
        teacher="uniform",
        domain="fake",
        student="fake",
        rules=Rules(iterations=2, budget=Budget(10)),
        seeds=Seeds.all(seed),
    )
    for seed in range(1, 41)
]


def test_at_most_so_many_hosts(cluster: Cluster, tmp_path: Path) -> None:
    backend = RayBackend(address=cluster.address, max_hosts=1, workers=1)
    summary = bench(SPECS[:4], tmp_path / "run", backend=backend)
    assert (len(summary.ok), summary.usage.hosts) == (4, 1)


@pytest.mark.slow
def test_a_machine_that_joins_with_another_dgym_stops_the_run_and_nothing_is_lost(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    ignored = shutil.ignore_patterns("__pycache__", "weights", "fixtures")
    shutil.copytree(Path(dgym.__file__).parent, other / "dgym", ignore=ignored)
    with (other / "dgym" / "errors.py").open("a") as file:
        file.write("\n# another commit\n")
    monkeypatch.chdir(tmp_path)  # Ray puts the driver's working directory first everywhere
    monkeypatch.setattr("dgym.cluster.queue.MACHINES_EVERY", 0.5)
    machines = []

    def report(progress: Progress) -> None:
        if progress.status == "ok" and not machines:
            machines.append(
                cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other)}, node_ip_address="127.0.0.2")
            )

    backend = RayBackend(address=cluster.address, hosts=1, workers=1)
    try:
        with pytest.raises(UsageError, match=r"Not every machine .* 127\.0\.0\.2 has dgym"):
            bench(SPECS, tmp_path / "run", backend=backend, report=report)
    finally:
        cluster.remove_node(machines[0])
    done = len(list((tmp_path / "run" / "finished").iterdir()))
    assert done < len(SPECS)
    summary = bench(SPECS, tmp_path / "run", backend=backend)
    assert (summary.skipped, len(summary.ok)) == (done, len(SPECS) - done)
