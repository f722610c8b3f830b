"""Prompt files: Jinja templates in a folder, rendered strictly and hashed into digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dgym.core import digest


class Prompts:
    """The `*.txt` templates of a folder. A name that is not given is an error, not an empty string.

    Nothing is escaped: this is no HTML. The filter `json` sets a value's text apart from the prompt's own.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """Returns every template's text by name, without the ending."""
        return {path.stem: path.read_text(encoding="utf-8") for path in sorted(self._folder.glob("*.txt"))}

    @property
    def digest(self) -> str:
        """Identifies the texts of all templates."""
        return digest(dict(self.texts))

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Renders a template.

        Raises:
            KeyError: If there is no such template.
            jinja2.UndefinedError: If it uses a name that is not among the values.
        """
        return str(self._templates[name].render(values)).strip()

    @cached_property
    def _templates(self) -> Mapping[str, Any]:
        from jinja2 import Environment, StrictUndefined

        environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=False)
        environment.filters["json"] = _as_json
        return {name: environment.from_string(text) for name, text in self.texts.items()}


def _as_json(value: Any) -> str:
    from jinja2 import Undefined

    # The text of an undefined value raises; JSON knows nothing of it.
    return json.dumps(str(value) if isinstance(value, Undefined) else value, ensure_ascii=False)
