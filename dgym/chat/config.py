"""Which language model is asked, where, and how: a small frozen config, from a name or from a file."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dgym.core import digest
from dgym.errors import UsageError

OPENAI: Final = "https://api.openai.com/v1"
"""The endpoint of `openai:MODEL` where `$OPENAI_BASE_URL` names no other."""

FILE: Final = "chats.toml"
"""The file of configs in the working folder; `$DGYM_CHATS` names another."""

Structured = Literal["auto", "schema", "json", "text"]


class ChatConfig(BaseModel):
    """One language model behind an OpenAI-compatible endpoint.

    Attributes:
        name: What tables and caches call it, such as `"openai:gpt-4o"`.
        model: What the endpoint calls it.
        endpoint: Base URL, ending in `/v1` as a rule.
        key: Name of the environment variable that holds the key; the key itself stands nowhere.
        temperature: Of sampling; 0 is greedy.
        max_tokens: Most tokens of one answer.
        structured: How JSON is got: `schema` has the endpoint hold the model to the schema, `json` to JSON,
            `text` asks for it in words; `auto` tries them in this order.
        timeout: Seconds until a request is given up.
        retries: How often a request is sent again after a 5xx, a time-out or a lost connection.
        patience: Seconds for which a request is sent again after 429.
        concurrency: Requests in flight at first; the limiter finds the rest.
        requests_per_minute: As the endpoint has it, if so.
        tokens_per_minute: As the endpoint has it, if so.
        extra: Further fields of the request's body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    model: str = Field(min_length=1)
    endpoint: str = OPENAI
    key: str = "OPENAI_API_KEY"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=4096, ge=1)
    structured: Structured = "auto"
    timeout: float = Field(default=120.0, gt=0)
    retries: int = Field(default=6, ge=0)
    patience: float = Field(default=600.0, ge=0)
    concurrency: int = Field(default=20, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    extra: dict[str, Any] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identifies all that can move an answer."""
        names = ("model", "endpoint", "temperature", "max_tokens", "structured", "extra")
        return digest({name: getattr(self, name) for name in names})

    @property
    def place(self) -> str:
        """The endpoint and model that limits are shared by."""
        return f"{self.endpoint} {self.model}"

    def secret(self) -> str:
        """Returns the key; empty where there is none."""
        return os.environ.get(self.key, "").strip()


def chat_file() -> Path | None:
    """Returns the file of configs, if there is one."""
    named = os.environ.get("DGYM_CHATS")
    if named:
        return Path(named)
    return Path(FILE) if Path(FILE).is_file() else None


def configured() -> Mapping[str, ChatConfig]:
    """Returns the configs of the file by name; none without a file.

    Raises:
        UsageError: If the file cannot be read or is malformed.
    """
    path = chat_file()
    if path is None:
        return {}
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The file of language models {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The file of language models {path} is not valid TOML: {error}.") from error
    return {name: _config(path, name, row) for name, row in rows.items()}


def _config(path: Path, name: str, row: Any) -> ChatConfig:
    if not isinstance(row, dict):
        raise UsageError(f'{path}: {name!r} must be a table: [{name}] and below it model = "...", endpoint = "...".')
    try:
        return ChatConfig.model_validate({"name": name} | row)
    except ValidationError as error:
        # A misspelt field first: another then seems missing.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        field = ".".join(str(part) for part in first["loc"])
        near = difflib.get_close_matches(field, ChatConfig.model_fields, n=1)
        if first["type"] == "extra_forbidden":
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{path}, [{name}]: unknown field {field!r}.{hint}") from error
        raise UsageError(f"{path}, [{name}], field {field!r}: {first['msg']}.") from error
