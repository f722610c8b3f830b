"""A run's sign of life: one small file in its folder that says, every few seconds, what the run is doing.

The process that drives a run replaces `status.json` as a whole, so that whoever can read the folder can watch the run
without asking it (`dgym.status`). Losing a beat harms nothing: the record of what is done are the results. It knows
neither Ray nor how episodes run.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from os import PathLike
from types import TracebackType
from typing import Final, Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from dgym.errors import DgymError, one_line
from dgym.results.place import Place
from dgym.results.schema import PLANNED
from dgym.specs import Identity
from dgym.students.host import HostNow

FILE: Final = "status.json"
"""The file's name in a run's folder."""

EVERY: Final = 5.0
"""Seconds between two beats."""

NO_EPISODE: Final = "no episode left to start"
"""Why a host or a GPU is idle at the end of a run."""

_STARTING: Final = "starting"
_UNPLACED: Final = "waiting for a machine with room"
_WAITING: Final = "waiting for teachers"


@dataclass(frozen=True)
class Running:
    """An episode that goes on.

    Attributes:
        digest: Which one.
        label: The same for people.
        iteration: Its latest finished iteration.
        iterations: How many it is to have.
        score: Selection score of that iteration, in [0, 1].
    """

    digest: str
    label: str
    iteration: int
    iterations: int
    score: float


@dataclass(frozen=True)
class Hosts:
    """What the student hosts are doing just now.

    Attributes:
        count: How many there are.
        busy: How many of them train or answer.
        idle: How many of the others there are, by reason.
        gpus: GPUs that there are for the run.
        gpus_held: How many of them the hosts hold, whether or not they compute just now.
        unheld: Why the others are held by none; empty where there are no others.
    """

    count: int
    busy: int
    idle: Mapping[str, int] = field(default_factory=dict)
    gpus: float = 0.0
    gpus_held: float = 0.0
    unheld: str = ""


@runtime_checkable
class Watched(Protocol):
    """A backend that can say what its hosts are doing."""

    def hosts_now(self) -> Hosts | None:
        """Looks; `None` where there are none yet. It is called from a thread of its own, and may take seconds."""
        ...


@dataclass(frozen=True)
class Beat:
    """What the file says.

    Attributes:
        state: `"running"`; `"ended"` when all episodes were tried; `"stopped"` when the run ended before that.
        started_at: When the run began, in ISO format.
        updated_at: When this was written.
        every: Seconds after which the next one is due.
        host: Name of the machine that drives the run.
        pid: Id of the process there.
        backend: Where the episodes run.
        total: Episodes of the run.
        before: How many of them were finished before it began.
        ok: How many finished since.
        failed: How many failed since.
        share: Part of the work that was to do which is done, in [0, 1], by what is expected of each episode.
        running: The episodes that go on and have finished an iteration.
        hosts: The student hosts; `None` where that is not known.
        reason: Why the run stopped; else empty.
    """

    state: Literal["running", "ended", "stopped"]
    started_at: str
    updated_at: str
    every: float
    host: str
    pid: int
    backend: str
    total: int
    before: int
    ok: int
    failed: int
    share: float
    running: tuple[Running, ...] = ()
    hosts: Hosts | None = None
    reason: str = ""


def read(folder: str | PathLike[str]) -> Beat | None:
    """Returns the latest beat of a run; `None` where there is none that this version can read."""
    try:
        return TypeAdapter(Beat).validate_json(Place.of(folder).read(FILE))
    except (OSError, ValidationError):
        return None


def at_work(hosts: Sequence[HostNow | None], waiting: int, unplaced: int = 0) -> Hosts:
    """Counts busy and idle hosts, and says why those that are idle are.

    Args:
        hosts: What each says of itself; `None` for one that has not begun to answer.
        waiting: Episodes that no host has been asked for yet.
        unplaced: How many of those that have not begun to answer wait for a machine.
    """
    idle: Counter[str] = Counter()
    for host in hosts:
        if host is None:
            idle[_UNPLACED if idle[_UNPLACED] < unplaced else _STARTING] += 1
        elif host.working:
            continue
        elif host.opening:
            idle[_STARTING] += 1
        elif host.tenants:
            idle[_WAITING] += 1
        else:
            idle[_STARTING if waiting else NO_EPISODE] += 1
    return Hosts(len(hosts), len(hosts) - idle.total(), dict(+idle))


def work_done(work: Mapping[str, float], ended: Sequence[str], running: Mapping[str, tuple[int, int]]) -> float:
    """Returns the part of the expected work that is done, in [0, 1]: short episodes count little.

    Args:
        work: Expected work of each episode.
        ended: Those that ended.
        running: Latest and last iteration of those that go on; each iteration trains on all data so far.
    """
    total = sum(work.values())
    done = sum(work[digest] for digest in ended)
    for digest, (iteration, iterations) in running.items():
        done += work[digest] * iteration * (iteration + 1) / max(1, (iterations + 1) * (iterations + 2))
    return done / total if total else 1.0


class Heartbeat:
    """Writes the beats of a run, from a thread of its own, between `__enter__` and `__exit__`.

    Args:
        folder: The run's folder.
        todo: The episodes that are to run.
        work: Expected work of each, by digest.
        total: Episodes of the run, those finished before among them.
        backend: Where the episodes run: an object that may be `Watched`.
        every: Seconds between two beats; `EVERY` by default.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        todo: Sequence[Identity],
        work: Mapping[str, float],
        total: int,
        backend: object,
        every: float | None = None,
    ) -> None:
        self._place, self._backend = Place.of(folder), backend
        self._every = EVERY if every is None else every
        self._todo = {identity.digest: identity for identity in todo}
        self._work, self._total = dict(work), total
        self._started = _now()
        self._running: dict[str, Running] = {}
        self._ended: dict[str, bool] = {}
        self._lock = threading.Lock()  # of the two above
        self._writing = threading.Lock()  # the last beat must stay the last
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dgym-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Writes the first beat, and goes on."""
        self._write("running", None)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the last beat, which says how the run ended."""
        self._stop.set()
        # One that looks at hosts which are gone by now would be waited for in vain.
        self._thread.join(timeout=2 * self._every)
        if error is None:
            self._write("ended", None)
        else:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else _plain(error)
            self._write("stopped", None, reason)

    def iteration(self, digest: str, iteration: int, score: float) -> None:
        """Takes note of an episode's iteration."""
        identity = self._todo.get(digest)
        if identity is None:
            return
        running = Running(digest, identity.label, iteration, identity.spec.rules.iterations, score)
        with self._lock:
            self._running[digest] = running

    def ended(self, digest: str, ok: bool) -> None:
        """Takes note of an episode's end."""
        with self._lock:
            self._running.pop(digest, None)
            if digest in self._todo:
                self._ended[digest] = ok

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            self._write("running", self._hosts())

    def _hosts(self) -> Hosts | None:
        if not isinstance(self._backend, Watched):
            return None
        try:
            return self._backend.hosts_now()
        except Exception:  # a run does not end because somebody looks at it
            return None

    def _write(self, state: Literal["running", "ended", "stopped"], hosts: Hosts | None, reason: str = "") -> None:
        with self._lock:
            running, ended = dict(self._running), dict(self._ended)
        places = {digest: (r.iteration, r.iterations) for digest, r in running.items()}
        beat = Beat(
            state=state,
            started_at=self._started,
            updated_at=_now(),
            every=self._every,
            host=platform.node(),
            pid=os.getpid(),
            backend=type(self._backend).__name__.removesuffix("Backend").lower(),
            total=self._total,
            before=self._total - len(self._todo),
            ok=sum(ended.values()),
            failed=len(ended) - sum(ended.values()),
            share=round(work_done(self._work, [*ended], places), 6),
            running=tuple(running.values()),
            hosts=hosts,
            reason=reason,
        )
        with self._writing, suppress(DgymError):
            if self._stop.is_set() and state == "running":
                return
            # A folder that vanished is not made anew: the run has to notice.
            if self._place.is_file(PLANNED):
                self._place.write(json.dumps(asdict(beat), ensure_ascii=False), FILE)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _plain(error: BaseException) -> str:
    return one_line(error)[:300] if isinstance(error, DgymError) else type(error).__name__
