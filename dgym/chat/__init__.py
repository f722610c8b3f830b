"""The language-model client: structured output, a record of every answer, limits, cost.

A model is named `provider:MODEL`, such as `openai:gpt-4o`, by an entry of the file of language models
(`chats.toml`), or as `path/to/file.py:Attr`. What this package does not know: teachers, domains, students.
"""

from __future__ import annotations

import os
from typing import Any

from dgym import registry
from dgym.chat.config import OPENAI, ChatConfig, configured
from dgym.core import Chat
from dgym.errors import UsageError, unknown_name


def find_chat(name: str) -> Chat:
    """Makes a language model by name; nobody is called yet.

    Args:
        name: An entry of the file of language models; a registered provider, with `:MODEL` where it has several;
            or `path/to/file.py:Attr` for a class, a factory or an object.

    Raises:
        UsageError: If there is no such name, or if it cannot be made.
    """
    provider, _, model = name.partition(":")
    if not registry.is_file(name):
        entries = configured()
        if name in entries:
            from dgym.chat.client import OpenAIChat

            return OpenAIChat(entries[name])
        if provider not in registry.names("chat"):
            raise unknown_name("language model", name, [*entries, *registry.names("chat")])
    what = f"language model {name!r}"
    if registry.is_file(name):
        chat: Chat = registry.make("chat", name, Chat, what)
    else:
        chat = registry.make("chat", provider, Chat, what, **({"model": model} if model else {}))
    return chat


def is_chat(name: str) -> bool:
    """Whether a name is of the form that `find_chat` takes: `provider:MODEL`, or an entry of the file."""
    provider, colon, model = name.partition(":")
    return bool(colon and model and provider in registry.names("chat")) or name in configured()


def openai(model: str = "") -> Chat:
    """The provider `openai`: any OpenAI-compatible endpoint.

    `$OPENAI_BASE_URL` is the endpoint, OpenAI's own unless set; `$OPENAI_API_KEY` holds the key.

    Raises:
        UsageError: If no model is named.
    """
    if not model:
        raise UsageError("Name a model: openai:MODEL, such as openai:gpt-4o-mini.")
    from dgym.chat.client import OpenAIChat

    endpoint = os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI
    return OpenAIChat(ChatConfig(name=f"openai:{model}", model=model, endpoint=endpoint))


def digest_of(chat: Any) -> str:
    """Identifies a language model for digests: all that can move its answers, as far as it says."""
    return str(getattr(chat, "digest", "") or chat.model)
