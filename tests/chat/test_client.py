"""The client against a real HTTP server: structured output, repairs, faults, the record, the purse, one-line errors."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dgym.chat import find_chat, session
from dgym.chat.client import OpenAIChat
from dgym.chat.config import ChatConfig, configured
from dgym.chat.errors import LOSSES, ChatSetupError, LostAnswerError, SpendingStoppedError
from dgym.chat.ledger import concurrently, purpose, recording
from dgym.core import Message
from dgym.errors import DgymError, UsageError
from dgym.fakes import FakeDomain
from tests.chat.conftest import ANSWER, ASKED, KIND


def test_an_answer_fits_the_schema_and_is_accounted_for(serve) -> None:
    server, chat = serve()
    with recording() as calls, purpose("merge"):
        assert chat.complete(ASKED, KIND, 7) == ANSWER
    (call,) = calls
    assert (call.purpose, call.model, call.outcome, call.requests) == ("merge", "openai:stand-in", "ok", 1)
    assert call.tokens_in > 10
    assert call.tokens_out > 3
    assert call.cost == 0.0
    assert not call.cache_hit
    (body,) = server.seen.bodies
    assert body["temperature"] == 0.0
    assert body["seed"] == 7
    assert body["response_format"]["json_schema"]["schema"] == KIND


@pytest.mark.parametrize("structured", ["json", "text"])
def test_an_endpoint_without_schemas_is_asked_in_words(serve, structured: str) -> None:
    server, chat = serve(structured=structured)
    assert chat.complete(ASKED, KIND, 1) == ANSWER
    assert server.seen.bodies[-1].get("response_format", {}).get("type", "text") == {"json": "json_object"}.get(
        structured, "text"
    )
    before = server.seen.requests
    chat.complete(ASKED, KIND, 2)
    assert server.seen.requests == before + 1, "what was learnt of the endpoint is remembered"


@pytest.mark.parametrize("fault", ["429", "429-retry-after", "500", "cut"])
def test_transient_faults_are_tried_again(serve, fault: str) -> None:
    server, chat = serve(faults=(fault,), every=2)
    with recording() as calls:
        for seed in range(4):
            assert chat.complete(ASKED, KIND, seed) == ANSWER
    assert server.seen.faults[fault] >= 2
    assert sum(call.requests for call in calls) == 4 + server.seen.faults[fault]
    assert {call.outcome for call in calls} == {"ok"}


def test_a_request_that_hangs_is_given_up_and_sent_again(serve) -> None:
    server, chat = serve({"timeout": 0.3}, faults=("hang",), every=2, hang=5.0)
    chat.complete(ASKED, KIND, 1)
    assert chat.complete(ASKED, KIND, 2) == ANSWER
    assert server.seen.faults == {"hang": 1}


@pytest.mark.parametrize("fault", ["truncated", "schema", "prose"])
def test_an_unusable_answer_is_repaired_once(serve, fault: str) -> None:
    server, chat = serve(faults=(fault,), every=2)
    chat.complete(ASKED, KIND, 1)
    with recording() as calls:
        assert chat.complete(ASKED, KIND, 2) == ANSWER
    assert calls[0].requests == 2
    said = server.seen.bodies[-1]["messages"]
    assert [m["role"] for m in said] == ["user", "assistant", "user"]
    assert "Answer again" in said[-1]["content"]


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [("truncated", "truncated", 2), ("schema", "invalid", 2), ("prose", "no-json", 2), ("refusal", "refused", 1)],
)
def test_an_answer_that_stays_unusable_is_lost_with_its_reason(serve, fault: str, reason: str, requests: int) -> None:
    _, chat = serve(faults=(fault,), every=1)
    with recording() as calls, pytest.raises(LostAnswerError) as caught:
        chat.complete(ASKED, KIND, 1)
    assert caught.value.reason == reason in LOSSES
    assert [(call.outcome, call.requests) for call in calls] == [(reason, requests)]


@pytest.mark.parametrize(("fault", "reason"), [("500", "server-error"), ("hang", "timeout"), ("429", "rate-limited")])
def test_a_fault_that_stays_is_a_loss(serve, fault: str, reason: str) -> None:
    _, chat = serve({"retries": 2, "timeout": 0.2, "patience": 0.1}, faults=(fault,), every=1, hang=1.0)
    with pytest.raises(LostAnswerError) as caught:
        chat.complete(ASKED, KIND, 1)
    assert caught.value.reason == reason


def test_pictures_are_sent(serve, one_pixel: bytes) -> None:
    server, chat = serve()
    chat.complete([Message("user", ASKED[0].content, (one_pixel,))], KIND, 1)
    parts = server.seen.bodies[-1]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"]
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.fixture
def one_pixel() -> bytes:
    from PIL import Image

    from dgym.domains.scenes import encode

    return encode(Image.new("RGB", (1, 1)))


# Plain text --------------------------------------------------------------------------------------------------------

PROBLEM = FakeDomain().problems("feedback")[0]
TEXT = [Message("user", PROBLEM.prompt)]


def test_plain_text_is_what_was_said_and_is_accounted_for(serve) -> None:
    server, chat = serve({"temperature": 0.5, "max_tokens": 9})
    with recording() as calls, purpose("answer"):
        assert chat.write(TEXT, 3) == PROBLEM.reference
    (call,) = calls
    assert (call.purpose, call.model, call.outcome, call.requests) == ("answer", "openai:stand-in", "ok", 1)
    assert call.tokens_in > 0
    (body,) = server.seen.bodies
    assert body["messages"] == [{"role": "user", "content": PROBLEM.prompt}]
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0.5, 3, 9)
    assert "response_format" not in body


def test_plain_text_is_recorded_apart_from_json(serve, tmp_path: Path) -> None:
    server, chat = serve()
    assert chat.sends(TEXT, 1)
    for _ in range(2):
        assert chat.write(TEXT, 1) == PROBLEM.reference
    assert not chat.sends(TEXT, 1)
    assert chat.sends(TEXT, 2)
    assert server.seen.requests == 1
    (file,) = (tmp_path / "record").glob("*/*.json")
    assert json.loads(file.read_text())["reply"]["text"] == PROBLEM.reference
    chat.complete(ASKED, KIND, 1)
    chat.write(ASKED, 1)
    assert server.seen.requests == 3
    record = str(tmp_path / "record")
    with session.use(session.Session(session.Settings(replay="strict", record=record))):
        assert not chat.sends(TEXT, 2)
        with pytest.raises(ChatSetupError, match="without --replay strict"):
            chat.write(TEXT, 2)
    with session.use(session.Session(session.Settings(replay="off", record=record))):
        assert chat.sends(TEXT, 1)
    with session.use(session.Session(instead=lambda messages, schema: "counted")):
        assert not chat.sends(TEXT, 2)
        assert chat.write(TEXT, 2) == "counted"
    assert server.seen.requests == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [("refusal", "I cannot help with that."), ("truncated", PROBLEM.reference[: len(PROBLEM.reference) // 2])],
)
def test_plain_text_is_never_repaired(serve, fault: str, said: str) -> None:
    server, chat = serve(faults=(fault,), every=1)
    assert chat.write(TEXT, 1) == said
    assert server.seen.requests == 1


@pytest.mark.parametrize(("fault", "reason"), [("500", "server-error"), ("hang", "timeout"), ("429", "rate-limited")])
def test_plain_text_that_never_comes_is_a_loss(serve, fault: str, reason: str) -> None:
    _, chat = serve({"retries": 1, "timeout": 0.2, "patience": 0.1}, faults=(fault,), every=1, hang=1.0)
    with recording() as calls, pytest.raises(LostAnswerError) as caught:
        chat.write(TEXT, 1)
    assert caught.value.reason == reason == calls[0].outcome


def test_half_of_a_surrogate_pair_is_left_nowhere(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    _, chat = serve()
    monkeypatch.setattr("dgym.chat_server._solution", lambda asked: "one \ud83d two")
    assert chat.write(TEXT, 1) == chat.write(TEXT, 1) == "one ? two"


# What an endpoint does not take ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rejects", [("max_completion_tokens",), ("seed",), ("seed", "max_completion_tokens")])
def test_of_many_first_requests_each_is_sent_again_without_what_is_not_taken(serve, rejects: tuple[str, ...]) -> None:
    server, chat = serve(rejects=rejects, latency=0.02)
    assert concurrently(lambda seed: chat.complete(ASKED, KIND, seed), list(range(20))) == [ANSWER] * 20
    assert not set(rejects) & set(server.seen.bodies[-1])


def test_a_temperature_that_is_not_taken_is_left_out_of_plain_text_only(serve) -> None:
    server, chat = serve(rejects=("temperature",), latency=0.02)
    said = concurrently(lambda seed: chat.write(TEXT, seed), list(range(20)))
    assert said == [PROBLEM.reference] * 20
    assert "temperature" not in server.seen.bodies[-1]
    with pytest.raises(ChatSetupError, match="Set temperature"):
        chat.complete(ASKED, KIND, 1)


# The record --------------------------------------------------------------------------------------------------------


def test_a_recorded_answer_is_not_asked_for_again(serve) -> None:
    server, chat = serve()
    with recording() as calls:
        for _ in range(3):
            assert chat.complete(ASKED, KIND, 1) == ANSWER
        chat.complete(ASKED, KIND, 2)
    assert server.seen.requests == 2
    assert [call.cache_hit for call in calls] == [False, True, True, False]
    assert len({(call.tokens_in, call.tokens_out, call.cost) for call in calls}) == 1


def test_a_repaired_answer_is_recorded_with_what_went_before(serve) -> None:
    server, chat = serve(faults=("prose",), every=1)
    with pytest.raises(LostAnswerError):
        chat.complete(ASKED, KIND, 1)
    asked = server.seen.requests
    with recording() as calls, pytest.raises(LostAnswerError):
        chat.complete(ASKED, KIND, 1)
    assert server.seen.requests == asked
    assert calls[0].cache_hit


def test_a_strict_replay_asks_nobody_and_fails_on_a_miss(serve, tmp_path: Path) -> None:
    server, chat = serve()
    chat.complete(ASKED, KIND, 1)
    record = str(tmp_path / "record")
    with session.use(session.Session(session.Settings(replay="strict", record=record))):
        assert chat.complete(ASKED, KIND, 1) == ANSWER
        with pytest.raises(ChatSetupError, match="without --replay strict"):
            chat.complete(ASKED, KIND, 2)
    with session.use(session.Session(session.Settings(replay="off", record=record))):
        chat.complete(ASKED, KIND, 1)
    assert server.seen.requests == 2


@pytest.mark.parametrize("content", ["", "{", '{"reply": {"nonsense": 1}}', "\x00"])
def test_a_broken_record_is_no_record(serve, tmp_path: Path, content: str) -> None:
    server, chat = serve()
    chat.complete(ASKED, KIND, 1)
    (file,) = (tmp_path / "record").glob("*/*.json")
    file.write_text(content)
    assert chat.complete(ASKED, KIND, 1) == ANSWER
    assert server.seen.requests == 2


def test_anything_that_can_move_an_answer_is_another_record(serve) -> None:
    server, chat = serve()
    others = [
        chat,
        OpenAIChat(chat.config.model_copy(update={"temperature": 0.5})),
        OpenAIChat(chat.config.model_copy(update={"extra": {"top_k": 1}})),
        OpenAIChat(chat.config.model_copy(update={"max_tokens": 99})),
    ]
    for one in others:
        one.complete(ASKED, KIND, 1)
    chat.complete([Message("system", "Be brief."), *ASKED], KIND, 1)
    chat.complete(ASKED, {**KIND, "description": "x"}, 1)
    assert server.seen.requests == 6
    assert OpenAIChat(chat.config.model_copy(update={"timeout": 9.0, "retries": 1})).digest == chat.digest


def test_no_key_in_the_record_or_in_an_error(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "sk-canary-0123456789"
    monkeypatch.setenv("DGYM_TEST_KEY", canary)
    _, chat = serve(key=canary)
    chat.complete(ASKED, KIND, 1)
    assert all(canary not in f.read_text() for f in (tmp_path / "record").glob("*/*.json"))
    monkeypatch.setenv("DGYM_TEST_KEY", "sk-wrong-canary")
    with pytest.raises(ChatSetupError) as caught:
        chat.complete(ASKED, KIND, 2)
    assert "sk-wrong-canary" not in str(caught.value)
    assert "$DGYM_TEST_KEY" in str(caught.value)


# The purse ---------------------------------------------------------------------------------------------------------


def test_the_purse_stops_the_spending_and_lets_the_record_answer(serve, tmp_path: Path) -> None:
    server, chat = serve()
    chat.complete(ASKED, KIND, 1)
    limited = session.Session(session.Settings(record=str(tmp_path / "record"), max_tokens=1))
    with session.use(limited):
        chat.complete(ASKED, KIND, 1)  # recorded: costs nothing
        chat.complete(ASKED, KIND, 2)
        with pytest.raises(SpendingStoppedError, match="max-teacher-tokens"):
            chat.complete(ASKED, KIND, 3)
        chat.complete(ASKED, KIND, 2)
    assert server.seen.requests == 2
    assert limited.purse.tokens > 1


def test_the_purse_counts_dollars(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["dear"]\nin = 1000.0\nout = 0.0\n')
    monkeypatch.setenv("DGYM_PRICES", str(prices))
    _, chat = serve({"name": "dear"})
    with session.use(session.Session(session.Settings(record=str(tmp_path / "r"), max_cost=0.001))) as mine:
        with recording() as calls:
            chat.complete(ASKED, KIND, 1)
        assert calls[0].cost == pytest.approx(calls[0].tokens_in / 1000)
        assert mine.purse.cost == calls[0].cost
        with pytest.raises(SpendingStoppedError, match="max-cost"):
            chat.complete(ASKED, KIND, 2)


# One line for a person ---------------------------------------------------------------------------------------------


def one_line_of(chat: OpenAIChat, *, check: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        chat.check() if check else chat.complete(ASKED, KIND, 1)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_no_key() -> None:
    chat = OpenAIChat(ChatConfig(name="openai:gpt-4o", model="gpt-4o", key="DGYM_NO_SUCH_KEY"))
    for check in (True, False):
        assert "set $DGYM_NO_SUCH_KEY" in one_line_of(chat, check=check)


@pytest.mark.parametrize("check", [True, False])
def test_wrong_key(serve, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    monkeypatch.setenv("DGYM_TEST_KEY", "sk-bad")
    _, chat = serve(key="sk-good")
    assert "set $DGYM_TEST_KEY to a valid key" in one_line_of(chat, check=check)


def test_unknown_model(serve) -> None:
    _, chat = serve({"model": "stand-on"})
    assert "Did you mean 'stand-in'?" in one_line_of(chat, check=True)
    assert "no model 'stand-on' (404)" in one_line_of(chat)


def test_unreachable_host() -> None:
    chat = OpenAIChat(ChatConfig(model="x", endpoint="http://127.0.0.1:9/v1", retries=1))
    for check in (True, False):
        assert "Nobody answers at http://127.0.0.1:9/v1" in one_line_of(chat, check=check)


def test_exhausted_quota(serve) -> None:
    _, chat = serve(quota=0)
    assert "add credit" in one_line_of(chat)


def test_a_host_that_went_away_is_a_loss_not_a_mistake_of_the_person(serve) -> None:
    server, chat = serve({"retries": 1})
    chat.complete(ASKED, KIND, 1)
    server.__exit__()
    with pytest.raises(LostAnswerError) as caught:
        chat.complete(ASKED, KIND, 2)
    assert caught.value.reason == "connection"


# By name -----------------------------------------------------------------------------------------------------------


def test_models_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    chat = find_chat("openai:gpt-4o")
    assert isinstance(chat, OpenAIChat)
    assert (chat.model, chat.config.endpoint, chat.config.model) == ("openai:gpt-4o", "http://here/v1", "gpt-4o")
    file = tmp_path / "mine.toml"
    file.write_text('[local]\nmodel = "qwen"\nendpoint = "http://there/v1"\ntemperature = 0.7\n')
    monkeypatch.setenv("DGYM_CHATS", str(file))
    chat = find_chat("local")
    assert (chat.model, chat.config.endpoint, chat.config.temperature) == ("local", "http://there/v1", 0.7)
    assert find_chat("fake").model == "fake"
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        find_chat("locale")
    with pytest.raises(UsageError, match="Name a model"):
        find_chat("openai")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nmodle = 'x'", "Did you mean 'model'"),
        ("[a]\nmodel = 'x'\ntemperature = -1", "'temperature'"),
        ("a = 1", "must be a table"),
        ("[a", "not valid TOML"),
    ],
)
def test_a_malformed_file_of_models_is_explained(monkeypatch, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    monkeypatch.setenv("DGYM_CHATS", str(file))
    with pytest.raises(UsageError, match=message):
        configured()


# The ledger --------------------------------------------------------------------------------------------------------


def test_calls_made_in_threads_stand_in_the_order_of_the_work(serve) -> None:
    _, chat = serve()
    gate = threading.Barrier(3)

    def work(seed: int) -> int:
        gate.wait(5)
        with purpose(f"p{seed}"):
            chat.complete(ASKED, KIND, seed)
        if seed == 1:
            raise ValueError("seed 1")
        return seed

    with recording() as calls:
        first, second, third = concurrently(work, [0, 1, 2])
    assert (first, third) == (0, 2)
    assert isinstance(second, ValueError)
    assert [call.purpose for call in calls] == ["p0", "p1", "p2"]


def test_errors_survive_a_pipe() -> None:
    import pickle

    for error in (LostAnswerError("x", "refused"), ChatSetupError("y"), SpendingStoppedError("z")):
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, DgymError)
        assert (str(again), getattr(again, "reason", "")) == (str(error), getattr(error, "reason", ""))


def test_the_record_is_json_that_a_person_can_read(serve, tmp_path: Path) -> None:
    _, chat = serve()
    chat.complete(ASKED, KIND, 1)
    (file,) = (tmp_path / "record").glob("*/*.json")
    stored = json.loads(file.read_text())
    assert stored["chat"]["model"] == "stand-in"
    assert stored["request"]["messages"][0]["content"] == ASKED[0].content
    assert json.loads(stored["reply"]["text"]) == ANSWER


def test_the_first_calls_of_many_threads_share_one_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    import time

    from dgym.chat import client

    made, new = [], asyncio.new_event_loop

    def slow() -> asyncio.AbstractEventLoop:
        time.sleep(0.05)  # others come meanwhile
        made.append(new())
        return made[-1]

    monkeypatch.setattr(client, "_LOOPS", [])
    monkeypatch.setattr(client.asyncio, "new_event_loop", slow)
    loops = concurrently(lambda _: client._loop(), list(range(8)))
    assert len(made) == 1
    assert set(loops) == set(made)
