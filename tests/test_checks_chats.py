"""The conformance checks of language models: ours pass, over HTTP too, and every kind of fault is found."""

import threading

import pytest

from dgym import checks, registry
from dgym.chat.client import OpenAIChat, Tally, _value
from dgym.chat.config import ChatConfig
from dgym.chat.errors import LostAnswerError
from dgym.chat.ledger import current_purpose, note
from dgym.chat.record import Request
from dgym.chat.session import current
from dgym.checks import check_chat
from dgym.core import Call
from dgym.errors import TeacherError, UsageError
from dgym.fake_chat import FakeChat

NOTED = "it tells what every call took: model, purpose and tokens"


def failed(findings, *, warning=False):
    return [f"{f.name} | {f.detail}" for f in findings if not f.ok and f.warning == warning]


@pytest.mark.parametrize("name", ["openai:gpt-4o-mini", "vllm:org/model", "hf:org/model"])
def test_what_ships_conforms_without_asking_anybody(name, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    findings = checks.check("chat", name)
    assert [f for f in findings if not f.ok] == []
    assert len(findings) == 7


@pytest.mark.parametrize("name", ["fake", "stand-in"])
def test_what_ships_for_tests_conforms_and_takes_no_tokens(name):
    findings = checks.check("chat", name)
    assert failed(findings) == []
    assert [f.name for f in findings if not f.ok] == [NOTED]


def test_every_provider_that_ships_is_checked():
    assert set(registry.BUILTIN["chat"]) == {"openai", "vllm", "hf", "fake", "stand-in"}


@pytest.mark.parametrize("structured", ["schema", "text"])
def test_an_endpoint_conforms(serve_openai, structured):
    server = serve_openai(structured=structured)
    findings = checks.check("chat", "openai:stand-in", deep=True)
    assert [f for f in findings if not f.ok] == []
    assert len(findings) > 15
    assert server.seen.requests > 10


def test_an_endpoint_that_cannot_be_asked_is_a_finding(serve_openai):
    serve_openai()
    (fault,) = failed(checks.check("chat", "openai:other", deep=True))
    assert "it says that it can be asked" in fault
    assert "has no model 'other'" in fault


def test_a_provider_without_a_model_is_the_callers_error():
    with pytest.raises(UsageError, match="Name a model"):
        checks.check("chat", "openai")
    with pytest.raises(UsageError, match="Did you mean 'stand-in'"):
        checks.check("chat", "standin")


class Sound(FakeChat):
    """A language model without faults, in parts that can be replaced."""

    def complete(self, messages, schema, seed):
        answer = super().complete(messages, schema, seed)
        note(Call(current_purpose(), self.model, tokens_in=3, tokens_out=2))
        return answer


def test_the_sound_chat_is_sound():
    findings = check_chat(Sound(), Sound)
    assert failed(findings) == failed(findings, warning=True) == []


counter = iter(range(1_000_000))
kept: dict = {}


def shares_answers(self, messages, schema, seed):
    if seed not in kept:
        kept[seed] = Sound.complete(self, messages, schema, seed)
    return kept[seed]


def changes_the_schema(self, messages, schema, seed):
    answer = Sound.complete(self, messages, schema, seed)
    schema["title"] = str(next(counter))
    return answer


def stumbles_in_threads(self, messages, schema, seed):
    answer = Sound.complete(self, messages, schema, seed)
    if threading.current_thread() is not threading.main_thread():
        answer["categories"] = [str(next(counter))]
    return answer


def answers_all(self, messages, schema, seed):
    try:
        return Sound.complete(self, messages, schema, seed)
    except TeacherError:
        return {"said": "something"}


def fails_anyhow(self, messages, schema, seed):
    try:
        return Sound.complete(self, messages, schema, seed)
    except TeacherError as error:
        raise ValueError("no") from error


def reads_no_pictures(self, messages, schema, seed):
    assert not messages[-1].images
    return Sound.complete(self, messages, schema, seed)


def is_moody(self, messages, schema, seed):
    return {name: [str(next(counter))] if name == "categories" else [] for name in schema["properties"]}


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"__init__": lambda self: FakeChat.__init__(self, model=" ")}, "its name is empty"),
        ({"digest": property(lambda self: str(next(counter)))}, "digest is stable | asked again"),
        ({"complete": lambda self, m, s, seed: {"categories": "sums"}}, "a list of names fits the schema"),
        ({"complete": lambda self, m, s, seed: {"categories": []}}, "a list of records fits the schema"),
        ({"complete": lambda self, m, s, seed: {"categories": ("a",)}}, "a list of names fits the schema"),
        ({"complete": is_moody}, "the same question"),
        ({"complete": changes_the_schema}, "messages or schema have changed"),
        ({"complete": shares_answers}, "what is done to an answer shows in the next"),
        ({"complete": stumbles_in_threads}, "asked by many threads"),
        ({"complete": answers_all}, "what no answer fits | it answers"),
        ({"complete": fails_anyhow}, "what no answer fits | it raises ValueError"),
        ({"complete": reads_no_pictures}, "a picture"),
        ({"check": lambda self: 1 / 0}, "it can be asked"),
    ],
)
def test_a_fault_is_found(members, name):
    broken = type("Broken", (Sound,), members)()
    faults = failed(check_chat(broken))
    first, _, rest = name.partition(" | ")
    assert any(first in f and rest in f for f in faults), faults


def test_what_is_no_chat_is_found():
    assert "it has a model's name" in failed(check_chat(object()))[0]


def test_a_digest_that_differs_when_made_anew_is_found():
    def make():
        return FakeChat(model=f"fake-{next(counter)}")

    assert any("made anew" in f for f in failed(check_chat(make(), make)))


@pytest.mark.parametrize(
    ("call", "detail"),
    [
        (None, "it noted 2 calls"),
        (Call("check", "other"), "the call is of 'other'"),
        (Call("", "fake", tokens_in=1, tokens_out=1), "for ''"),
        (Call("check", "fake", tokens_out=1), "no tokens were read"),
        (Call("check", "fake", tokens_in=1), "no tokens were written"),
        (Call("check", "fake", "invalid", 1, 1), "the outcome is 'invalid'"),
    ],
)
def test_calls_that_are_told_wrongly_are_found(call, detail):
    class Lying(FakeChat):
        def complete(self, messages, schema, seed):
            for _ in range(1 if call else 2):
                note(call or Call("check", "fake", tokens_in=1, tokens_out=1))
            return super().complete(messages, schema, seed)

    findings = check_chat(Lying())
    assert failed(findings) == []
    assert any(NOTED in f and detail in f for f in failed(findings, warning=True))


class Recorded(OpenAIChat):
    """A client of one's own, in parts that can be replaced."""

    def __init__(self):
        super().__init__(ChatConfig(name="mine", model="stand-in", endpoint="http://127.0.0.1:9/v1"))


async def no_repair(self, messages, schema, seed, tally):
    del tally
    return await OpenAIChat._converse(self, messages, schema, seed, Tally())


async def anything(self, messages, schema, seed, tally):
    try:
        return await OpenAIChat._converse(self, messages, schema, seed, tally)
    except LostAnswerError as error:
        return {"lost": error.reason}


async def asks_the_same_again(self, messages, schema, seed, tally):
    for attempt in (0, 1):
        reply = await self._answer(Request(self.digest, tuple(messages), schema, seed, attempt), tally)
        tally.add(reply)
        try:
            return _value(reply, schema)
        except LostAnswerError:
            if attempt:
                raise
    raise AssertionError("the second attempt returns or raises")


async def miscounted(self, messages, schema, seed, tally):
    try:
        return await OpenAIChat._converse(self, messages, schema, seed, tally)
    finally:
        tally.requests = 1


async def nothing_of_it(self, messages, schema, seed, tally):
    await OpenAIChat._converse(self, messages, schema, seed, tally)
    return {"categories": []}


async def no_reason(self, messages, schema, seed, tally):
    try:
        return await OpenAIChat._converse(self, messages, schema, seed, tally)
    except LostAnswerError as error:
        raise LostAnswerError(str(error), "rejected") from error


@pytest.mark.parametrize(
    ("converse", "name"),
    [
        (no_repair, "one mistake is repaired | no tokens were read"),
        (asks_the_same_again, "one mistake is repaired | the second does not say what was wrong"),
        (miscounted, "one mistake is repaired | it counts 1 requests, not 2"),
        (nothing_of_it, "many threads get each its own answer | 8 got another's"),
        (nothing_of_it, "one mistake is repaired | another value comes of it"),
        (anything, "prose, twice, is a lost answer, 'no-json' | it answers"),
        (anything, "nothing, twice, is a lost answer, 'empty' | it answers"),
        (no_reason, "JSON of another form, twice, is a lost answer, 'invalid' | the reason is 'rejected'"),
    ],
)
def test_a_fault_of_a_recorded_chat_is_found(converse, name):
    assert failed(check_chat(Recorded())) == []
    broken = type("Broken", (Recorded,), {"_converse": converse})()
    faults = failed(check_chat(broken))
    assert name in " ".join(faults), faults


def test_a_record_that_is_not_used_is_found(serve_openai):
    server = serve_openai()

    class Forgetful(Recorded):
        def __init__(self):
            super().__init__()
            self.config = self.config.model_copy(update={"endpoint": server.url})
            self._endpoint = server.url

        async def _answer(self, request, tally):
            if current().instead is not None:
                return await super()._answer(request, tally)
            tally.requests += 1
            return await self._send(request, tally)

    faults = failed(check_chat(Forgetful(), deep=True))
    assert any("not asked again (--replay on) | the endpoint was asked" in f for f in faults), faults
    assert any("strict replay | it answers all the same" in f for f in faults), faults
