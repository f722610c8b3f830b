"""Limiters and purse of a run, shared by its processes: one actor that all of them ask."""

from __future__ import annotations

from typing import Any

import ray

from dgym.chat.limiter import Limiter, LimiterStats, Outcome
from dgym.chat.session import LocalLimiters, LocalPurse, Rates, Session, Settings


class ChatDesk:
    """Holds one limiter per (endpoint, model), and the purse; made an actor from outside.

    Args:
        settings: The limits on the spending.
    """

    def __init__(self, settings: Settings) -> None:
        self._limiters, self._purse = LocalLimiters(), LocalPurse(settings)

    async def ticket(self, key: str, rates: Rates) -> int:
        """See `dgym.chat.limiter.Limiter.ticket`."""
        return await self._limiter(key, rates).ticket()

    async def acquire(self, key: str, rates: Rates, ticket: int, tokens: int) -> int:
        """See `dgym.chat.limiter.Limiter.acquire`."""
        return await self._limiter(key, rates).acquire(ticket, tokens)

    async def release(self, key: str, rates: Rates, permit: int, outcome: Outcome, retry_after: float | None) -> None:
        """See `dgym.chat.limiter.Limiter.release`."""
        await self._limiter(key, rates).release(permit, outcome, retry_after)

    async def check(self) -> str:
        """See `dgym.chat.session.Purse.check`."""
        return await self._purse.check()

    async def spend(self, tokens: int, cost: float) -> None:
        """See `dgym.chat.session.Purse.spend`."""
        await self._purse.spend(tokens, cost)

    async def stats(self) -> dict[str, LimiterStats]:
        """Returns what the limiters have seen, by endpoint and model."""
        return {key: limiter.stats for key, limiter in self._limiters.made.items()}

    def _limiter(self, key: str, rates: Rates) -> Limiter:
        return self._limiters.of(key, rates)


class _RemoteLimits:
    """One limiter of the desk, as a client asks it; see `dgym.chat.limiter.Limits`."""

    def __init__(self, desk: Any, key: str, rates: Rates) -> None:
        self._desk, self._key, self._rates = desk, key, rates

    async def ticket(self) -> int:
        number: int = await self._desk.ticket.remote(self._key, self._rates)
        return number

    async def acquire(self, ticket: int, tokens: int) -> int:
        permit: int = await self._desk.acquire.remote(self._key, self._rates, ticket, tokens)
        return permit

    async def release(self, permit: int, outcome: Outcome, retry_after: float | None) -> None:
        await self._desk.release.remote(self._key, self._rates, permit, outcome, retry_after)


class _RemoteLimiters:
    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def of(self, key: str, rates: Rates) -> _RemoteLimits:
        return _RemoteLimits(self._desk, key, rates)


class _RemotePurse:
    def __init__(self, desk: Any) -> None:
        self._desk = desk

    async def check(self) -> str:
        why: str = await self._desk.check.remote()
        return why

    async def spend(self, tokens: int, cost: float) -> None:
        await self._desk.spend.remote(tokens, cost)


def start_desk(settings: Settings) -> Any:
    """Starts the actor; it only keeps count, and takes no CPU from Ray's."""
    return ray.remote(ChatDesk).options(num_cpus=0, max_concurrency=10_000).remote(settings)


def remote_session(settings: Settings, desk: Any) -> Session:
    """Returns the session of a process that asks the desk."""
    return Session(settings, _RemoteLimiters(desk), _RemotePurse(desk))
