"""A teacher as the loop sees it, whose policy and engine live in another process.

What this module does not know: how the process is confined, and the bytes of the protocol.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from dgym import registry
from dgym.chat import digest_of, find_chat
from dgym.chat.ledger import recording
from dgym.core import Brief, Chat, Example, Message, Plan, PlanItem, State, Teacher, Written
from dgym.errors import DgymError, TeacherError, UsageError
from dgym.isolation.places import Place, place_of
from dgym.isolation.process import Answerer, Limits, TeacherProcess
from dgym.isolation.protocol import VERSION, ProtocolError, decode, encode
from dgym.teachers import make_teacher

PREFIX: Final = registry.ISOLATED

SPARE: Final = 2
"""Processes that wait to be asked: one for the next plan, and one for its items."""

MAX_CONCURRENCY: Final = 16
"""Most processes for the items of one batch."""


@dataclass(frozen=True)
class Hello:
    """What a teacher says of itself.

    Attributes:
        version: Bumped by its author whenever scores would move.
        environments: Those that it enters.
        privileged: Whether it says that it uses a domain's own generators.
        state_blind: Whether it looks at no state.
        concurrency: How many items it wants worked on at a time.
    """

    version: str
    environments: tuple[str, ...]
    privileged: bool = False
    state_blind: bool = False
    concurrency: int = 1

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Hello:
        """Reads a reply to `hello`.

        Raises:
            TeacherError: If it does not say what it must.
        """
        entered, version, concurrency = (reply.get(key) for key in ("environments", "version", "concurrency"))
        known = registry.names("environment")
        if not isinstance(entered, list) or not entered or not all(isinstance(name, str) for name in entered):
            raise TeacherError(f"The teacher does not say which environments it enters; there are {', '.join(known)}.")
        if not isinstance(version, str | int | float) or isinstance(version, bool):
            raise TeacherError("The teacher does not say which version it is.")
        if concurrency is not None and not isinstance(concurrency, int):
            raise TeacherError("The teacher's concurrency is no whole number.")
        return cls(
            version=str(version)[:40],
            environments=tuple(name for name in entered if name in known),
            privileged=reply.get("privileged") is True,
            state_blind=reply.get("state_blind") is True,
            concurrency=min(MAX_CONCURRENCY, max(1, concurrency or 1)),
        )


def isolated(
    teacher: str = "",
    grant: Sequence[str] = (),
    limits: Mapping[str, Any] | None = None,
    packages: str = "",
    **params: Any,
) -> Teacher:
    """Makes a teacher whose policy and engine run in the sandbox.

    Args:
        teacher: What is isolated: `path/to/file.py:Attr`, a folder, or a registered name.
        grant: Names of the language models that it may ask, such as `"openai:gpt-4o-mini"`; none by default.
        limits: Fields of `Limits` that differ.
        packages: Folder of the Python packages that it may import.
        params: Keyword arguments of the teacher itself.

    Raises:
        UsageError: If there is no such teacher, or if it cannot be started; the message has its own last words.
        SandboxError: If nothing can be isolated on this machine.
    """
    if not teacher:
        raise UsageError(f"Say what to isolate: {PREFIX}path/to/file.py:Attr, {PREFIX}FOLDER or {PREFIX}NAME.")
    grant = (grant,) if isinstance(grant, str) else tuple(grant)
    place = place_of(teacher, params, packages)
    if refused := [name for name in place.endpoints if name not in grant]:
        wanted = json.dumps(list(place.endpoints))
        raise UsageError(
            f"The teacher {place.label!r} asks for {refused[0]!r}. To grant it: `dgym bench --grant {refused[0]}`, or "
            f"`dgym run --param grant='{wanted}'`."
        )
    chats = {name: find_chat(name) for name in grant}
    home = _Home(place, Limits.of(limits or {}), _answerer(chats), params)
    hello = _hello(home)
    moved = {"protocol": VERSION, "chats": sorted(digest_of(chat) for chat in chats.values())}
    if place.trusted:
        inner = make_teacher(teacher, params)
        return replace(
            inner,
            policies={name: _Policy(home) for name in inner.policies},
            engine=_Engine(home, inner.concurrency),
            version=f"{inner.version} isolated {VERSION}",
            twin="",
        )
    return Teacher(
        name=f"{PREFIX}{place.label}",
        policies={name: _Policy(home) for name in hello.environments},
        engine=_Engine(home, hello.concurrency),
        version=f"{hello.version} {place.digest} {json.dumps(moved, sort_keys=True)}",
        privileged=hello.privileged,
        state_blind=hello.state_blind,
        chats=tuple(chats.values()),
        concurrency=hello.concurrency,
    )


class _Home:
    """Starts a teacher's processes, and keeps some ready for whoever asks next."""

    def __init__(self, place: Place, limits: Limits, answer: Answerer, params: Mapping[str, Any]) -> None:
        self.place, self.limits, self.params = place, limits, dict(params)
        self._answer = answer
        self._reset()
        _homes.add(self)

    def _reset(self) -> None:
        self._lock = threading.Condition()
        self._ready: list[TeacherProcess] = []
        self._starting = 0
        self._closed = False

    def start(self) -> TeacherProcess:
        """Starts a process and has it make its teacher.

        Raises:
            TeacherError: If it cannot be made.
        """
        process = TeacherProcess(self.place.command, self.limits, self._answer)
        try:
            process.hello(self.params)
        except BaseException:
            process.close()
            raise
        return process

    def take(self) -> TeacherProcess:
        """Returns a fresh process, which belongs to the caller; starts the next ones meanwhile.

        Raises:
            TeacherError: If the teacher cannot be made.
        """
        with self._lock:
            while not self._ready and self._starting:
                self._lock.wait()
            process = self._ready.pop() if self._ready else None
        process = process or self.start()
        self.prepare()
        return process

    def prepare(self) -> None:
        """Begins to start processes, so that nobody waits for them."""
        with self._lock:
            while len(self._ready) + self._starting < SPARE and not self._closed:
                self._starting += 1
                threading.Thread(target=self._prepare, daemon=True).start()

    def _prepare(self) -> None:
        process = None
        try:
            process = self.start()
        except DgymError:
            pass  # whoever needs one tries again, and is told
        finally:
            with self._lock:
                self._starting -= 1
                if process is not None and not self._closed:
                    self._ready.append(process)
                    process = None
                self._lock.notify_all()
        if process is not None:
            process.close()

    def close(self) -> None:
        """Ends the processes that wait; there will be no others."""
        with self._lock:
            processes, self._ready, self._closed = self._ready, [], True
        for process in processes:
            process.close()

    def __del__(self) -> None:
        self.close()

    def abandon(self) -> None:
        """Forgets what another process started; called in a fork of it."""
        processes = self._ready
        self._reset()
        for process in processes:
            process.forget()


class _Policy:
    """Asks a process for plans; see `dgym.core.Policy`."""

    def __init__(self, home: _Home) -> None:
        self._home = home

    def plan(self, brief: Brief, state: State) -> Plan:
        """Returns the process's plan.

        Raises:
            TeacherError: If it gives none.
        """
        process = self._home.take()
        try:
            reply = process.ask("plan", brief=encode(brief), state=encode(state))
        finally:
            process.close()
        if reply.get("type") != "plan":
            raise TeacherError(f"The teacher answered 'plan' with {str(reply.get('type'))[:40]!r}.")
        try:
            return decode(Plan, reply.get("plan"))
        except ProtocolError as error:
            raise TeacherError(f"The teacher's plan cannot be used: {error}.") from error


class _Engine:
    """Has a process write examples; see `dgym.core.Engine`."""

    def __init__(self, home: _Home, concurrency: int) -> None:
        self._home, self._concurrency = home, concurrency

    def generate(self, brief: Brief, item: PlanItem) -> Sequence[Example]:
        """Writes the examples of one item; what is no example comes back as it is, for the gate to judge.

        Raises:
            TeacherError: If the process fails.
        """
        (written,) = self.generate_all(brief, [item])
        if written.error is not None:
            raise written.error
        return written.examples

    def generate_all(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        """Writes the examples of many items, each process several of them; results keep their order."""
        many = min(self._concurrency, len(items))
        if many <= 1:
            return self._batch(brief, items)
        with ThreadPoolExecutor(many) as pool:
            parts = list(pool.map(lambda first: self._batch(brief, items[first::many]), range(many)))
        out = [Written()] * len(items)
        for first, part in enumerate(parts):
            out[first::many] = part
        return out

    def _batch(self, brief: Brief, items: Sequence[PlanItem]) -> list[Written]:
        if not items:
            return []
        told = encode(brief)
        try:
            process = self._home.take()
        except DgymError as error:
            return [Written(error=error)] * len(items)
        try:
            return [self._written(process, told, item) for item in items]
        finally:
            process.close()

    @staticmethod
    def _written(process: TeacherProcess, brief: Any, item: PlanItem) -> Written:
        examples: tuple[Any, ...] = ()
        error: DgymError | None = None
        with recording() as calls:
            try:
                reply = process.ask("generate", brief=brief, item=encode(item))
                if reply.get("type") != "examples" or not isinstance(reply.get("examples"), list):
                    raise TeacherError(f"The teacher answered 'generate' with {str(reply.get('type'))[:40]!r}.")
                examples = tuple(_example(value) for value in islice(reply["examples"], item.count))
            except DgymError as raised:
                error = raised
        return Written(examples, error, tuple(calls))


def _example(value: Any) -> Any:
    """Makes an example of JSON values, or leaves them: the gate calls what is no example malformed."""
    try:
        return decode(Example, value)
    except ProtocolError:
        return value


def _answerer(chats: Mapping[str, Chat]) -> Answerer:
    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        name = question.get("model")
        chat = chats.get(name) if isinstance(name, str) else None
        if chat is None:
            granted = ", ".join(chats) or "none"
            return {"error": f"The language model {str(name)[:80]!r} was not granted; granted: {granted}."}
        messages, schema, seed = (question.get(key) for key in ("messages", "schema", "seed"))
        try:
            if not isinstance(messages, list) or not isinstance(schema, dict) or not isinstance(seed, int):
                raise ProtocolError("a question has a list of messages, a schema and a whole number as seed")
            asked = [decode(Message, message) for message in messages]
        except ProtocolError as error:
            return {"error": f"The question cannot be asked: {error}."}
        try:
            return {"value": chat.complete(asked, schema, seed)}
        except TeacherError as error:
            return {"error": str(error)}

    return answer


def _hello(home: _Home) -> Hello:
    place = home.place
    if place.trusted:
        return Hello("", ())
    key = json.dumps([place.label, place.digest, list(place.command.words)])
    found = _known.get(key)
    if found is None:
        try:
            process = home.start()
        except TeacherError as error:
            raise UsageError(f"The teacher {place.label!r} cannot be made in isolation. {error}") from error
        try:
            found = _known.setdefault(key, Hello.of(process.hello(home.params)))
        except TeacherError as error:
            raise UsageError(f"The teacher {place.label!r} cannot be made in isolation. {error}") from error
        finally:
            process.close()
    if not found.environments:
        names = ", ".join(registry.names("environment"))
        raise UsageError(f"The teacher {place.label!r} enters no environment that dgym knows; there are {names}.")
    return found


_known: dict[str, Hello] = {}
_homes: weakref.WeakSet[_Home] = weakref.WeakSet()


def _each(act: Callable[[_Home], None]) -> None:
    for home in list(_homes):
        act(home)


atexit.register(_each, _Home.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=functools.partial(_each, _Home.abandon))
