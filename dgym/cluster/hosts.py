"""Student hosts as actors, the manager that leases and replaces them, and what an episode does when its host dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ray

from dgym.chat import session
from dgym.chat.servers import GRACE
from dgym.cluster.chat import remote_session
from dgym.errors import InfrastructureError, StudentError
from dgym.students.host import HostedStudent, HostStats, StudentConfig, StudentHost

HOST_RESOURCE: Final = "dgym_host"
"""The custom resource that a host takes. Hosts take no CPUs: two one-CPU hosts on a two-CPU Ray would leave every
trial pending for ever."""

REPLACEMENTS: Final = 3
"""How often the host of one episode may die before the episode fails."""

PLACING: Final = 300.0
"""Seconds in which a replacement must have started; where a machine is gone for good, there is no room for one."""

FREEING: Final = 2.0
"""Seconds that the driver of a GPU may take to give back the memory of a process that was killed."""

SPARE: Final = 4
"""Calls beside those of its students that a host takes at a time: to end leases, and to tell statistics."""

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""For the processes of hosts. Students compute one at a time but in different threads, for each of which glibc would
keep freed memory: without this, eight tenants of SmolLM2 take nearly twice what one takes (`benchmarks/tenants.py`)."""

# Ray tells of a dead host in several ways, depending on where it notices. A result that was lost with it counts too:
# asking again is harmless, as training and answers are deterministic.
DIED: Final = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.ActorUnschedulableError,
)


@dataclass
class _Slot:
    host: Any
    number: int  # how many were replaced here


class HostManager:
    """Leases hosts to episodes: the one with the fewest leases, the first of several. Replaces those that died.

    A replacement takes the dead one's place and keeps its leases, so that as many students share it as before. Ray's
    own restarts are not used: they end after a number of them, and the manager would not know of them.

    Args:
        count: How many hosts.
        start: Starts a host and returns its handle.
        end: Ends one, dead or alive, and so frees what it holds.
    """

    def __init__(self, count: int, start: Callable[[], Any], end: Callable[[Any], None]) -> None:
        self._start, self._end = start, end
        self._slots = [_Slot(start(), 0) for _ in range(count)]
        self._leases: dict[str, int] = {}

    def acquire(self, lease: str) -> tuple[Any, int]:
        """Returns the host for a lease and its number in its place; asking again returns the same place's."""
        if lease not in self._leases:
            load = [list(self._leases.values()).count(i) for i in range(len(self._slots))]
            self._leases[lease] = load.index(min(load))
        slot = self._slots[self._leases[lease]]
        return slot.host, slot.number

    def replace(self, lease: str, number: int) -> tuple[Any, int]:
        """Replaces a lease's host that died, unless another lease had that done already; returns as `acquire` does.

        Args:
            lease: Whose host died.
            number: Of the one that died.
        """
        self.acquire(lease)
        slot = self._slots[self._leases[lease]]
        if slot.number == number:
            self._end(slot.host)
            slot.host, slot.number = self._start(), number + 1
        return slot.host, slot.number

    def release(self, lease: str) -> None:
        """Ends a lease and closes its student; an unknown lease is ignored, so that it can be ended twice."""
        index = self._leases.pop(lease, None)
        if index is not None:
            self._slots[index].host.close.remote(lease)

    def leases(self) -> list[str]:
        """Returns the open leases."""
        return list(self._leases)

    def hosts(self) -> list[Any]:
        """Returns the hosts that there are now."""
        return [slot.host for slot in self._slots]

    def replaced(self) -> int:
        """Returns how many hosts were replaced."""
        return sum(slot.number for slot in self._slots)


class HostActor(StudentHost):
    """A student host that knows the run's session: students behind an endpoint share its limiters, record and purse.

    Args:
        settings: What a person chose for language-model calls.
        desk: Name of the `ChatDesk` that the run's processes share; empty where there is none.
    """

    def __init__(self, settings: session.Settings, desk: str) -> None:
        if desk:
            session.begin(remote_session(settings, ray.get_actor(desk)))
        super().__init__()


def start_manager(
    count: int,
    tenants: int,
    gpus_per_host: float = 0.0,
    settings: session.Settings = session.DEFAULT,
    desk: str = "",
) -> Any:
    """Starts hosts and their manager: on a GPU share each, else on the custom resource where the cluster has it.

    Args:
        count: How many hosts.
        tenants: Students at a time on each.
        gpus_per_host: GPUs of each.
        settings: See `HostActor`.
        desk: See `HostActor`.
    """
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": 0,
        "max_concurrency": tenants + SPARE,
        "runtime_env": {"env_vars": ENVIRONMENT},
    }
    if gpus_per_host:
        options["num_gpus"] = gpus_per_host
    elif ray.cluster_resources().get(HOST_RESOURCE, 0) >= count:
        options["resources"] = {HOST_RESOURCE: 1}
    else:
        options["scheduling_strategy"] = "SPREAD"
    manager = ray.remote(HostManager).options(num_cpus=0)
    return manager.remote(count, _Start(options, settings, desk), _end)


@dataclass(frozen=True)
class _Start:
    options: Mapping[str, Any]
    settings: session.Settings
    desk: str

    def __call__(self) -> Any:
        return ray.remote(HostActor).options(**self.options).remote(self.settings, self.desk)


def _end(host: Any) -> None:
    ray.kill(host, no_restart=True)


def end_hosts(manager: Any) -> None:
    """Ends the hosts and their manager, so that others may have what they hold."""
    try:
        for host in ray.get(manager.hosts.remote()):
            _end(host)
        _end(manager)
    except ray.exceptions.RayError:
        pass  # they are gone already


class Leased:
    """Reaches a leased student's host; see `dgym.students.host.Call`. When the host has died, it is replaced.

    The student is then brought back as it was after its last training, and the call is made again. What it had learned
    comes from a snapshot, which the host gave together with the training's report: it lies in the object store of the
    host's machine, or, if it is small, in this process, and so outlives the host. Should it be gone with the machine,
    the student is trained again, with the same outcome.

    Args:
        manager: Handle of the `HostManager`.
        lease: Name of the lease.
        config: Which student it is.
    """

    def __init__(self, manager: Any, lease: str, config: StudentConfig) -> None:
        self._manager, self._lease, self._config = manager, lease, config
        self._host, self._number = ray.get(manager.acquire.remote(lease))
        self._is_open = False
        self._learned: list[tuple[Any, ...]] = []  # the calls that made it what it is, since it was new
        self._snapshot: Any = None
        self._deaths = 0

    def __call__(self, method: str, *args: Any) -> Any:
        """Calls the host and waits for the result.

        Raises:
            InfrastructureError: If hosts died too often under this student.
        """
        if method == "close":
            return ray.get(self._manager.release.remote(self._lease))
        while True:
            try:
                if not self._is_open:
                    self._bring_back()
                return None if method == "open" else self._make(method, *args)
            except DIED as error:
                self._replace(method, error)

    def _make(self, method: str, *args: Any) -> Any:
        if method not in ("train", "load"):
            return self._ask(method, *args)
        if method == "load":
            self._ask(method, *args)
            self._learned, self._snapshot = [(method, *args)], None
            return None
        report, snapshot = self._train(*args)
        *_, fresh = args
        self._learned = [*([] if fresh else self._learned), (method, *args)]
        self._snapshot = snapshot
        return report

    def _train(self, *args: Any) -> tuple[Any, Any]:
        report, snapshot = self._host.train_and_keep.options(num_returns=2).remote(*args)
        return _get(report), snapshot

    def _bring_back(self) -> None:
        """Opens the student, on a new host as it was on the old one."""
        self._ask("open", self._lease, self._config)
        if self._learned and not self._restored():
            self._ask("open", self._lease, self._config)  # what was tried may have left something
            for method, *args in self._learned:
                if method == "train":
                    _, self._snapshot = self._train(*args)
                else:
                    self._ask(method, *args)
        self._is_open = True

    def _restored(self) -> bool:
        """Tries to restore the snapshot."""
        if self._snapshot is None:
            return False
        try:
            self._ask("restore", self._lease, self._snapshot)  # the host fetches it; here it is only a name
        except (StudentError, ray.exceptions.ObjectLostError):
            return False
        return True

    def _ask(self, method: str, *args: Any) -> Any:
        return _get(getattr(self._host, method).remote(*args))

    def _replace(self, method: str, error: Exception) -> None:
        self._deaths += 1
        self._is_open = False
        if self._deaths > REPLACEMENTS:
            raise InfrastructureError(
                f"The student host died {self._deaths} times under this episode, the last time while it was asked to "
                f"{method}: {cause(error)}"
            ) from error
        self._host, self._number = ray.get(self._manager.replace.remote(self._lease, self._number))
        if self._config.engine == "vllm":
            time.sleep(GRACE)  # the dead host's server ends within that, and holds its memory until then
        elif self._config.device != "cpu":
            time.sleep(FREEING)
        started, _ = ray.wait([self._host.stats.remote()], timeout=PLACING)
        if not started:
            raise InfrastructureError(
                f"The student host died, and for {PLACING:.0f} s there was no room for another: {cause(error)}"
            ) from error


def _get(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # What the host raised, without Ray's own text around it.
        raise error.cause from None


def cause(error: Exception) -> str:
    """Says in a sentence why a host died, as far as Ray tells, and what may help."""
    text = " ".join(str(error).split())
    if "memory" in text:  # also in the list of common causes that Ray writes where it saw none
        return "probably out of memory; run with fewer --per-host or --hosts."
    reason = text.partition("The actor is dead because ")[2] or text
    return f"{reason[:200].rstrip('.')}."


def open_student(manager: Any, lease: str, config: StudentConfig) -> HostedStudent:
    """Leases a host and opens a student there; closing the student ends the lease."""
    call = Leased(manager, lease, config)
    try:
        call("open")
    except BaseException:
        call("close")
        raise
    return HostedStudent(call, lease)


def host_stats(manager: Any) -> tuple[list[HostStats], int]:
    """Asks the hosts what they did, and the manager how many it replaced; one that just died is left out."""
    try:
        hosts, replaced = ray.get([manager.hosts.remote(), manager.replaced.remote()])
    except ray.exceptions.RayActorError:
        return [], 0
    out = []
    for host in hosts:
        try:
            out.append(ray.get(host.stats.remote(), timeout=30))
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            continue
    return out, replaced
