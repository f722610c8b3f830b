"""What a process's language-model calls have in common: the record, the limiters, the purse, the servers.

A run sets it once in each of its processes (`use`), before the first call; without that, calls are recorded in
the cache folder, limited within the process and not limited in cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from dgym.chat.errors import SpendingStoppedError
from dgym.chat.limiter import LEASE, Limiter, Limits
from dgym.chat.servers import LocalServers
from dgym.core import Message

Replay = Literal["on", "strict", "off"]
"""`on` answers from the record where it can; `strict` never calls out; `off` asks anew and records."""

REPLAYS: Final[tuple[Replay, ...]] = ("on", "strict", "off")


@dataclass(frozen=True)
class Settings:
    """What a person chose for the language-model calls of a run.

    Attributes:
        replay: How the record is used.
        record: The record's folder; in the cache folder unless given.
        max_cost: Most US dollars that the run may spend; `None` for no limit.
        max_tokens: Most tokens, read and written, that the run may spend; `None` for no limit.
    """

    replay: Replay = "on"
    record: str | None = None
    max_cost: float | None = None
    max_tokens: int | None = None


DEFAULT: Final = Settings()
"""The settings where nobody chose any."""


@dataclass(frozen=True)
class Rates:
    """Limits of an endpoint on one model, for its limiter.

    Attributes:
        start: Requests in flight at first.
        requests_per_minute: As the endpoint has it, if so.
        tokens_per_minute: As the endpoint has it, if so.
    """

    start: float = 20.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Purse(Protocol):
    """Counts what a run has spent; here or in another process."""

    async def check(self) -> str:
        """Returns why nothing more may be spent; empty while something may."""
        ...

    async def spend(self, tokens: int, cost: float) -> None:
        """Counts what a request that was really sent has cost."""
        ...


class LocalPurse:
    """Counts in this process.

    Args:
        settings: The limits.

    Attributes:
        tokens: Spent so far, read and written.
        cost: Spent so far, in US dollars.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tokens, self.cost = 0, 0.0

    async def check(self) -> str:
        """See `Purse.check`. Requests in flight when a limit is reached are still paid for."""
        limits = self._settings
        if limits.max_cost is not None and self.cost >= limits.max_cost:
            return f"The run has spent ${self.cost:.4f} of the ${limits.max_cost:g} that --max-cost allows."
        if limits.max_tokens is not None and self.tokens >= limits.max_tokens:
            return f"The run has spent {self.tokens:,} of the {limits.max_tokens:,} tokens of --max-teacher-tokens."
        return ""

    async def spend(self, tokens: int, cost: float) -> None:
        """See `Purse.spend`."""
        self.tokens += tokens
        self.cost += cost


class Limiters(Protocol):
    """Gives every (endpoint, model) its limiter."""

    def of(self, key: str, rates: Rates) -> Limits:
        """Returns the limiter of a key; the rates count when it is made."""
        ...


class LocalLimiters:
    """Limiters within this process.

    Args:
        first: See `Limiter`.
        lease: See `Limiter`.
    """

    def __init__(self, first: int = 0, lease: float = LEASE) -> None:
        self.made: dict[str, Limiter] = {}
        self._first, self._lease = first, lease

    def of(self, key: str, rates: Rates) -> Limiter:
        """See `Limiters.of`."""
        if key not in self.made:
            limits = rates.requests_per_minute, rates.tokens_per_minute
            self.made[key] = Limiter(rates.start, *limits, lease=self._lease, first=self._first)
        return self.made[key]


class Servers(Protocol):
    """Gives every model of one's own its server; here or in another process."""

    def address(self, model: str) -> str:
        """Returns the base URL of a model's server, once it can be asked; may take minutes."""
        ...

    def stop(self) -> None:
        """Stops the servers that this process started; those of other processes go on."""
        ...


@dataclass(frozen=True)
class Session:
    """See the module's text.

    Attributes:
        settings: What a person chose.
        limiters: Where limiters are found.
        purse: What counts the spending; one in this process, with the settings' limits, unless given.
        instead: Answers in place of every endpoint, for estimates: nothing is sent, recorded or spent.
        servers: Where models of one's own are served; by this process unless given.
    """

    settings: Settings = DEFAULT
    limiters: Limiters = field(default_factory=LocalLimiters)
    purse: Purse | None = None
    instead: Callable[[Sequence[Message], Mapping[str, Any]], str] | None = None
    servers: Servers = field(default_factory=LocalServers)

    def __post_init__(self) -> None:
        if self.purse is None:
            object.__setattr__(self, "purse", LocalPurse(self.settings))

    @property
    def folder(self) -> Path | None:
        """The record's folder, if one was chosen."""
        return Path(self.settings.record) if self.settings.record else None

    async def may_spend(self) -> None:
        """Checks the purse.

        Raises:
            SpendingStoppedError: If nothing more may be spent.
        """
        assert self.purse is not None
        why = await self.purse.check()
        if why:
            raise SpendingStoppedError(why)

    async def spent(self, tokens: int, cost: float) -> None:
        """Counts what a request has cost."""
        assert self.purse is not None
        await self.purse.spend(tokens, cost)


_CURRENT = Session()


def current() -> Session:
    """Returns this process's session."""
    return _CURRENT


def begin(session: Session) -> None:
    """Sets this process's session for good; worker processes of a run do that."""
    global _CURRENT  # noqa: PLW0603
    _CURRENT = session


@contextmanager
def use(session: Session) -> Iterator[Session]:
    """Sets this process's session for a while, and stops its servers then."""
    before = current()
    begin(session)
    try:
        yield session
    finally:
        begin(before)
        if session is not before:
            session.servers.stop()
