"""Checks of a language model: the protocol, structured output, what is told of its calls, and how it fails.

What is asked is what skill discovery asks, so that every model can answer it, those that ship for tests included. A
model whose answers are recorded (`dgym.chat.client.RecordedChat`) is checked without asking its endpoint: a script
answers in its place. A deep check asks the endpoint too. Any other model is simply asked, some twenty short questions.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

from dgym.chat import digest_of
from dgym.chat.client import RecordedChat
from dgym.chat.errors import LOSSES, LostAnswerError
from dgym.chat.ledger import concurrently, purpose, recording
from dgym.chat.session import Session, Settings, current, use
from dgym.chat.structured import misfit
from dgym.checks.findings import Finding, Report, require
from dgym.core import Call, Chat, Checks, Message
from dgym.errors import DgymError, TeacherError, one_line

_NAMES: Final = {"type": "array", "items": {"type": "string"}, "maxItems": 3}
_ENTRY: Final = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "skill": {"type": "string"}},
    "required": ["id", "skill"],
    "additionalProperties": False,
}


def _object(**properties: Any) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_SYSTEM: Final = Message("system", "You answer in JSON.")
_MERGE: Final = "Group these labels into at most 3 categories.\n{}"
_ASSIGN: Final = "Say which category each problem is of.\n{}"

_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "a list of names": _object(categories=_NAMES),
    "a list of records": _object(skills={"type": "array", "items": _ENTRY}),
}

_GOOD: Final = {"categories": ["sums"]}
_REPAIRED: Final = (f"Of course!\n```json\n{json.dumps(_GOOD)}\n```", json.dumps(_GOOD))

_LOST: Final[Mapping[str, tuple[str, str]]] = {
    "prose": ("I would rather not say.", "no-json"),
    "JSON of another form": ('{"other": 1}', "invalid"),
    "nothing": ("", "empty"),
}


def _question(number: int, what: str = "a list of names") -> tuple[list[Message], Mapping[str, Any], int]:
    """Returns messages, schema and seed of a question that is like no other number's."""
    if what == "a list of names":
        rows = [{"label": f"label {number} {i}"} for i in range(3)]
        text = _MERGE
    else:
        rows = [{"category": "sums"}, {"category": "words"}]
        rows += [{"id": i, "problem": f"What is {number} plus {i}?"} for i in range(2)]  # type: ignore[dict-item]
        text = _ASSIGN
    said = text.format("\n".join(json.dumps(row) for row in rows))
    # A copy: who changes a schema should not change the next question.
    return [_SYSTEM, Message("user", said)], deepcopy(_SCHEMAS[what]), 100 + number


def check_chat(chat: Chat, again: Callable[[], Chat] | None = None, *, deep: bool = False) -> list[Finding]:
    """Checks a language model.

    Args:
        chat: What `dgym.chat.find_chat` returns.
        again: Makes it anew, to see whether it is told apart from others by what it is.
        deep: Whether to ask an endpoint that is not on this machine too, which may cost something.
    """
    report = Report()
    with report("it has a model's name, and complete(messages, schema, seed)"):
        require(isinstance(chat, Chat), f"{type(chat).__name__} does not; see dgym.core.Chat")
        require(isinstance(chat.model, str) and bool(chat.model.strip()), "its name is empty")
    if not report.sound:
        return report.findings
    with report("its digest is stable"):
        digest = digest_of(chat)
        require(digest_of(chat) == digest, "asked again, it differs")
        require(again is None or digest_of(again()) == digest, "made anew, it has another")
    if isinstance(chat, RecordedChat):
        _check_scripted(report, chat)
        if not deep:
            return report.findings
    if isinstance(chat, Checks):
        with report("it says that it can be asked"):
            chat.check()
        if not report.sound:
            return report.findings
    if not isinstance(chat, RecordedChat):
        _check_asked(report, chat)
        return report.findings
    with tempfile.TemporaryDirectory(prefix="dgym-check-") as folder:
        with _settings(Settings(record=folder)):
            _check_asked(report, chat)
        _check_record(report, chat, folder)
    return report.findings


def _check_asked(report: Report, chat: Chat) -> None:
    """Checks what comes of real questions."""
    first: Any = None
    for number, what in enumerate(_SCHEMAS):
        with report(f"{what} fits the schema that it is asked in"):
            messages, schema, seed = _question(number, what)
            value = chat.complete(messages, schema, seed)
            wrong = misfit(value, schema)
            require(not wrong, f"it does not, {wrong}")
            require(json.loads(json.dumps(value, allow_nan=False)) == value, "it is not made of JSON values")
            first = deepcopy(value) if first is None else first  # the asker may do with an answer what it likes
    if not report.sound:
        return
    with report("the same question with the same seed gets the same answer"):
        require(chat.complete(*_question(0)) == first, "asked again, it answers otherwise")
    with report("it leaves questions as they were, and its answers are the asker's own"):
        messages, schema, seed = _question(0)
        said = list(messages), json.dumps(schema)
        answer = chat.complete(tuple(messages), schema, seed)
        require((messages, json.dumps(schema)) == said, "messages or schema have changed")
        answer.clear()
        require(chat.complete(messages, schema, seed) == first, "what is done to an answer shows in the next")
    with report("asked by many threads, it answers each as it would alone"):
        numbers = [*range(6)] * 2
        answers = concurrently(lambda number: chat.complete(*_question(number)), numbers)
        for error in (a for a in answers if isinstance(a, Exception)):
            raise error
        require(answers[:6] == answers[6:] and answers[0] == first, "the answers differ")
    with report("it tells what every call took: model, purpose and tokens", warning=True):
        with recording() as calls, purpose("check"):
            chat.complete(*_question(7))
        require(len(calls) == 1, f"it noted {len(calls)} calls; see dgym.chat.ledger.note")
        _check_call(calls[0], "ok", model=chat.model)
    with report("what no answer fits is a TeacherError, and no answer"):
        both = {"type": "string", "minLength": 5, "maxLength": 1}
        _fails(lambda: chat.complete([Message("user", "Say something.")], _object(said=both), 1))
    with report("a picture is answered, or declined by a DgymError"):
        messages, schema, seed = _question(8)
        with suppress(DgymError):
            chat.complete([*messages[:-1], replace(messages[-1], images=(_picture(),))], schema, seed)


def _check_scripted(report: Report, chat: RecordedChat) -> None:
    """Checks a model whose answers are recorded, with a script in place of its endpoint."""
    with report("answered by a script: JSON is found in what a model says, and one mistake is repaired"):
        with _script("What?", _REPAIRED[0]) as asked, recording() as calls, purpose("check"):
            require(chat.complete(*_question(0)) == _GOOD, "another value comes of it")
        require(len(asked) == 2, f"{len(asked)} requests were made of it")
        require(len(asked[1]) > len(asked[0]), "the second does not say what was wrong")
        require(len(calls) == 1, f"it noted {len(calls)} calls")
        _check_call(calls[0], "ok", model=chat.model, requests=2)
    for what, (said, reason) in _LOST.items():
        with report(f"answered by a script: {what}, twice, is a lost answer, {reason!r}"):
            with _script(said, said), recording() as calls, purpose("check"):
                error = _fails(lambda: chat.complete(*_question(0)))
            require(isinstance(error, LostAnswerError), f"it is a {type(error).__name__}")
            found = getattr(error, "reason", "")
            require(found in LOSSES and found == reason, f"the reason is {found!r}")
            require(len(calls) == 1, f"it noted {len(calls)} calls")
            _check_call(calls[0], reason, model=chat.model, requests=2)
    with report("answered by a script: many threads get each its own answer"):

        def echo(messages: Sequence[Message], _: Mapping[str, Any]) -> str:
            return json.dumps({"categories": [str(hash(messages[-1].content))]})

        with use(replace(current(), instead=echo)):
            numbers = range(8)
            answers = concurrently(lambda number: chat.complete(*_question(number)), numbers)
        expected = [{"categories": [str(hash(_question(n)[0][-1].content))]} for n in numbers]
        require(answers == expected, f"{sum(a != e for a, e in zip(answers, expected, strict=True))} got another's")


def _check_record(report: Report, chat: RecordedChat, folder: str) -> None:
    """Checks the record that earlier questions left in a folder."""
    answers = {}
    for replay in ("on", "strict"):
        with report(f"what was recorded is not asked again (--replay {replay})"):
            with _settings(Settings(replay, folder)), recording() as calls:
                answers[replay] = chat.complete(*_question(0))
            require(len(calls) == 1 and calls[0].cache_hit, "the endpoint was asked")
    with report("the record gives the same answers however it is used"):
        require(len(answers) == 2 and answers["on"] == answers["strict"], "they differ")
    with report("what was not recorded is no answer in a strict replay"), _settings(Settings("strict", folder)):
        try:
            chat.complete(*_question(99))
        except DgymError:
            return
        require(False, "it answers all the same")


def _check_call(call: Call, outcome: str, *, model: str, requests: int = 0) -> None:
    require((call.model, call.purpose) == (model, "check"), f"the call is of {call.model!r} for {call.purpose!r}")
    require(call.outcome == outcome, f"the outcome is {call.outcome!r}, not {outcome!r}")
    require(call.tokens_in > 0, "no tokens were read")
    require(call.tokens_out > 0 or outcome == "empty", "no tokens were written")
    require(not requests or call.requests == requests, f"it counts {call.requests} requests, not {requests}")


def _fails(act: Callable[[], Any]) -> TeacherError:
    """Does what has to fail, and returns how it does."""
    try:
        value = act()
    except TeacherError as error:
        return error
    except Exception as error:
        raise TeacherError(f"it raises {one_line(error)}, and no TeacherError") from error
    raise TeacherError(f"it answers {str(value)[:80]!r}")


@contextmanager
def _settings(settings: Settings) -> Iterator[None]:
    with use(Session(settings)):
        yield


@contextmanager
def _script(*answers: str) -> Iterator[list[Sequence[Message]]]:
    """Has a script answer for every endpoint; what was asked is kept."""
    left, asked = list(answers), []

    def answer(messages: Sequence[Message], _: Mapping[str, Any]) -> str:
        asked.append(messages)
        return left.pop(0)

    with use(replace(current(), instead=answer)):
        yield asked


def _picture() -> bytes:
    """Returns a small grey picture."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()
