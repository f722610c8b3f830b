"""The limiter, on a clock of its own: nobody waits for real."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

from dgym.chat.limiter import CALM, LARGEST, SHRINK, Limiter


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: Clock) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self.loop.now += timeout or 0.0
        return super().select(0)


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    loop = Clock()
    try:
        return loop.run_until_complete(asyncio.wait_for(test(), 100_000))
    finally:
        loop.close()


def test_starts_at_twenty_and_the_rest_wait() -> None:
    async def test() -> None:
        limiter = Limiter()
        tasks = [asyncio.ensure_future(limiter.acquire(n)) for n in range(30)]
        await asyncio.sleep(0.1)
        assert sum(t.done() for t in tasks) == 20
        assert (limiter.stats.in_flight, limiter.stats.waiting) == (20, 10)
        await limiter.release(tasks[0].result(), "ok")
        await asyncio.sleep(0.1)
        assert sum(t.done() for t in tasks) == 21

    run(test)


def test_grows_by_one_for_each_limit_of_answers() -> None:
    async def test() -> None:
        limiter = Limiter(start=10)
        for n in range(10):
            await limiter.release(await limiter.acquire(n), "ok")
        assert 10.9 < limiter.stats.limit < 11.1

    run(test)


def test_shrinks_once_for_all_that_was_in_flight() -> None:
    async def test() -> None:
        limiter = Limiter(start=20)
        permits = [await limiter.acquire(n) for n in range(20)]
        for permit in permits:
            await limiter.release(permit, "refused")
        assert limiter.stats.limit == SHRINK * 20
        assert limiter.stats.refused == 20

    run(test)


def test_retry_after_holds_everything_back() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter()
        await limiter.release(await limiter.acquire(0), "refused", retry_after=30.0)
        start = loop.time()
        await limiter.acquire(1)
        assert loop.time() - start >= 30

    run(test)


def test_an_error_pauses_growth_and_nothing_else() -> None:
    async def test() -> None:
        limiter = Limiter(start=10)
        await limiter.release(await limiter.acquire(0), "error")
        before = limiter.stats.limit
        await limiter.release(await limiter.acquire(1), "ok")
        assert limiter.stats.limit == before == 10
        await asyncio.sleep(CALM + 1)
        await limiter.release(await limiter.acquire(2), "ok")
        assert limiter.stats.limit > before

    run(test)


def test_who_came_first_goes_first_retries_included() -> None:
    async def test() -> None:
        limiter = Limiter(start=1)
        old, young = await limiter.ticket(), await limiter.ticket()
        held = await limiter.acquire(await limiter.ticket())
        order: list[str] = []

        async def ask(name: str, ticket: int) -> None:
            permit = await limiter.acquire(ticket)
            order.append(name)
            await limiter.release(permit, "ok")

        asked = [asyncio.ensure_future(ask("young", young))]
        await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(ask("old", old)))  # comes back for a retry
        await asyncio.sleep(0)
        await limiter.release(held, "ok")
        await asyncio.gather(*asked)
        assert order == ["old", "young"]

    run(test)


def test_requests_and_tokens_per_minute() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        limiter = Limiter(requests_per_minute=60)
        for n in range(120):
            await limiter.release(await limiter.acquire(n), "ok")
        assert 58 <= loop.time() - start <= 62
        start = loop.time()
        limiter = Limiter(tokens_per_minute=6000)
        for n in range(10):
            await limiter.release(await limiter.acquire(n, 1200), "ok")
        assert 58 <= loop.time() - start <= 62
        await limiter.acquire(99, 1_000_000)  # more than a minute's worth: as soon as the bucket is full

    run(test)


def test_a_permit_that_nobody_gives_back_expires() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(start=1, lease=100)
        lost = await limiter.acquire(0)
        start = loop.time()
        await limiter.acquire(1)
        assert 100 <= loop.time() - start < 101
        await limiter.release(lost, "refused")  # too late to say anything
        assert limiter.stats.refused == 0

    run(test)


def test_whoever_gives_up_waiting_leaves_no_hole() -> None:
    async def test() -> None:
        limiter = Limiter(start=1)
        held = await limiter.acquire(0)
        gone = asyncio.ensure_future(limiter.acquire(1))
        stays = asyncio.ensure_future(limiter.acquire(2))
        await asyncio.sleep(0)
        gone.cancel()
        await limiter.release(held, "ok")
        await limiter.release(await stays, "ok")
        assert limiter.stats.in_flight == 0

    run(test)


def test_settles_just_below_what_an_endpoint_allows() -> None:
    """An endpoint that allows 8 at a time: few refusals, hardly a place left empty, nobody starves."""

    async def test() -> tuple[int, int, float, list[float]]:
        loop = asyncio.get_running_loop()
        limiter, inside, refused, served = Limiter(), 0, 0, 0
        waits: list[float] = []
        settled = 200

        async def ask(number: int) -> None:
            nonlocal inside, refused, served
            for _ in range(40):
                ticket, came = await limiter.ticket(), loop.time()
                while True:
                    permit = await limiter.acquire(ticket)
                    if inside >= 8:
                        if served > settled:
                            refused += 1
                        await limiter.release(permit, "refused")
                        await asyncio.sleep(0.05)
                        continue
                    inside += 1
                    await asyncio.sleep(1.0 + 0.1 * (number % 5))
                    inside -= 1
                    served += 1
                    await limiter.release(permit, "ok")
                    break
                waits.append(loop.time() - came)

        start = loop.time()
        await asyncio.gather(*(ask(n) for n in range(32)))
        return served, refused, (loop.time() - start), waits

    served, refused, seconds, waits = run(test)
    assert served == 32 * 40
    assert refused <= 0.05 * served
    assert served * 1.2 / 8 / seconds > 0.9, "share of the endpoint's throughput"
    assert max(waits) < 3 * sum(waits) / len(waits)


def test_never_grows_without_bound() -> None:
    async def test() -> None:
        limiter = Limiter(start=LARGEST)
        await limiter.release(await limiter.acquire(0), "ok")
        assert limiter.stats.limit == LARGEST

    run(test)
