"""Limiters, purse and model servers of a run, shared by its processes: actors that all of them ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Collection
from typing import Any, Final
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dgym.bench import Job
from dgym.chat.errors import ChatSetupError
from dgym.chat.limiter import Limiter, LimiterStats, Outcome
from dgym.chat.local import VllmChat
from dgym.chat.servers import GRACE, LOOPBACK, LocalServers, in_thread
from dgym.chat.session import LocalLimiters, LocalPurse, Rates, Session, Settings
from dgym.cluster.deaths import DIED
from dgym.errors import DgymError, InfrastructureError
from dgym.teachers import make_teacher

PASSED: Final = ("DGYM_VLLM", "DGYM_VLLM_ARGS", "DGYM_VLLM_URL")
"""Variables of the environment that the processes of a running cluster need to have too."""

LEASE: Final = 15.0
"""Seconds after which a permit that is not renewed is taken back: the process that had it died."""

RENEWING: Final = 3.0
"""Seconds between two renewals of the permits that a process has."""


class ServerDesk:
    """Starts and watches the run's model servers; made an actor from outside.

    Args:
        alone: Whether only this machine has to reach the servers.
        threads: `$OMP_NUM_THREADS` as the run's own process has it; `None` if it has none.
    """

    def __init__(self, alone: bool = True, threads: str | None = None) -> None:
        # Ray sets it to 1 for an actor without CPUs, and the servers would inherit that.
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        self._servers = LocalServers(LOOPBACK if alone else ray.util.get_node_ip_address())

    async def address(self, model: str) -> str:
        """See `dgym.chat.servers.LocalServers.address`."""
        return await in_thread(lambda: self._servers.address(model))

    async def stop(self) -> None:
        """Stops all servers."""
        await in_thread(self._servers.stop)


class ChatDesk:
    """Holds one limiter per (endpoint, model), the purse, and who serves models; made an actor from outside.

    Args:
        settings: The limits on the spending.
        threads: See `ServerDesk`.
        lease: Seconds after which a permit that is not renewed is taken back.
    """

    def __init__(self, settings: Settings, threads: str | None = None, lease: float = LEASE) -> None:
        # One that was started again must not take what its predecessor gave for its own.
        self._limiters, self._settings = LocalLimiters(time.time_ns(), lease), settings
        self._spent: dict[str, tuple[int, float]] = {}
        self._threads = threads
        self._servers: Any = None

    async def ticket(self, key: str, rates: Rates) -> int:
        """See `dgym.chat.limiter.Limiter.ticket`."""
        return await self._limiter(key, rates).ticket()

    async def acquire(self, key: str, rates: Rates, ticket: int, tokens: int) -> int:
        """See `dgym.chat.limiter.Limiter.acquire`."""
        return await self._limiter(key, rates).acquire(ticket, tokens)

    async def release(self, key: str, rates: Rates, permit: int, outcome: Outcome, retry_after: float | None) -> None:
        """See `dgym.chat.limiter.Limiter.release`."""
        await self._limiter(key, rates).release(permit, outcome, retry_after)

    async def renew(self, key: str, permits: Collection[int]) -> None:
        """See `dgym.chat.limiter.Limiter.renew`."""
        if key in self._limiters.made:
            await self._limiters.made[key].renew(permits)

    async def check(self, who: str, tokens: int, cost: float) -> str:
        """Returns why nothing more may be spent.

        Args:
            who: The process that asks.
            tokens: All that it has spent so far: a desk that was started again learns it from those that go on.
            cost: The same in US dollars.
        """
        self._spent[who] = tokens, cost
        purse = LocalPurse(self._settings)
        purse.tokens = sum(tokens for tokens, _ in self._spent.values())
        purse.cost = sum(cost for _, cost in self._spent.values())
        return await purse.check()

    async def servers(self) -> Any:
        """Returns the handle of the `ServerDesk`, which is started when first asked for: few runs need it.

        Raises:
            ChatSetupError: If the cluster has GPUs and the students hold all of them.
        """
        if self._servers is None:
            self._servers = _start_servers(self._threads)
        return self._servers

    async def stop(self) -> None:
        """Stops the model servers, if there are any."""
        if self._servers is not None:
            await self._servers.stop.remote()

    async def process(self) -> int:
        """Returns its process's id."""
        return os.getpid()

    async def stats(self) -> dict[str, LimiterStats]:
        """Returns what the limiters have seen, by endpoint and model."""
        return {key: limiter.stats for key, limiter in self._limiters.made.items()}

    def _limiter(self, key: str, rates: Rates) -> Limiter:
        return self._limiters.of(key, rates)


class _RemoteLimits:
    """One limiter of the desk, as a client asks it; see `dgym.chat.limiter.Limits`. Renews what this process has."""

    def __init__(self, desk: Any, key: str, rates: Rates, renewing: float = RENEWING) -> None:
        self._desk, self._key, self._rates, self._renewing = desk, key, rates, renewing
        self._held: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    async def ticket(self) -> int:
        number: int = await self._desk.ticket.remote(self._key, self._rates)
        return number

    async def acquire(self, ticket: int, tokens: int) -> int:
        permit: int = await self._desk.acquire.remote(self._key, self._rates, ticket, tokens)
        self._held.add(permit)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._renew())
        return permit

    async def release(self, permit: int, outcome: Outcome, retry_after: float | None) -> None:
        self._held.discard(permit)
        await self._desk.release.remote(self._key, self._rates, permit, outcome, retry_after)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(self._renewing)
            with contextlib.suppress(ray.exceptions.RayError):
                await self._desk.renew.remote(self._key, list(self._held))


class _RemoteLimiters:
    def __init__(self, desk: Any) -> None:
        self._desk = desk
        self._made: dict[str, _RemoteLimits] = {}

    def of(self, key: str, rates: Rates) -> _RemoteLimits:
        return self._made.setdefault(key, _RemoteLimits(self._desk, key, rates))


class _RemotePurse:
    """This process's part of the run's spending, which the desk is told before each request; see `ChatDesk.check`."""

    def __init__(self, desk: Any) -> None:
        self._desk, self._who = desk, uuid4().hex
        self._tokens, self._cost = 0, 0.0

    async def check(self) -> str:
        why: str = await self._desk.check.remote(self._who, self._tokens, self._cost)
        return why

    async def spend(self, tokens: int, cost: float) -> None:
        self._tokens += tokens
        self._cost += cost
        await self.check()


class _RemoteServers:
    """The run's servers, as its other processes ask for them; see `dgym.chat.session.Servers`."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def address(self, model: str) -> str:
        try:
            servers = ray.get(self._desk.servers.remote())
            url: str = ray.get(servers.address.remote(model))
            return url
        except ray.exceptions.RayTaskError as error:
            # What was raised there, without Ray's own text around it.
            if isinstance(error.cause, DgymError):
                raise error.cause from None
            raise
        except DIED:
            raise InfrastructureError("The process that watches the model servers died.") from None

    def stop(self) -> None:
        """Leaves them to the run."""


def _start_servers(threads: str | None) -> Any:
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    if gpus and ray.available_resources().get("GPU", 0) < 1:
        raise ChatSetupError(
            "No GPU is left for the teacher's model server: run with fewer --hosts, or set $DGYM_VLLM_URL to a "
            "running server."
        )
    actor = ray.remote(ServerDesk).options(num_cpus=0, num_gpus=gpus, max_concurrency=10_000)
    alone = sum(bool(node["Alive"]) for node in ray.nodes()) == 1
    return actor.remote(alone, threads)


def serves(job: Job) -> bool:
    """Whether a run will start model servers of its own, unless its record has all answers."""
    if os.environ.get("DGYM_VLLM_URL") or job.chat.replay == "strict":
        return False
    teachers = {(i.spec.teacher, repr(i.spec.teacher_params)): i.spec for i in job.episodes if i.waits}.values()
    chats = [chat for spec in teachers for chat in make_teacher(spec.teacher, spec.teacher_params).chats]
    return any(isinstance(chat, VllmChat) for chat in chats)


def stop_servers(desk: Any) -> None:
    """Stops the model servers of a run, however it ended; what does not answer ends with Ray."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(desk.stop.remote(), timeout=2 * GRACE)


def start_desk(settings: Settings, name: str, lease: float = LEASE) -> Any:
    """Starts the actor under a name, beside the driver; it only keeps count, and takes no CPU from Ray's."""
    actor = ray.remote(ChatDesk).options(name=name, max_concurrency=10_000, **central())
    return actor.remote(settings, os.environ.get("OMP_NUM_THREADS"), lease)


def central() -> dict[str, Any]:
    """Returns the options of actors of which a run has one: on the driver's machine, and started again if they die.

    What such an actor was asked meanwhile it is asked again; it must not mind.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}


def remote_session(settings: Settings, desk: Any) -> Session:
    """Returns the session of a process that asks the desk."""
    return Session(settings, _RemoteLimiters(desk), _RemotePurse(desk), servers=_RemoteServers(desk))
