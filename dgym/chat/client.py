"""The language-model client: OpenAI's protocol, over any endpoint that speaks it.

A call is one question with an answer in JSON. It may take several requests: transient failures are tried again, and
an answer that does not fit is repaired once, by telling the model what was wrong. Plain text (`write`) is taken as it
comes. Every request passes the limiter that all callers of the endpoint's model share, and every answer is recorded.

The official asynchronous client does the talking, on one event loop in a thread of its own, so that any number of
threads can wait for their answers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from dgym.chat.config import OPENAI, ChatConfig
from dgym.chat.errors import ChatSetupError, LostAnswerError
from dgym.chat.ledger import current_purpose, note
from dgym.chat.limiter import Outcome
from dgym.chat.prices import price_of
from dgym.chat.record import Record, Reply, Request, estimate_tokens
from dgym.chat.session import Rates, current
from dgym.chat.structured import extract, misfit
from dgym.core import Call, Message
from dgym.errors import one_line

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

PLAIN: Final[Mapping[str, Any]] = {"type": "string", "contentMediaType": "text/plain"}
"""The schema of requests that are answered in plain text; the endpoint is not told of it."""

IN_WORDS: Final = "Answer with JSON that fits this JSON schema and nothing else:"
"""What stands before the schema where the endpoint is not told of it."""

_MODES: Final = ("schema", "json", "text")
_BACKOFF: Final = (0.25, 20.0)  # seconds: the first wait, the longest
_LONGEST_WAIT: Final = 300.0  # of a Retry-After that is honoured
_HINTS: Final = ("response_format", "json_schema", "json_object", "schema", "guided", "structured")


@dataclass
class Tally:
    """What one call has taken so far.

    Attributes:
        requests: Requests sent, or answered from the record.
        sent: Requests sent.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        tokens_cached: Tokens read from the provider's cache.
    """

    requests: int = 0
    sent: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0

    def add(self, reply: Reply) -> None:
        """Adds what an answer took."""
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.tokens_cached += reply.tokens_cached


@dataclass
class _Learnt:
    """What was learnt of an endpoint's model by asking it."""

    mode: str = ""
    limit_field: str = "max_completion_tokens"
    seeded: bool = True
    tempered: bool = True
    answered: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class RecordedChat(ABC):
    """A `dgym.core.Chat` whose answers are recorded, repaired once, and accounted for, whoever gives them.

    Args:
        config: Which model, where, and how.

    Attributes:
        model: The config's name for it.
        config: The config.
    """

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        self.model = config.name or config.model

    @property
    def digest(self) -> str:
        """Identifies all that can move an answer."""
        return self.config.digest

    def complete(self, messages: Sequence[Message], schema: Mapping[str, Any], seed: int) -> Any:
        """Returns a JSON value that fits the schema; see `dgym.core.Chat.complete`.

        Raises:
            LostAnswerError: If the model gives none; the reason is one of `dgym.chat.errors.LOSSES`.
            SpendingStoppedError: If the run may spend nothing more.
            ChatSetupError: If no call can succeed: key, model, address, quota, or a strict replay without a record.
        """
        return self._accounted(lambda tally: self._converse(list(messages), schema, seed, tally))

    def write(self, messages: Sequence[Message], seed: int) -> str:
        """Returns what the model says, in plain text and as it says it.

        Nothing is repaired: an answer that the config's `max_tokens` cuts ends there, and one that declines is what
        the model says to decline, which may be nothing. A model that takes no temperature is asked at its own.

        Raises:
            LostAnswerError: If the endpoint gives no answer.
            SpendingStoppedError: As for `complete`.
            ChatSetupError: As for `complete`.
        """
        return self._accounted(lambda tally: self._say(self._plain(messages, seed), tally))

    def sends(self, messages: Sequence[Message], seed: int) -> bool:
        """Whether `write` would ask the endpoint, because the record has no answer or is not to be used."""
        session = current()
        if session.instead is not None or session.settings.replay == "strict":
            return False
        return session.settings.replay == "off" or Record(session.folder).find(self._plain(messages, seed)) is None

    def _accounted(self, work: Callable[[Tally], Coroutine[Any, Any, T]]) -> T:
        """Does the work of one call, and notes what it took."""
        start, tally, outcome = time.perf_counter(), Tally(), ""
        try:
            value = _run(work(tally))
            outcome = "ok"
            return value
        except LostAnswerError as error:
            outcome = error.reason
            raise
        finally:
            if outcome:  # else nothing came of it that a table should know
                price = price_of(self.model)
                tokens = (tally.tokens_in, tally.tokens_out, tally.tokens_cached)
                note(
                    Call(
                        purpose=current_purpose(),
                        model=self.model,
                        outcome=outcome,
                        tokens_in=tally.tokens_in,
                        tokens_out=tally.tokens_out,
                        tokens_cached=tally.tokens_cached,
                        requests=tally.requests,
                        cache_hit=tally.requests > 0 and tally.sent == 0,
                        cost=price.of(*tokens) if price else None,
                        seconds=time.perf_counter() - start,
                    )
                )

    async def _converse(self, messages: list[Message], schema: Mapping[str, Any], seed: int, tally: Tally) -> Any:
        for attempt in (0, 1):
            request = Request(self.digest, tuple(messages), schema, seed, attempt)
            reply = await self._answer(request, tally)
            tally.add(reply)
            try:
                return _value(reply, schema)
            except LostAnswerError as error:
                if attempt or error.reason == "refused":
                    raise
                said = reply.text or "(nothing)"
                messages = [*messages, Message("assistant", said), Message("user", _repair(str(error)))]
        raise AssertionError("the second attempt returns or raises")

    def _plain(self, messages: Sequence[Message], seed: int) -> Request:
        return Request(self.digest, tuple(messages), PLAIN, seed)

    async def _say(self, request: Request, tally: Tally) -> str:
        reply = await self._answer(request, tally)
        tally.add(reply)
        # Half of a surrogate pair, which JSON can spell, is in no file that is written later.
        return (reply.text or reply.refusal).encode("utf-8", "replace").decode()

    async def _answer(self, request: Request, tally: Tally) -> Reply:
        session = current()
        record = Record(session.folder)
        tally.requests += 1
        if session.instead is not None:
            text = session.instead(request.messages, request.schema)
            read = estimate_tokens((*request.messages, Message("system", json.dumps(request.schema))))
            return Reply(text, tokens_in=read, tokens_out=estimate_tokens((Message("assistant", text),)))
        if session.settings.replay != "off":
            found = record.find(request)
            if found is not None:
                return found
        if session.settings.replay == "strict":
            raise ChatSetupError(
                f"The record in {record.folder} has no answer of {self.model} to this call ({request.digest}); "
                "run the same command without --replay strict to record it."
            )
        reply = await self._send(request, tally)
        price = price_of(self.model)
        cost = price.of(reply.tokens_in, reply.tokens_out, reply.tokens_cached) if price else 0.0
        await session.spent(reply.tokens_in + reply.tokens_out, cost)
        about = self.config.model_dump(include={"name", "model", "endpoint", "temperature", "max_tokens", "extra"})
        record.keep(request, reply, about)
        return reply

    @abstractmethod
    async def _send(self, request: Request, tally: Tally) -> Reply:
        """Gets an answer that is not in the record.

        Raises:
            LostAnswerError: If there is none.
            SpendingStoppedError: If the run may spend nothing more.
            ChatSetupError: If there can be none.
        """


class OpenAIChat(RecordedChat):
    """A `dgym.core.Chat` behind an OpenAI-compatible endpoint.

    Args:
        config: Which model, where, and how.
    """

    def __init__(self, config: ChatConfig) -> None:
        super().__init__(config)
        self._learnt = _learnt(config.place)
        self._endpoint = config.endpoint

    def check(self) -> None:
        """Asks the endpoint which models it has, so that what cannot work is said before anything is run.

        Raises:
            ChatSetupError: If there is no key, or a wrong one, if nobody answers, or if there is no such model.
        """
        _run(self._check())

    async def _reach(self) -> str:
        """Returns the endpoint's base URL, once it can be asked."""
        return self._endpoint

    @property
    def _elsewhere(self) -> str:
        """Where another endpoint can be named, for messages."""
        return "$OPENAI_BASE_URL (or the endpoint in chats.toml)"

    # One request ---------------------------------------------------------------------------------------------------

    async def _send(self, request: Request, tally: Tally) -> Reply:
        """Sends a request until it is answered, or until there is no use in sending it again."""
        session, config = current(), self.config
        limits = session.limiters.of(
            config.place, Rates(config.concurrency, config.requests_per_minute, config.tokens_per_minute)
        )
        tokens = estimate_tokens(request.messages) + min(config.max_tokens, 1000)
        ticket, deadline = await limits.ticket(), time.monotonic() + config.patience
        failures = refusals = 0
        while True:
            await session.may_spend()
            permit = await limits.acquire(ticket, tokens)
            outcome: Outcome = "other"
            wait: float | None = None
            try:
                tally.sent += 1
                reply = await self._ask(request)
                outcome = "ok"
                self._learnt.answered = True
                return reply
            except _RefusedError as error:
                outcome, wait, refusals = "refused", error.wait, refusals + 1
                if time.monotonic() > deadline:
                    raise LostAnswerError(
                        f"{self.model} answered 429 for {config.patience:g} s.", "rate-limited"
                    ) from None
            except _TransientError as error:
                outcome, wait, failures = "error", error.wait, failures + 1
                if failures > config.retries:
                    raise self._given_up(error) from None
            except _OtherwiseError:
                continue
            finally:
                await limits.release(permit, outcome, wait)
            tally.requests += 1
            # After a Retry-After the limiter holds everything back.
            await asyncio.sleep(0 if wait is not None else _backoff(failures + refusals))

    async def _ask(self, request: Request) -> Reply:
        """Sends one request."""
        import openai

        mode, endpoint = "plain" if request.schema == PLAIN else self._mode, await self._reach()
        body = self._body(request, mode)
        try:
            response = await self._client(endpoint).chat.completions.create(**body)
        except openai.RateLimitError as error:
            if "insufficient_quota" in (error.code, error.type) or "quota" in str(error.message).lower():
                raise ChatSetupError(
                    f"The quota of {self.model} is exhausted; add credit at the provider, or choose another model."
                ) from None
            raise _RefusedError(_retry_after(error)) from None
        except openai.APITimeoutError:
            raise _TransientError("timeout", f"no answer within {self.config.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _TransientError("connection", self._clean(one_line(error.__cause__ or error))) from None
        except openai.APIStatusError as error:
            raise self._by_status(error, mode, body) from None
        except (openai.APIError, ValueError) as error:  # a body that is no JSON, or no completion
            raise _TransientError("server-error", self._clean(one_line(error))) from None
        return _reply(response)

    def _by_status(self, error: openai.APIStatusError, mode: str, body: Mapping[str, Any]) -> Exception:
        """Returns what to raise for a status, neither success nor 429, that a body was answered with."""
        status, text = error.status_code, self._clean(" ".join(str(error.message).split()))[:300]
        if status in (401, 403):
            return ChatSetupError(
                f"{self._endpoint} does not accept the key in ${self.config.key} for {self.model} ({status}): "
                f"set ${self.config.key} to a valid key."
            )
        if status == 404:
            return ChatSetupError(
                f"{self._endpoint} has no model {self.config.model!r} (404): {text} "
                f"Name a model that it has, or set {self._elsewhere} to another endpoint."
            )
        if status >= 500 or status in (408, 409):
            return _TransientError("server-error", f"status {status}: {text}", _retry_after(error))
        if status in (400, 422) and self._adapt(text, mode, body):
            return _OtherwiseError()
        if "temperature" in text.lower() and "temperature" in body:
            return ChatSetupError(
                f"{self.model} does not take temperature {self.config.temperature:g}: {text} "
                "Set temperature in the file of language models (chats.toml)."
            )
        return LostAnswerError(f"{self.model} rejected the request ({status}): {text}", "rejected")

    def _adapt(self, text: str, mode: str, body: Mapping[str, Any]) -> bool:
        """Asks otherwise from now on, if the endpoint's complaint says how; returns whether it does.

        What the complaint is held against is the body that was sent: of many requests sent before the first complaint,
        each has to be sent again.
        """
        lower, learnt = text.lower(), self._learnt
        with learnt.lock:
            if "max_completion_tokens" in lower and "max_completion_tokens" in body:
                learnt.limit_field = "max_tokens"
                return True
            if "seed" in lower and "seed" in body:
                learnt.seeded = False
                return True
            if mode == "plain" and "temperature" in lower and "temperature" in body:
                learnt.tempered = False
                return True
            if self.config.structured == "auto" and mode in _MODES[:-1] and any(hint in lower for hint in _HINTS):
                if self._mode == mode:  # else another request was first
                    learnt.mode = _MODES[_MODES.index(mode) + 1]
                return True
        return False

    def _given_up(self, error: _TransientError) -> Exception:
        if error.reason == "connection" and not self._learnt.answered:
            return self._nobody(error.text)
        return LostAnswerError(f"{self.model} failed {self.config.retries + 1} times: {error.text}", error.reason)

    def _nobody(self, text: str) -> ChatSetupError:
        return ChatSetupError(
            f"Nobody answers at {self._endpoint} ({text}); start the server, or set {self._elsewhere} to its address."
        )

    # What is sent --------------------------------------------------------------------------------------------------

    @property
    def _mode(self) -> str:
        chosen = self.config.structured
        return (self._learnt.mode or "schema") if chosen == "auto" else chosen

    def _body(self, request: Request, mode: str) -> dict[str, Any]:
        messages = request.messages if mode == "schema" else in_words(request)
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [_as_sent(message) for message in messages],
            self._learnt.limit_field: self.config.max_tokens,
        }
        if mode != "plain" or self._learnt.tempered:
            body["temperature"] = self.config.temperature
        if self._learnt.seeded:
            body["seed"] = request.seed % 2**31  # some endpoints take 32 bits
        if mode == "schema":
            form = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif mode == "json":
            body["response_format"] = {"type": "json_object"}
        if self.config.extra:
            body["extra_body"] = self.config.extra
        return body

    def _client(self, endpoint: str) -> openai.AsyncOpenAI:
        secret = self.config.secret()
        if not secret and endpoint == OPENAI:
            raise ChatSetupError(
                f"There is no key for {self.model}: set ${self.config.key}, or set $OPENAI_BASE_URL to an endpoint "
                "that needs none."
            )
        return _client(endpoint, secret or "none", self.config.timeout)

    async def _check(self) -> None:
        import openai

        endpoint = await self._reach()
        try:
            page = await self._client(endpoint).models.list(timeout=min(20.0, self.config.timeout))
            known = [model.id for model in page.data or ()]
        except openai.APIConnectionError as error:
            raise self._nobody(self._clean(one_line(error.__cause__ or error))) from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._by_status(error, "", {}) from None
            return  # not every endpoint lists its models
        except (openai.APIError, ValueError, TypeError, AttributeError):
            return
        if known and self.config.model not in known:
            import difflib

            near = difflib.get_close_matches(self.config.model, known, n=1, cutoff=0.3)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ChatSetupError(
                f"{endpoint} has no model {self.config.model!r}. {hint}It has: "
                f"{', '.join(sorted(known)[:8])}{', ...' if len(known) > 8 else ''}."
            )

    def _clean(self, text: str) -> str:
        """Takes the key out of what an endpoint said."""
        secret = self.config.secret()
        return text.replace(secret, "***") if secret else text


class _RefusedError(Exception):
    """429."""

    def __init__(self, wait: float | None) -> None:
        super().__init__()
        self.wait = wait


class _TransientError(Exception):
    """May go away."""

    def __init__(self, reason: str, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.reason, self.text, self.wait = reason, text, wait


class _OtherwiseError(Exception):
    """The request is to be sent again in another form."""


# What is made of an answer -----------------------------------------------------------------------------------------


def _value(reply: Reply, schema: Mapping[str, Any]) -> Any:
    """Reads the JSON value out of an answer.

    Raises:
        LostAnswerError: With the reason, and words for a repair.
    """
    if reply.refusal or reply.finish == "content_filter":
        raise LostAnswerError(f"The model declined: {reply.refusal[:200] or 'filtered'}", "refused")
    if not reply.text.strip():
        raise LostAnswerError("The answer was empty.", "empty")
    try:
        value = extract(reply.text)
    except ValueError as error:
        if reply.finish == "length":
            raise LostAnswerError("The answer was cut at the token limit; answer more briefly.", "truncated") from error
        raise LostAnswerError(f"The answer is no JSON: {error}.", "no-json") from error
    wrong = misfit(value, schema)
    if wrong:
        reason = "truncated" if reply.finish == "length" else "invalid"
        raise LostAnswerError(f"The JSON does not fit the schema, {wrong}.", reason)
    return value


def _repair(why: str) -> str:
    return f"{why} Answer again, with JSON that fits the schema and nothing else."


def in_words(request: Request) -> Sequence[Message]:
    """Returns a request's messages, with the schema in words at the end of the last one unless it is plain text."""
    if request.schema == PLAIN:
        return request.messages
    schema = json.dumps(request.schema, ensure_ascii=False)
    last = request.messages[-1]
    said = f"{last.content}\n\n{IN_WORDS}\n{schema}"
    return (*request.messages[:-1], Message(last.role, said, last.images))


def _as_sent(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}]
    for image in message.images:
        kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": message.role, "content": parts}


def _reply(response: Any) -> Reply:
    """Reads a completion, of which endpoints leave out what they like."""
    choices = getattr(response, "choices", None)
    if not choices:
        raise _TransientError("server-error", "a completion without choices")
    first, usage = choices[0], getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text=str(getattr(first.message, "content", "") or ""),
        finish=str(first.finish_reason or "stop"),
        refusal=str(getattr(first.message, "refusal", "") or ""),
        tokens_in=int(getattr(usage, "prompt_tokens", 0) or 0),
        tokens_out=int(getattr(usage, "completion_tokens", 0) or 0),
        tokens_cached=int(getattr(details, "cached_tokens", 0) or 0),
        model=str(getattr(response, "model", "") or ""),
    )


def _retry_after(error: openai.APIStatusError) -> float | None:
    for header, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return min(_LONGEST_WAIT, float(error.response.headers[header]) * scale)
        except (KeyError, ValueError):
            continue
    return None


def _backoff(failures: int) -> float:
    first, longest = _BACKOFF
    # Not the global generator, which belongs to nobody else.
    return float(min(longest, first * 2 ** min(failures - 1, 10)) * _JITTER.uniform(0.5, 1.5))


_JITTER: Final = random.Random()


# One event loop and one client per process -------------------------------------------------------------------------


_LOOP_LOCK: Final = threading.Lock()
_LOOPS: Final[list[asyncio.AbstractEventLoop]] = []


def _loop() -> asyncio.AbstractEventLoop:
    with _LOOP_LOCK:  # the first calls come from many threads at once
        if not _LOOPS:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="dgym-chat", daemon=True).start()
            _LOOPS.append(loop)
        return _LOOPS[0]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the process's chat loop and waits for it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@lru_cache(maxsize=32)
def _client(endpoint: str, secret: str, timeout: float) -> openai.AsyncOpenAI:
    import openai

    # Nothing on this machine is reached through a proxy, whatever the environment says.
    direct = openai.DefaultAsyncHttpxClient(trust_env=False) if _is_here(endpoint) else None
    # Retries are ours: the limiter has to know of every request.
    return openai.AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=timeout, max_retries=0, http_client=direct)


def _is_here(endpoint: str) -> bool:
    return urlsplit(endpoint).hostname in ("127.0.0.1", "localhost", "::1")


_LEARNT: Final[dict[str, _Learnt]] = {}


def _learnt(place: str) -> _Learnt:
    return _LEARNT.setdefault(place, _Learnt())
