"""How many requests an endpoint is sent at a time: one limiter per (endpoint, model), shared by all episodes.

The number in flight follows additive increase, multiplicative decrease (Chiu and Jain 1989): it starts at 20, grows
while answers come, and shrinks to 0.8 of itself when the endpoint answers 429. Close below the level at which it was
last refused it grows slowly, as CUBIC does (RFC 9438), so that it rests just under the endpoint's limit and seldom
tries it. A Retry-After holds everything back that long; a 5xx holds back growth. Requests are let through in the
order of their first arrival, retries included: nobody starves.

The class knows neither HTTP nor Ray. All its methods belong to one event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

Outcome = Literal["ok", "refused", "error", "other"]
"""How a request ended: answered; 429; 5xx, cut off or timed out; anything else."""

START: Final = 20.0
"""Requests in flight at the start."""

SHRINK: Final = 0.8
"""What is left of the number in flight after a refusal."""

LARGEST: Final = 512.0
"""Most requests in flight."""

SLOW: Final = 8.0
"""How many times slower the number grows close to where it was last refused."""

CALM: Final = 5.0
"""Seconds without growth after a 5xx."""

LEASE: Final = 900.0
"""Seconds after which a permit that nobody gave back, because its process died, is taken back."""


class Limits(Protocol):
    """What a client asks before each request; here or in another process."""

    async def acquire(self, ticket: int, tokens: int) -> int:
        """Waits for a permit and returns its number; see `Limiter.acquire`."""
        ...

    async def release(self, permit: int, outcome: Outcome, retry_after: float | None) -> None:
        """Gives a permit back; see `Limiter.release`."""
        ...

    async def ticket(self) -> int:
        """Returns a place in the queue; see `Limiter.ticket`."""
        ...


@dataclass(frozen=True)
class LimiterStats:
    """What a limiter has seen.

    Attributes:
        limit: How many requests may be in flight just now.
        in_flight: How many are.
        waiting: How many wait.
        granted: Permits given so far.
        refused: Requests that the endpoint answered with 429.
    """

    limit: float
    in_flight: int
    waiting: int
    granted: int
    refused: int


@dataclass(order=True)
class _Waiter:
    ticket: int
    number: int
    tokens: int = field(compare=False)
    future: asyncio.Future[int] = field(compare=False)


class Limiter:
    """Lets requests through; see the module's text.

    Args:
        start: Requests in flight at first.
        requests_per_minute: Limit of the endpoint's, if it has one.
        tokens_per_minute: Limit of the endpoint's, on tokens as `acquire` is told them.
        lease: Seconds after which a permit is taken back.
        first: First of the numbers of permits and places; above those of a limiter whose place it takes.
    """

    def __init__(
        self,
        start: float = START,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        lease: float = LEASE,
        first: int = 0,
    ) -> None:
        self._limit, self._ceiling, self._lease = max(1.0, start), LARGEST, lease
        self._buckets = [_Bucket(rate) for rate in (requests_per_minute, tokens_per_minute)]
        self._waiting: list[_Waiter] = []
        self._flying: dict[int, float] = {}
        self._numbers, self._tickets = itertools.count(first), itertools.count(first)
        self._closed_until = self._calm_until = float("-inf")
        self._shrunk = -1  # the number that the next permit had at the last decrease
        self._granted = self._refused = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def stats(self) -> LimiterStats:
        """What was seen so far."""
        return LimiterStats(self._limit, len(self._flying), len(self._waiting), self._granted, self._refused)

    async def ticket(self) -> int:
        """Returns a place in the queue, to be kept for all retries of a request."""
        return next(self._tickets)

    async def acquire(self, ticket: int, tokens: int = 0) -> int:
        """Waits until a request may be sent.

        Args:
            ticket: The request's place in the queue.
            tokens: What it will cost of the tokens per minute, about.

        Returns:
            The permit's number, to be given back with `release`.
        """
        waiter = _Waiter(ticket, next(self._numbers), tokens, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        self._let_through()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                await self.release(waiter.future.result(), "other")
            raise

    async def release(self, permit: int, outcome: Outcome, retry_after: float | None = None) -> None:
        """Takes a permit back; one that was taken back already changes nothing.

        Args:
            permit: Its number.
            outcome: How the request ended.
            retry_after: Seconds that the endpoint asked to wait.
        """
        sent = self._flying.pop(permit, None)
        if sent is None:
            return
        now = _now()
        if outcome == "ok" and now >= self._calm_until:
            near = self._limit >= self._ceiling - 1
            self._limit = min(LARGEST, self._limit + 1 / (self._limit * (SLOW if near else 1)))
        elif outcome == "error":
            self._calm_until = now + CALM
        elif outcome == "refused":
            self._refused += 1
            # Requests sent before the last decrease tell nothing new.
            if permit > self._shrunk:
                self._ceiling = max(1.0, float(len(self._flying) + 1))
                self._limit = max(1.0, SHRINK * min(self._limit, self._ceiling))
                self._shrunk = next(self._numbers)
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + max(0.0, retry_after))
        self._let_through()

    async def renew(self, permits: Collection[int]) -> None:
        """Lets permits last as long again as when they were given; those that were taken back stay so."""
        now = _now()
        for permit in permits:
            if permit in self._flying:
                self._flying[permit] = now

    def _let_through(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = _now()
        for permit, sent in list(self._flying.items()):
            if now - sent > self._lease:
                del self._flying[permit]
        while self._waiting:
            first = self._waiting[0]
            if first.future.cancelled():
                heapq.heappop(self._waiting)
                continue
            wait = max(self._closed_until - now, *(b.wait(now, n) for b, n in self._costs(first)))
            if wait > 0 or len(self._flying) >= int(self._limit):
                # Whatever else happens, look again then.
                expires = min(self._flying.values(), default=now) + self._lease - now + 0.001
                self._timer = asyncio.get_running_loop().call_later(
                    wait if wait > 0 else max(0.001, expires), self._let_through
                )
                return
            heapq.heappop(self._waiting)
            for bucket, amount in self._costs(first):
                bucket.take(now, amount)
            permit = next(self._numbers)
            self._flying[permit] = now
            self._granted += 1
            first.future.set_result(permit)

    def _costs(self, waiter: _Waiter) -> list[tuple[_Bucket, int]]:
        return list(zip(self._buckets, (1, waiter.tokens), strict=True))


class _Bucket:
    """A token bucket that fills in a minute; without a rate it never runs dry."""

    def __init__(self, per_minute: int | None) -> None:
        self._size = float(per_minute) if per_minute is not None else None
        self._level, self._at = self._size or 0.0, float("-inf")

    def wait(self, now: float, amount: int) -> float:
        """Returns the seconds until there is enough; a bucket that is full is always enough."""
        if self._size is None:
            return 0.0
        self._fill(now)
        lacking = min(float(amount), self._size) - self._level
        return max(0.0, lacking * 60 / self._size)

    def take(self, now: float, amount: int) -> None:
        """Takes an amount out; what is larger than the bucket leaves it in debt."""
        if self._size is not None:
            self._fill(now)
            self._level -= amount

    def _fill(self, now: float) -> None:
        if self._size is not None and self._at > float("-inf"):
            self._level = min(self._size, self._level + (now - self._at) * self._size / 60)
        self._at = now


def _now() -> float:
    return asyncio.get_running_loop().time()
