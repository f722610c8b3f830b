"""Student hosts as actors, and the manager that leases them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from dgym.errors import InfrastructureError
from dgym.students.host import HostedStudent, HostStats, StudentConfig, StudentHost

HOST_RESOURCE = "dgym_host"
"""The custom resource that a host takes. Hosts take no CPUs: two one-CPU hosts on a two-CPU Ray would leave every
trial pending for ever."""


class HostManager:
    """Leases hosts to episodes: the one with the fewest leases, the first of several.

    Args:
        hosts: Handles of host actors.
    """

    def __init__(self, hosts: Sequence[Any]) -> None:
        self._hosts = list(hosts)
        self._leases: dict[str, int] = {}

    def acquire(self, lease: str) -> Any:
        """Returns the host for a lease; asking again returns the same one."""
        if lease not in self._leases:
            load = [list(self._leases.values()).count(i) for i in range(len(self._hosts))]
            self._leases[lease] = load.index(min(load))
        return self._hosts[self._leases[lease]]

    def release(self, lease: str) -> None:
        """Ends a lease and closes its student; an unknown lease is ignored, so that it can be ended twice."""
        index = self._leases.pop(lease, None)
        if index is not None:
            self._hosts[index].close.remote(lease)

    def leases(self) -> list[str]:
        """Returns the open leases."""
        return list(self._leases)


def fitting(threads: int, on_gpu: bool) -> int:
    """Returns how many hosts fit the cluster: as it says itself, else one per GPU, else one per `threads` CPUs."""
    found = ray.cluster_resources()
    if found.get(HOST_RESOURCE):
        return int(found[HOST_RESOURCE])
    return max(1, int(found.get("GPU", 0)) if on_gpu else int(found.get("CPU", 1)) // threads)


def start_hosts(count: int, gpus_per_host: float = 0.0) -> list[Any]:
    """Starts host actors: on a GPU share each, else on the custom resource where the cluster has it."""
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 3}
    if gpus_per_host:
        options["num_gpus"] = gpus_per_host
    elif ray.cluster_resources().get(HOST_RESOURCE, 0) >= count:
        options["resources"] = {HOST_RESOURCE: 1}
    else:
        options["scheduling_strategy"] = "SPREAD"
    actor = ray.remote(StudentHost).options(**options)
    return [actor.remote() for _ in range(count)]


def open_student(manager: Any, lease: str, config: StudentConfig) -> HostedStudent:
    """Leases a host and opens a student there; closing the student ends the lease."""
    host = ray.get(manager.acquire.remote(lease))

    def call(method: str, *args: Any) -> Any:
        if method == "close":
            return ray.get(manager.release.remote(lease))
        try:
            return ray.get(getattr(host, method).remote(*args))
        except ray.exceptions.RayTaskError as error:
            # What the host raised, without Ray's own text around it.
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise InfrastructureError(f"The student host died while it was asked to {method}.") from error

    try:
        call("open", lease, config)
    except BaseException:
        call("close", lease)
        raise
    return HostedStudent(call, lease)


def host_stats(hosts: Sequence[Any]) -> list[HostStats]:
    """Asks the hosts what they did; one that died did nothing that can be told."""
    out = []
    for host in hosts:
        try:
            out.append(ray.get(host.stats.remote(), timeout=30))
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            out.append(HostStats())
    return out
