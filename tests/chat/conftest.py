"""The test server and a client of it, each test with a record of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgym.chat import session
from dgym.chat.client import OpenAIChat
from dgym.chat.config import ChatConfig
from dgym.chat_server import ChatServer, Manner
from dgym.core import Message

KIND = {
    "type": "object",
    "properties": {"categories": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
    "required": ["categories"],
    "additionalProperties": False,
}
ASKED = [Message("user", '{"label": "adding"}\n{"label": "counting"}\n{"label": "sorting"}')]
ANSWER = {"categories": ["adding", "counting"]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgym.chat.client._BACKOFF", (0.005, 0.02))


@pytest.fixture(autouse=True)
def _own_session(tmp_path: Path) -> Iterator[None]:
    with session.use(session.Session(session.Settings(record=str(tmp_path / "record")))):
        yield


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts servers and returns each with a client of it."""
    running: list[ChatServer] = []

    def start(client: dict[str, Any] | None = None, **manner: Any) -> tuple[ChatServer, OpenAIChat]:
        server = ChatServer(Manner(**manner))
        running.append(server)
        server.__enter__()
        config = {"name": "openai:stand-in", "model": "stand-in", "endpoint": server.url, "key": "DGYM_TEST_KEY"}
        return server, OpenAIChat(ChatConfig.model_validate(config | (client or {})))

    yield start
    for server in running:
        server.__exit__()
