"""What is registered, in one sentence each: for `dgym ls` and for the table in the README."""

from __future__ import annotations

import inspect

from dgym import registry
from dgym.errors import DgymError, one_line, unknown_name
from dgym.specs import load_suite, suite_files

_KINDS = ("teacher", "environment", "domain", "student", "chat", "sandbox")  # a backend may import Ray


def listing(kind: str = "") -> dict[str, dict[str, str]]:
    """Returns names and first sentences by kind (plural).

    Args:
        kind: `"teachers"`, `"teacher"`, ..., `"suites"`; all kinds when empty.

    Raises:
        UsageError: If there is no such kind.
    """
    plurals = {k: registry.group(k).removeprefix("dgym.") for k in _KINDS}
    found = {plurals[k]: {name: _sentence(k, name) for name in registry.names(k)} for k in _KINDS}
    found["suites"] = {name: load_suite(name).description for name in suite_files()}
    if not kind:
        return found
    plural = plurals.get(kind, kind if kind.endswith("s") else f"{kind}s")
    if plural not in found:
        raise unknown_name("kind", kind, found)
    return {plural: found[plural]}


def _sentence(kind: str, name: str) -> str:
    try:
        text = inspect.getdoc(registry.load(kind, name)) or ""
    except DgymError as error:
        return one_line(error)
    return " ".join(text.partition("\n\n")[0].split())
