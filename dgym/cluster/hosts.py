"""Student hosts as actors, the manager that leases and replaces them, and what an episode does when its host dies."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import ray

from dgym.chat import session
from dgym.chat.servers import GRACE
from dgym.cluster.chat import central, remote_session
from dgym.cluster.deaths import DIED, cause
from dgym.cluster.nodes import same_versions
from dgym.errors import InfrastructureError, StudentError
from dgym.students.host import HostedStudent, HostStats, StudentConfig, StudentHost

HOST_RESOURCE: Final = "dgym_host"
"""The custom resource that a host takes. Hosts take no CPUs: two one-CPU hosts on a two-CPU Ray would leave every
trial pending for ever."""

REPLACEMENTS: Final = 3
"""How often the host of one episode may die before the episode fails."""

SOON: Final = 30.0
"""Seconds after which a host that has not started waits for a machine with room, as far as one can tell."""

PLACING: Final = 300.0
"""Seconds in which a replacement must have started, here or there; where a machine is gone for good, there may be no
room for one."""

PATIENCE: Final = 30.0
"""Seconds in which a host must say what it did."""

FREEING: Final = 2.0
"""Seconds that the driver of a GPU may take to give back the memory of a process that was killed."""

SPARE: Final = 4
"""Calls beside those of its students that a host takes at a time: to end leases, and to tell statistics."""

ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""For the processes of hosts. Students compute one at a time but in different threads, for each of which glibc would
keep freed memory: without this, eight tenants of SmolLM2 take nearly twice what one takes (`benchmarks/tenants.py`)."""


@dataclass
class _Slot:
    host: Any
    number: int  # of this host in all that were started by anyone
    since: float = field(default_factory=time.monotonic)
    bases: set[str] = field(default_factory=set)  # that its leases asked for


class HostManager:
    """Leases hosts to episodes, replaces those that died, and has as many as the queue needs.

    Leased is, of the hosts that are not full, the one with the fewest leases; of several the one that has the base. A
    host that has not started for `SOON` seconds waits for a machine with room, and is leased where there is no other. A
    replacement takes the dead one's place and keeps its leases, so that as many students share it as before. Ray's own
    restarts are not used for hosts: they end after a number of them, and the manager would not know of them. The
    manager itself may be started again: its hosts have ended with it, and who holds a lease asks again.

    Args:
        count: How many hosts at first.
        start: Starts a host and returns its handle.
        end: Ends one, dead or alive, and so frees what it holds.
        tenants: Students at a time on each.
        ready: Whether a host has started.
        stats: Asks an idle host what it did, before it is ended; `None` if it does not answer.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[], Any],
        end: Callable[[Any], None],
        tenants: int = 1,
        ready: Callable[[Any], bool] = lambda _: True,
        stats: Callable[[Any], HostStats | None] = lambda _: None,
    ) -> None:
        self._start, self._end, self._ready, self._ask = start, end, ready, stats
        self._tenants = tenants
        # Not from zero: a manager that was started again must not take its predecessor's hosts for its own.
        self._numbers = itertools.count(time.time_ns())
        self._places = itertools.count()
        self._slots: dict[int, _Slot] = {}
        self._leases: dict[str, int] = {}
        self._begun: Counter[str] = Counter()
        self._replaced = 0
        self._ended: list[HostStats] = []
        self._add(count)

    def _add(self, count: int) -> None:
        for _ in range(count):
            self._slots[next(self._places)] = self._started()

    def _started(self, bases: frozenset[str] = frozenset()) -> _Slot:
        slot = _Slot(self._start(), next(self._numbers), bases=set(bases))
        self._ready(slot.host)  # asks it; the answer is looked for later
        return slot

    def begin(self, lease: str) -> int:
        """Notes that an episode begins; returns how often it had begun before."""
        self._begun[lease] += 1
        return self._begun[lease] - 1

    def acquire(self, lease: str, base: str = "") -> tuple[Any, int]:
        """Returns the host for a lease and its number; asking again returns the same place's.

        Args:
            lease: Name of the lease.
            base: What the student is made of, as a text; a host that has had the same is preferred.
        """
        if lease not in self._leases:
            load = Counter(self._leases.values())

            def order(place: int) -> tuple[Any, ...]:
                slot = self._slots[place]
                full = load[place] >= self._tenants
                return full, self._is_late(slot), load[place], not self._ready(slot.host), base not in slot.bases, place

            place = min(self._slots, key=order)
            self._leases[lease] = place
            self._slots[place].bases.add(base)
        slot = self._slots[self._leases[lease]]
        return slot.host, slot.number

    def move(self, lease: str, base: str = "") -> tuple[Any, int]:
        """Leases another host in place of one that waits for a machine, if one has room; returns as `acquire` does."""
        before = self._leases.pop(lease, None)
        found = self.acquire(lease, base)
        if before is not None and self._is_late(self._slots[self._leases[lease]]):
            self._leases[lease] = before
            return self.acquire(lease)
        return found

    def _is_late(self, slot: _Slot) -> bool:
        return time.monotonic() - slot.since > SOON and not self._ready(slot.host)

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
            # Its leases bring their students back there, and so their bases.
            slot = self._started(frozenset(slot.bases))
            self._slots[self._leases[lease]] = slot
            self._replaced += 1
        return slot.host, slot.number

    def release(self, lease: str) -> None:
        """Ends a lease and closes its student; an unknown lease is ignored, so that it can be ended twice."""
        place = self._leases.pop(lease, None)
        if place is not None:
            self._slots[place].host.close.remote(lease)

    def fit(self, left: int, most: int) -> int:
        """Ends hosts that no episode needs any more, and starts others while episodes wait.

        Hosts that wait for room are how a cluster that grows knows what is wanted; no more are added than have
        started, so that a queue of thousands asks for machines in steps.

        Args:
            left: Episodes that have not ended.
            most: Hosts that there may be.

        Returns:
            For how many hosts there is a machine.
        """
        wanted = max(1, min(most, -(-left // self._tenants)))
        started = {place for place, slot in self._slots.items() if self._ready(slot.host)}
        used = set(self._leases.values())
        idle = [place for place in self._slots if place not in used]
        idle.sort(key=lambda place: (place in started, -place))  # those that wait for room go first
        for place in idle[: max(0, len(self._slots) - wanted)]:
            slot = self._slots.pop(place)
            found = self._ask(slot.host) if place in started else None
            if found is not None:
                self._ended.append(replace(found, ended=time.time()))
            self._end(slot.host)
            started.discard(place)
        waiting = len(self._slots) - len(started)
        self._add(max(0, min(wanted - len(self._slots), max(1, len(started)) - waiting)))
        return len(self._slots) - len(self.late())

    def late(self) -> list[Any]:
        """Returns the hosts that wait for a machine with room."""
        return [slot.host for slot in self._slots.values() if self._is_late(slot)]

    def leases(self) -> list[str]:
        """Returns the open leases."""
        return list(self._leases)

    def hosts(self) -> list[Any]:
        """Returns the hosts that there are now."""
        return [slot.host for slot in self._slots.values()]

    def ended(self) -> list[HostStats]:
        """Returns what those hosts did that were ended because no episode needed them."""
        return self._ended

    def replaced(self) -> int:
        """Returns how many hosts were replaced."""
        return self._replaced


class HostActor(StudentHost):
    """A student host that knows the run's session: students behind an endpoint share its limiters, record and purse.

    Args:
        settings: What a person chose for language-model calls.
        desk: Name of the `ChatDesk` that the run's processes share; empty where there is none.
        driver: What the driver runs, where this may be a machine that has come since it looked at them all.

    Raises:
        InfrastructureError: If this machine runs something else.
    """

    def __init__(self, settings: session.Settings, desk: str, driver: Mapping[str, str] | None = None) -> None:
        if driver is not None:
            same_versions(driver)
        if desk:
            session.begin(remote_session(settings, ray.get_actor(desk)))
        super().__init__()


def start_manager(
    count: int,
    tenants: int,
    gpus_per_host: float = 0.0,
    settings: session.Settings = session.DEFAULT,
    desk: str = "",
    driver: Mapping[str, str] | None = None,
) -> Any:
    """Starts hosts and their manager: on a GPU share each, else on the custom resource where the cluster has it.

    Args:
        count: How many hosts.
        tenants: Students at a time on each.
        gpus_per_host: GPUs of each.
        settings: See `HostActor`.
        desk: See `HostActor`.
        driver: See `HostActor`.
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
    manager = ray.remote(HostManager).options(**central())
    return manager.remote(count, _Start(options, settings, desk, driver), _end, tenants, _Ready(), _stats)


@dataclass(frozen=True)
class _Start:
    options: Mapping[str, Any]
    settings: session.Settings
    desk: str
    driver: Mapping[str, str] | None

    def __call__(self) -> Any:
        return ray.remote(HostActor).options(**self.options).remote(self.settings, self.desk, self.driver)


class _Ready:
    """Says whether a host has answered, without waiting for it."""

    def __init__(self) -> None:
        self._asked: dict[Any, Any] = {}
        self._known: set[Any] = set()

    def __call__(self, host: Any) -> bool:
        if host not in self._known:
            call = self._asked.setdefault(host, host.now.remote())
            if not ray.wait([call], timeout=0)[0]:
                return False
            self._known.add(host)  # or it died: who asks it will see that
            del self._asked[host]
        return True


def _stats(host: Any) -> HostStats | None:
    try:
        found: HostStats = ray.get(host.stats.remote(), timeout=PATIENCE)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return found


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
        deaths: Counts hosts that died, under `"host"`.
    """

    def __init__(self, manager: Any, lease: str, config: StudentConfig, deaths: Counter[str] | None = None) -> None:
        self._manager, self._lease, self._config = manager, lease, config
        self._lost = Counter[str]() if deaths is None else deaths
        self._base = " ".join((config.family, config.variant, config.device, config.precision, config.engine))
        self._host, self._number = ray.get(manager.acquire.remote(lease, self._base))
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
                    self._placed(None)
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
        self._lost["host"] += 1
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
        if not self._placed(PLACING):
            raise InfrastructureError(
                f"The student host died, and for {PLACING:.0f} s there was no room for another: {cause(error)}"
            ) from error

    def _placed(self, seconds: float | None) -> bool:
        """Waits until the host has started, or another that has room; however long it takes, or so many seconds."""
        left = math.inf if seconds is None else seconds
        while not ray.wait([self._host.now.remote()], timeout=min(SOON, left))[0]:
            left -= SOON
            if left <= 0:
                return False
            self._host, self._number = ray.get(self._manager.move.remote(self._lease, self._base))
        return True


def _get(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # What the host raised, without Ray's own text around it.
        raise error.cause from None


def open_student(manager: Any, lease: str, config: StudentConfig, deaths: Counter[str] | None = None) -> HostedStudent:
    """Leases a host and opens a student there; closing the student ends the lease. See `Leased`."""
    call = Leased(manager, lease, config, deaths)
    try:
        call("open")
    except BaseException:
        call("close")
        raise
    return HostedStudent(call, lease)


def host_stats(manager: Any) -> tuple[list[HostStats], int]:
    """Asks the hosts what they did, and the manager how many it replaced; one that just died is left out."""
    try:
        calls = [manager.hosts.remote(), manager.ended.remote(), manager.replaced.remote()]
        hosts, ended, replaced = ray.get(calls)
    except DIED:
        return [], 0
    return [*ended, *(found for found in map(_stats, hosts) if found is not None)], replaced
