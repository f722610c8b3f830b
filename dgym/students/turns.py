"""Who may use a device: one student at a time, the one that had least of it first.

Students on one device take turns call by call. Of those that wait, the one that was served the fewest seconds goes
first, so that none waits behind another's long list; equal ones go in the order in which they came. Work that the
device does for several students at once, such as answers through an engine that batches them itself, shares a turn.

Two rules keep anyone from waiting for ever. Who comes back after a pause is taken as served at least as much as the
one that was let in last: what was not asked for cannot be saved up and then be spent at the others' expense. And who
is new stands behind all that wait already, or a stream of new students could pass an old one for ever. This is
start-time fair queueing (Goyal, Vin and Cheng 1996), with calls for packets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Turn:
    who: str
    ticket: int
    shared: bool
    counted: bool
    admitted: bool = False


@dataclass(eq=False)
class Turns:
    """A fair lock over a device, for threads. A thread may take a turn within its own.

    Attributes:
        served: Seconds that each student had the device; those that shared it had equal parts. See the module for
            what is added after a pause.
        now: The clock, in seconds.
    """

    served: dict[str, float] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    _waiting: list[_Turn] = field(default_factory=list)
    _active: list[_Turn] = field(default_factory=list)
    _held: dict[int, _Turn] = field(default_factory=dict)  # by thread
    _tickets: int = 0
    _level: float = 0.0  # what the one that was let in last had been served
    _settled: float = 0.0
    _since: float | None = None  # when the device began to work, if it does
    _busy: list[tuple[float, float]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def alone(self, who: str, *, counted: bool = True) -> Iterator[None]:
        """Holds the device alone.

        Args:
            who: Name of the student; one device knows no other of that name.
            counted: Whether the device works meanwhile. Loading a model keeps the others out, but is no student's time.

        Raises:
            RuntimeError: If the thread shares a turn already; it would wait for itself.
        """
        with self._turn(who, shared=False, counted=counted):
            yield

    @contextmanager
    def shared(self, who: str) -> Iterator[None]:
        """Holds the device together with others that share it; nobody holds it alone meanwhile.

        Args:
            who: See `alone`.
        """
        with self._turn(who, shared=True, counted=True):
            yield

    def forget(self, who: str) -> None:
        """Forgets a student that is gone."""
        with self._changed:
            self.served.pop(who, None)

    def waiting(self) -> list[str]:
        """Returns who waits, whoever goes first being first."""
        with self._changed:
            return [turn.who for turn in sorted(self._waiting, key=self._rank)]

    def busy(self) -> list[tuple[float, float]]:
        """Returns when the device worked, as (start, end) by the clock, one after the other and up to now.

        Waiting for a turn is not in it, and turns that overlap are in it once.
        """
        with self._changed:
            return [*self._busy, *([(self._since, self.now())] if self._since is not None else [])]

    @contextmanager
    def _turn(self, who: str, *, shared: bool, counted: bool) -> Iterator[None]:
        thread = threading.get_ident()
        held = self._held.get(thread)
        if held is not None:
            if held.shared and not shared:
                raise RuntimeError("A shared turn cannot become a turn alone.")
            yield
            return
        turn = self._enter(who, shared, counted)
        self._held[thread] = turn
        try:
            yield
        finally:
            del self._held[thread]
            self._leave(turn)

    def _enter(self, who: str, shared: bool, counted: bool) -> _Turn:
        with self._changed:
            if who in self.served:
                self.served[who] = max(self.served[who], self._level)
            else:
                self.served[who] = max([self._level, *(self._of(t) for t in self._waiting)])
            self._tickets += 1
            turn = _Turn(who, self._tickets, shared, counted)
            self._waiting.append(turn)
            try:
                self._admit()
                while not turn.admitted:
                    self._changed.wait()
            except BaseException:
                # A turn that nobody takes would hold up all others.
                if turn.admitted:
                    self._leave(turn)
                else:
                    self._waiting.remove(turn)
                    self._admit()
                raise
            return turn

    def _admit(self) -> None:
        """Lets in whose turn it is: the first, and with one that shares all that wait to share."""
        while self._waiting:
            first = min(self._waiting, key=self._rank)
            if self._active and not (first.shared and all(t.shared for t in self._active)):
                return
            self._settle()
            for turn in [t for t in self._waiting if t.shared] if first.shared else [first]:
                self._level = max(self._level, self._of(turn))
                self._waiting.remove(turn)
                self._active.append(turn)
                turn.admitted = True
            self._mark()
            self._changed.notify_all()

    def _rank(self, turn: _Turn) -> tuple[float, int]:
        return self._of(turn), turn.ticket

    def _of(self, turn: _Turn) -> float:
        return self.served.get(turn.who, self._level)

    def _leave(self, turn: _Turn) -> None:
        with self._changed:
            self._settle()
            self._active.remove(turn)
            self._mark()
            self._admit()

    def _settle(self) -> None:
        """Writes the time since the last change to the account of those that had the device."""
        now = self.now()
        working = [t.who for t in self._active if t.counted]
        for who in working:
            if who in self.served:
                self.served[who] += max(0.0, now - self._settled) / len(working)
        self._settled = now

    def _mark(self) -> None:
        """Notes when the device begins or ends to work; right after `_settle`."""
        works = any(t.counted for t in self._active)
        if works and self._since is None:
            self._since = self._settled
        elif not works and self._since is not None:
            self._busy.append((self._since, self._settled))
            self._since = None


_OF_DEVICE: dict[str, Turns] = {}
_LOCK = threading.Lock()


def turns_of(device: str) -> Turns:
    """Returns the turns of a device, one object per process: all models on it share them.

    Args:
        device: Such as `"cpu"` or `"cuda:1"`; `"cuda"` is the first one.
    """
    with _LOCK:
        return _OF_DEVICE.setdefault(f"{device}:0" if device == "cuda" else device, Turns())
