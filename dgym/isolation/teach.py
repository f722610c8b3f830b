"""A teacher's own process, for teachers in Python: makes the teacher and answers requests until there are none.

Started by `dgym.isolation.process` as `main(WHAT)`, where WHAT says which teacher. Beside the standard library it sees
the records (`dgym.core`), the protocol, the teacher's files and the packages that it declares.

What this module does not know: isolation, and whoever asks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dgym.core import Brief, PlanItem, State, Teacher
from dgym.errors import one_line
from dgym.isolation import inside_chat
from dgym.isolation.protocol import VERSION, ProtocolError, decode, encode, from_line, to_line


def main(what: Mapping[str, Any]) -> None:
    """Serves one teacher.

    Args:
        what: `{"teacher": "FILE.py:Attr" | "MODULE:Attr" | NAME, "params": {...}, "trusted": bool}`; a NAME is one that
            this installation of dgym knows, and needs `trusted`.
    """
    replies = os.fdopen(os.dup(1), "wb")
    # What a teacher or its libraries print must not get among the replies.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(lambda: _teacher(what), sys.stdin.buffer, replies)


def serve(make: Callable[[], Teacher], requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until there are none, or `bye` comes.

    Args:
        make: Makes the teacher, at the first request.
        requests: Where they come from.
        replies: Where replies go.
    """
    teacher: Teacher | None = None
    calls = itertools.count()

    def send(message: Mapping[str, Any]) -> None:
        replies.write(to_line(message))
        replies.flush()

    while line := requests.readline():
        request = from_line(line)
        if request.get("type") == "bye":
            return
        number = request.get("id")

        def exchange(question: dict[str, Any], number: Any = number) -> dict[str, Any]:
            call = next(calls)
            send({"id": number, "type": "chat", "call": call, **question})
            answer = from_line(requests.readline())
            if answer.get("type") != "chat" or answer.get("call") != call:
                raise ProtocolError("the answer to a question did not come")
            return answer

        inside_chat.exchange = exchange
        try:
            teacher = teacher or make()
            reply = to_line({"id": number, **_answer(teacher, request)})
        except Exception as error:
            reply = to_line({"id": number, "type": "error", "message": one_line(error)[:2000]})
        replies.write(reply)
        replies.flush()


def _answer(teacher: Teacher, request: Mapping[str, Any]) -> dict[str, Any]:
    kind = request.get("type")
    if kind == "hello":
        if request.get("protocol") != VERSION:
            raise ProtocolError(f"this teacher speaks version {VERSION} of the protocol, not {request.get('protocol')}")
        return {
            "type": "hello",
            "protocol": VERSION,
            "version": teacher.version,
            "environments": sorted(teacher.policies),
            "privileged": teacher.privileged,
            "state_blind": teacher.state_blind,
            "concurrency": teacher.concurrency,
        }
    brief = decode(Brief, request.get("brief"))
    if kind == "plan":
        policy = teacher.policies[brief.environment]
        return {"type": "plan", "plan": encode(policy.plan(brief, decode(State, request.get("state"))))}
    if kind == "generate":
        item = decode(PlanItem, request.get("item"))
        examples = itertools.islice(teacher.engine.generate(brief, item), item.count)
        return {"type": "examples", "examples": [_example(example) for example in examples]}
    raise ProtocolError(f"there is no request {kind!r}")


def _example(example: Any) -> Any:
    """Renders an example; what is none goes over as text, to be judged malformed like any other."""
    with contextlib.suppress(Exception):
        value = encode(example)
        to_line({"example": value})
        return value
    return repr(type(example))


def _teacher(what: Mapping[str, Any]) -> Teacher:
    """Makes the teacher that a process is for."""
    name, params = str(what["teacher"]), dict(what.get("params") or {})
    if what.get("trusted"):
        from dgym.teachers import make_teacher

        return make_teacher(name, params)
    place, _, attribute = name.rpartition(":")
    made = getattr(_module(place), attribute)
    if callable(made) and not isinstance(made, Teacher):
        made = made(**params)
    teacher = Teacher.of(made, attribute, ("open-ended", "skill-list", "skill-tree"))
    if teacher is None:
        raise TypeError(f"{attribute} is a {type(made).__name__}; it must be a dgym.Teacher, or plan and generate")
    return teacher


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    # Modules beside a file are found as they are when it is run, also later: a teacher may import when it is asked.
    sys.path.insert(0, str(Path(place).parent))
    spec = importlib.util.spec_from_file_location("teacher", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["teacher"] = module
    spec.loader.exec_module(module)
    return module
