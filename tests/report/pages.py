"""Reading a page without a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """The elements of a page that tests ask for.

    Attributes:
        tables: The cells of every table, row by row, as text.
        elements: Every element with its attributes.
        scripts: Type and content of every script.
        text: All that is not script or style.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text = ""
        self._in: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self.scripts.append((dict(attributes).get("type") or "", ""))
        if tag in ("td", "th", "script", "style"):
            self._in.append(tag)

    def handle_endtag(self, tag):
        if self._in and self._in[-1] == tag:
            self._in.pop()

    def handle_data(self, data):
        inside = self._in[-1] if self._in else ""
        if inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if inside == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = (kind, before + data)
        elif inside != "style":
            self.text += data

    @property
    def data(self):
        """What the charts are drawn from."""
        (found,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(found)

    def table(self, first):
        """The one table whose head begins with some columns."""
        (found,) = [t for t in self.tables if t[0][: len(first)] == list(first)]
        return found
