"""What a run needs of a cluster: parts of a kind, the machines that there are, and the hosts that follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from dgym.bench import Job, bench
from dgym.cluster import RayBackend, hosts
from dgym.cluster.hosts import HOST_RESOURCE
from dgym.cluster.planning import machines, parts
from dgym.core import Budget, Rules
from dgym.errors import UsageError
from dgym.fakes import FakeFamily
from dgym.specs import EpisodeSpec, Seeds, identify
from dgym.students.machine import cores
from dgym.students.sizing import Machine, Need, need

PATIENCE = 60  # seconds after which a test has failed
RULES = Rules(iterations=1, budget=Budget(10))
SMALL, LARGE = need(5_000_000, 4, 16), need(500_000_000, 4, 16)


def spec(**fields: Any) -> EpisodeSpec:
    known = {"teacher": "uniform", "domain": "fake", "student": "fake", "rules": RULES}
    return EpisodeSpec(**known | fields)


def test_students_of_a_kind_are_one_part_with_the_largest_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"a": 1_000_000, "b": 2_000_000, "c": 600_000_000, "d": 100_000_000}
    monkeypatch.setattr(FakeFamily, "bytes", lambda self, variant, precision: sizes[variant])
    monkeypatch.setattr("dgym.students.host.cores", lambda: 6)
    names = ["fake:d", "fake:a", "fake:c", "fake:b"]
    todo = [identify(spec(student=name)) for name in names]
    gpu = [identify(spec(student=name, device=device)) for name in names for device in ("cuda", "cuda:1")]
    waits = identify(spec(teacher="agent@stand-in", student="fake:b"))
    vllm = identify(spec(student="fake:a", engine="vllm"))
    job = Job([*todo, *gpu, waits, vllm], tmp_path, "suite")
    found = [
        ([i.spec.student for i in part.episodes], n.base, n.accelerator, n.served, n.waits, threads)
        for part, n, threads in parts(job)
    ]
    assert found == [
        (["fake:d", "fake:c"], 600_000_000, False, False, False, 6),
        (["fake:a", "fake:b", "fake:b"], 2_000_000, False, False, True, 1),
        (["fake:d"] * 2 + ["fake:c"] * 2, 600_000_000, True, False, False, 1),
        (["fake:a"] * 2 + ["fake:b"] * 2, 2_000_000, True, False, False, 1),
        (["fake:a"], 1_000_000, False, True, False, 1),
    ]
    assert all(part.folder == tmp_path and part.suite == "suite" for part, *_ in parts(job))


def test_episodes_of_one_large_base_come_before_those_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"a": 1_000_000, "b": 2_000_000, "c": 600_000_000, "d": 700_000_000}
    monkeypatch.setattr(FakeFamily, "bytes", lambda self, variant, precision: sizes[variant])
    names = ["d", "a", "c", "b", "d", "a", "c", "b"]
    todo = [identify(spec(student=f"fake:{name}", seeds=Seeds.all(seed))) for seed, name in enumerate(names)]
    found = [[(i.variant, i.spec.seeds.variant) for i in part.episodes] for part, *_ in parts(Job(todo, tmp_path))]
    assert found == [[("d", 0), ("d", 4), ("c", 2), ("c", 6)], [("a", 1), ("b", 3), ("a", 5), ("b", 7)]]


def test_what_is_wrong_with_a_student_is_left_to_its_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, variant: str, precision: str) -> int:
        raise UsageError("it is not here")

    monkeypatch.setattr(FakeFamily, "bytes", fails)
    ((_, found, threads),) = parts(Job([identify(spec(threads=2))], tmp_path))
    assert (found, threads) == (Need(), 2)


@pytest.mark.slow
def test_parts_run_one_after_the_other_with_hosts_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = [spec(threads=threads, seeds=Seeds.all(seed)) for threads in (1, cores()) for seed in (1, 2)]
    started: list[tuple[int, int]] = []
    start = hosts.start_manager

    def noted(count: int, tenants: int, *others: Any) -> Any:
        for end in range(PATIENCE):
            if not any(alive(m) for m in managers):
                break
            assert end < PATIENCE - 1, "those before have not ended"
            time.sleep(1)
        started.append((count, tenants))
        managers.append(start(count, tenants, *others))
        return managers[-1]

    def alive(manager: Any) -> bool:
        try:
            return bool(ray.get(manager.hosts.remote()))
        except ray.exceptions.RayActorError:
            return False

    managers: list[Any] = []
    monkeypatch.setattr(hosts, "start_manager", noted)
    summary = bench(todo, tmp_path, backend=RayBackend(workers=1, per_host=3))
    assert len(summary.ok) == len(todo), summary.failed
    assert started == [(min(2, cores()), 3), (1, 3)]
    assert summary.usage.hosts == min(2, cores())


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (RayBackend(), "none was found"),
        (RayBackend(gpus_per_host=1.5), "not 1.5"),
    ],
)
def test_what_this_machine_lacks_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: RayBackend, message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match=message):
        bench([spec(device="cuda")], tmp_path, backend=backend)
    assert not list(tmp_path.rglob("*.parquet"))
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that gives no cores, a machine with two, and one with a GPU that is only said to be there."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=2)
    made.add_node(num_cpus=4, num_gpus=1, resources={"only-here": 1})
    yield made
    ray.shutdown()
    made.shutdown()


def test_the_machines_of_a_cluster(cluster: Cluster) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        told = machines(here=False, need=SMALL)
        assert sorted((m.cores, m.gpus) for m in told) == [(2, 0), (4, 1)]
        assert {m.memory for m in told} == {None}, "nobody was asked"
        for close in (LARGE, Need(accelerator=True)):
            asked = machines(here=False, need=close)
            assert sorted((m.cores, m.gpus) for m in asked) == [(2, 0), (4, 1)]
            assert all(m.memory for m in asked)
        here = machines(here=True, need=SMALL)
        assert [(m.cores, m.gpus) for m in here] == [(cores(), 1)]
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_run_on_a_cluster_fills_it(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[int, int, float]] = []
    start = hosts.start_manager
    monkeypatch.setattr(hosts, "start_manager", lambda *args: started.append(args[:3]) or start(*args))
    backend = RayBackend(address=cluster.address, workers=1)
    todo = [spec(seeds=Seeds.all(seed)) for seed in range(1, 9)]
    ran = bench(todo, tmp_path / "cpu", backend=backend)
    assert len(ran.ok) == 8, ran.failed
    gpu = [spec(device="cuda:1", seeds=Seeds.all(seed)) for seed in (1, 2)]
    ran = bench(gpu, tmp_path / "gpu", backend=backend)
    assert len(ran.ok) == 2, ran.failed
    part = RayBackend(address=cluster.address, workers=1, gpus_per_host=0.5)
    ran = bench(gpu, tmp_path / "half", backend=part)
    assert len(ran.ok) == 2, ran.failed
    assert started == [(6, 2, 0.0), (1, 2, 1.0), (2, 2, 0.5)]


def test_a_cluster_may_say_itself_how_many_hosts_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {HOST_RESOURCE: 3.0})
    monkeypatch.setattr("dgym.cluster.planning.machines", lambda here, need: [Machine(8, None, 4)])
    backend = RayBackend(address="somewhere:1")
    assert backend._plan(SMALL, 1, False).hosts == 3
    assert RayBackend(address="somewhere:1", hosts=2)._plan(SMALL, 1, False).hosts == 2


def test_a_teachers_model_server_is_left_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr("dgym.cluster.planning.machines", lambda here, need: [Machine(8, None, 4)])
    assert [RayBackend()._plan(Need(accelerator=True), 1, serving).hosts for serving in (False, True)] == [4, 3]
    assert RayBackend()._plan(SMALL, 1, True).hosts == 8
