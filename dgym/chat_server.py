"""A test server that speaks OpenAI's protocol over real HTTP and answers as the stand-in does, faults included.

    dgym serve --port 8000
    OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=any dgym run --teacher openai:stand-in

It is for tests, for the README, and for trying out what a teacher does when its model misbehaves. Who asks for plain
text, as a student is asked, gets the answer to the problem from the generators. It listens on the loopback address
only.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from dgym.chat.client import IN_WORDS
from dgym.core import SPLITS, Message
from dgym.domains import make_domain
from dgym.domains.procedural import ProceduralDomain
from dgym.errors import DgymError, UsageError, one_line, unknown_name
from dgym.teachers.stand_in import StandIn

FAULTS: Final = (
    "429",
    "429-retry-after",
    "500",
    "hang",
    "cut",
    "truncated",
    "schema",
    "wrong",
    "refusal",
    "prose",
)
"""What can go wrong: refused without and with Retry-After, an error, no answer, a connection cut in the middle, JSON
cut off, JSON of another form, wrong answers, a refusal, prose instead of JSON."""

_HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Manner:
    """How the server behaves.

    Attributes:
        model: The one model that it has; empty for any that it is asked for.
        key: The key that it demands; empty takes any.
        faults: Which faults it shows, in turn.
        every: Every so many requests one is faulty, if there are faults.
        capacity: Most requests in flight; beyond, it answers 429. `None` for no limit.
        latency: Seconds that an answer takes.
        hang: Seconds for which a request hangs.
        retry_after: What Retry-After says, in seconds.
        structured: What it holds the model to: `"schema"`, `"json"`, or `"text"` for nothing.
        quota: Answers left until the quota is exhausted; `None` for no end.
        rejects: Fields of a request's body that it does not take.
    """

    model: str = "stand-in"
    key: str = ""
    faults: tuple[str, ...] = ()
    every: int = 3
    capacity: int | None = None
    latency: float = 0.0
    hang: float = 30.0
    retry_after: float = 0.2
    structured: str = "schema"
    quota: int | None = None
    rejects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for fault in self.faults:
            if fault not in FAULTS:
                raise unknown_name("fault", fault, FAULTS)
        if self.every < 1 or (self.capacity is not None and self.capacity < 1):
            raise UsageError("every and capacity must be at least 1.")


@dataclass
class Seen:
    """What the server has seen.

    Attributes:
        requests: Requests for completions.
        answered: How many were answered well.
        faults: Faults shown, by name; `"full"` are those refused beyond the capacity.
        in_flight: Requests just now.
        most: Most requests at a time, refused ones left out.
        bodies: The latest requests' bodies.
    """

    requests: int = 0
    answered: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)


class ChatServer:
    """The server; a context manager that listens while inside.

    Args:
        manner: How it behaves.
        port: Where it listens; 0 for any free port.

    Attributes:
        seen: What it has seen.

    Raises:
        UsageError: If the port is taken.
    """

    def __init__(self, manner: Manner | None = None, port: int = 0) -> None:
        self.manner, self.seen, self.lock = manner or Manner(), Seen(), threading.Lock()
        self.stand_in = StandIn()
        self.closing = threading.Event()
        try:
            self._http = _Http((_HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"Port {port} cannot be listened at: {error.strerror}. Name another with --port."
            ) from error
        self._http.server = self

    @property
    def url(self) -> str:
        """The base URL, for `$OPENAI_BASE_URL`."""
        return f"http://{_HOST}:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.serve, name="dgym-chat-server", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def serve(self) -> None:
        """Serves until it is shut down."""
        self._http.serve_forever(poll_interval=0.05)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    server: ChatServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps quiet about clients that have gone, killed ones among them."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keeps the terminal quiet."""

    def parse_request(self) -> bool:
        """Hangs up once the server is shut down, on connections that were kept alive too."""
        if self.server.server.closing.is_set():
            self.close_connection = True
            return False
        return super().parse_request()

    def do_GET(self) -> None:
        """Lists the one model; says that it is well to whoever asks for `/health`, as vLLM does."""
        if self.path == "/health":
            self._send(200, {})
            return
        if self._refused_key():
            return
        names = [self._manner.model] if self._manner.model else []
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "dgym"} for name in names]
        self._send(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        """Answers a completion, or shows a fault."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except ValueError:
            self._error(400, "The body is no JSON.", "invalid_request_error")
            return
        if self._refused_key():
            return
        if not self.path.endswith("/chat/completions"):
            self._error(404, f"Unknown path {self.path}.", "invalid_request_error")
        elif self._manner.model and body.get("model") != self._manner.model:
            self._error(404, f"The model {body.get('model')!r} does not exist.", "model_not_found")
        else:
            self._complete(body)

    # ----------------------------------------------------------------------------------------------------------

    @property
    def _manner(self) -> Manner:
        return self.server.server.manner

    def _complete(self, body: dict[str, Any]) -> None:
        owner, manner = self.server.server, self._manner
        seen = owner.seen
        with owner.lock:
            seen.requests += 1
            seen.bodies = [*seen.bodies[-9:], body]
            number, full = seen.requests, manner.capacity is not None and seen.in_flight >= manner.capacity
            if not full:
                seen.in_flight += 1
                seen.most = max(seen.most, seen.in_flight)
        if full:
            self._fault("full")
            self._error(429, "Too many requests in flight.", "rate_limit_exceeded")
            return
        try:
            turn, odd = divmod(number, manner.every)
            fault = manner.faults[(turn - 1) % len(manner.faults)] if manner.faults and odd == 0 else ""
            self._answer(body, fault)
        finally:
            with owner.lock:
                seen.in_flight -= 1

    def _answer(self, body: Mapping[str, Any], fault: str) -> None:
        owner, manner = self.server.server, self._manner
        if fault:
            self._fault(fault)
        if fault.startswith("429"):
            header = {"Retry-After": f"{manner.retry_after:g}"} if fault == "429-retry-after" else {}
            self._error(429, "Slow down.", "rate_limit_exceeded", header)
            return
        if fault == "500":
            self._error(500, "Something broke.", "server_error")
            return
        if fault == "hang":
            owner.closing.wait(manner.hang)
            self.close_connection = True
            return
        for name in manner.rejects:
            if name in body:
                self._error(400, f"Unsupported parameter: {name!r} with this model.", "invalid_request_error")
                return
        form = (body.get("response_format") or {}).get("type", "text")
        if {"json_schema": 2, "json_object": 1}.get(form, 0) > {"schema": 2, "json": 1, "text": 0}[manner.structured]:
            self._error(400, f"response_format of type {form} is not supported.", "invalid_request_error")
            return
        with owner.lock:
            spent = manner.quota is not None and owner.seen.answered >= manner.quota
        if spent:
            self._error(429, "You exceeded your current quota.", "insufficient_quota")
            return
        owner.closing.wait(manner.latency)
        try:
            said, schema = _read(body)
            if schema is None:
                text, finish = _cut(_solution(said[-1]) if fault != "wrong" else _UNKNOWN, body)
            else:
                value = owner.stand_in.answer(said, schema, int(body.get("seed") or 0), wrong=fault == "wrong")
                text, finish = json.dumps(value, ensure_ascii=False), "stop"
        except (DgymError, KeyError, TypeError, ValueError) as error:
            self._error(400, one_line(error), "invalid_request_error")
            return
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if fault == "truncated":
            message["content"], finish = text[: len(text) // 2], "length"
        elif fault == "schema":
            message["content"] = json.dumps({"answer": 42})
        elif fault == "prose":
            message["content"] = "Certainly! Here are some thoughts on how one might go about this."
        elif fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        read = sum(len(m.content) // 4 + 4 for m in said)
        written = len(str(message["content"])) // 4
        answer = {
            "id": "chatcmpl-dgym",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": manner.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }
        if not fault:
            with owner.lock:
                owner.seen.answered += 1
        self._send(200, answer, cut=fault == "cut")

    def _fault(self, name: str) -> None:
        with self.server.server.lock:
            self.server.server.seen.faults[name] += 1

    def _refused_key(self) -> bool:
        key = self._manner.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            self._error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
            return True
        return False

    def _error(self, status: int, text: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        kind = code if status == 429 else "invalid_request_error"
        self._send(status, {"error": {"message": text, "type": kind, "code": code, "param": None}}, headers)

    def _send(self, status: int, value: Any, headers: Mapping[str, str] | None = None, *, cut: bool = False) -> None:
        data = json.dumps(value).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
        except OSError:  # whoever asked has gone
            self.close_connection = True


def _read(body: Mapping[str, Any]) -> tuple[list[Message], Mapping[str, Any] | None]:
    """Returns the messages of a request, and the schema that its answer must fit; `None` for plain text."""
    said = [_message(m) for m in body["messages"]]
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return said, form["json_schema"]["schema"]
    _, asked_in_words, schema = said[-1].content.rpartition(f"\n{IN_WORDS}\n")
    return said, json.loads(schema) if asked_in_words or form else None


_UNKNOWN: Final = "I do not know."
_ASKED: Final = ("math", "code", "tools", "vqa")


def _solution(asked: Message) -> str:
    """Solves a problem of one of the domains; it does not know any other."""
    for split in SPLITS:
        for problem in make_domain("fake").problems(split):
            if problem.prompt == asked.content:
                return str(problem.reference)
    for name in _ASKED:
        domain = make_domain(name)
        task = domain.recognise(asked.content, asked.images) if isinstance(domain, ProceduralDomain) else None
        if task is not None:
            return task.answer
    return _UNKNOWN


def _cut(text: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Cuts a text at the request's limit of tokens, and says why it ends."""
    limit = 4 * int(body.get("max_completion_tokens") or body.get("max_tokens") or len(text))
    return (text[:limit], "length") if len(text) > limit else (text, "stop")


def _message(sent: Mapping[str, Any]) -> Message:
    content = sent["content"]
    if isinstance(content, str):
        return Message(sent["role"], content)
    parts: Sequence[Mapping[str, Any]] = content
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return Message(sent["role"], text, tuple(base64.b64decode(url.partition(",")[2]) for url in urls))
