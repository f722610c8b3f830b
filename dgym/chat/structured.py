"""Getting JSON of a known form out of a language model's text, and telling it what was wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from dgym.chat.errors import LostAnswerError
from dgym.core import Chat, Message

M = TypeVar("M", bound=BaseModel)

_FENCE: Final = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_DROPPED: Final = frozenset({"title", "default"})  # which strict structured output does not take


def ask(chat: Chat, messages: Sequence[Message], kind: type[M], seed: int) -> M:
    """Asks a language model for a record.

    Args:
        chat: Whom to ask.
        messages: What to ask.
        kind: The record, a pydantic model; its schema is what the model is held to.
        seed: The call's random seed.

    Raises:
        LostAnswerError: If the model gives no such record, even when told what was wrong.
    """
    value = chat.complete(messages, schema_of(kind), seed)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise LostAnswerError(f"The answer is no {kind.__name__}: {' '.join(str(error).split())[:200]}") from error


@lru_cache(maxsize=64)
def schema_of(kind: type[BaseModel]) -> Mapping[str, Any]:
    """Returns a record's JSON schema as strict structured output takes it: all fields required, no others."""
    schema: dict[str, Any] = _strict(kind.model_json_schema())
    return schema


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    out = {key: _strict(value) for key, value in node.items() if key not in _DROPPED or isinstance(value, dict)}
    if out.get("type") == "object" and "properties" in out:
        out |= {"required": list(out["properties"]), "additionalProperties": False}
    return out


def extract(text: str) -> Any:
    """Finds the JSON value in a model's text: all of it, what a fence holds, or the first object or array.

    Raises:
        ValueError: If there is none.
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[{\[]", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) or value:
            return value
    raise ValueError("there is no JSON in it")


def misfit(value: Any, schema: Mapping[str, Any]) -> str:
    """Says in one line how a value fails a JSON schema; empty if it does not."""
    import jsonschema

    # Checked schema by schema rather than once: `best_match` names the place that matters.
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    if error is None:
        return ""
    place = "/".join(str(part) for part in error.absolute_path)
    return f"at {place or 'the top'}: {error.message[:300]}"
